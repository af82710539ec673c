"""What a distribution's ``log_prob`` promises.

=============== ==================================================================================
``exact``       the log-density itself
``lower_bound`` a random number whose expectation is at most the log-density
``estimate``    a number near the log-density, on neither side for certain
``implicit``    nothing: the distribution can be sampled, not scored
=============== ==================================================================================
"""

from collections.abc import Iterable
from typing import Literal, get_args

from torch.distributions import Distribution

Density = Literal["exact", "lower_bound", "estimate", "implicit"]


def density_of(distribution: Distribution) -> Density:
    """Returns the promise of a distribution, looking through ``to_event``, ``mask`` and ``expand``.

    Args:
        distribution: Any distribution; one that says nothing is exact, as those of Pyro and torch are.
    """
    while not hasattr(distribution, "density") and hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return getattr(distribution, "density", "exact")


def weakest(distributions: Iterable[Distribution]) -> Density:
    """Returns what a density made of those of several distributions promises: no more than the weakest of them."""
    return max((density_of(p) for p in distributions), key=get_args(Density).index)
