r"""Sequences of which some steps are not observed, marked by NaN.

.. math::
    \log p(x) = \sum_{t \text{ observed}} \log p(x_t)

is the log-density of the steps that are observed, the others being integrated out, which for independent steps means:
left out. Padding at the end of a shorter sequence is the usual case, gaps are another. A step counts as observed if
none of its numbers is NaN.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to

from .missing import PossiblyMissing, has_missing
from .promise import Density, density_of


def steps_or_missing(step: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    """Returns where sequences live whose steps, of so many dimensions, satisfy a constraint, or are missing."""
    extra = event_dim - step.event_dim
    return constraints.independent(PossiblyMissing(constraints.independent(step, extra) if extra > 0 else step), 1)


class Steps(dist.TorchDistribution):
    r"""Independent steps, of which data may lack some.

    Args:
        base: The distributions of the steps, with batch shape ``batch_shape + (T,)``; samples lack none.

    Example:
        >>> p = Steps(dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))
        >>> p.log_prob(torch.tensor([[0.0, 0.0], [torch.nan, torch.nan], [torch.nan, 0.0]]))
        tensor(-1.8379)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, base: Distribution, validate_args: bool | None = None) -> None:
        self.base = base
        shape = base.batch_shape
        super().__init__(shape[:-1], shape[-1:] + base.event_shape, validate_args=validate_args)

    @property
    def density(self) -> Density:
        """What the steps' densities promise."""
        return density_of(self.base)

    @property
    def has_rsample(self) -> bool:
        """Whether the steps are reparameterised."""
        return self.base.has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where sequences live, NaN for missing steps included."""
        return steps_or_missing(self.base.support, len(self.base.event_shape))

    @property
    def mean(self) -> Tensor:
        """The means of all steps."""
        return self.base.mean

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Steps":
        """Returns the distribution with a larger batch shape."""
        shape = torch.Size(batch_shape) + self.event_shape[:1]
        return Steps(self.base.expand(shape), validate_args=self._validate_args)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws all steps."""
        return self.base.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws all steps."""
        return self.base.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density of the observed steps in nats, with shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        value, observed = observed_steps(value, self.base.support, len(self.base.event_shape))
        return torch.where(observed, self.base.log_prob(value), 0.0).sum(-1)


def observed_steps(x: Tensor, support: constraints.Constraint, event_dim: int) -> tuple[Tensor, Tensor]:
    """Returns sequences with something in the support in place of missing steps, and which steps are observed."""
    observed = ~has_missing(x, event_dim)
    filling = torch.zeros_like(x)
    if isinstance(support, type(constraints.one_hot)):
        filling[..., 0] = 1
    elif not support.is_discrete:
        filling = transform_to(support)(filling)
    return torch.where(observed.reshape(*observed.shape, *[1] * event_dim), x, filling), observed
