r"""The distribution of a Markov chain after a while: easy to sample, with no density.

.. math::
    s_0 \sim q(s_0), \qquad s_{t+1} \sim T(s_{t+1} | s_t), \qquad x = f(s_t), \quad t = B, B + T, B + 2T, \dots

Where the chain is ergodic, the distribution of :math:`s_t` forgets its start and tends to the one distribution that the
transition leaves as it is, :math:`\pi(s') = \int T(s' | s)\, \pi(s)\, ds`. The first B states, the burn-in, are thrown
away, and of those that follow one in every T is kept. Nothing here knows whether B was enough: look at
:func:`pyro_dgm.evaluation.chain_diagnostics` of :meth:`MarkovChain.run`. (Robert and Casella, Monte Carlo Statistical
Methods, 2004.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .promise import Density


def _itself(state: Any) -> Any:
    return state


class MarkovChain(dist.TorchDistribution):
    """The distribution of the states of a Markov chain, which many chains side by side sample.

    Args:
        initial: Draws the starts: from a shape to states of that shape, ``shape`` being first in every tensor of them.
        transition: Takes all states one step further.
        event_shape: Shape of one x.
        batch_shape: Shape of a batch of chains with different transitions, which broadcast to it.
        support: Where x lives.
        read: Returns x of a state, with shape ``shape + event_shape``; the state itself when ``None``.
        burn_in: Number B of first states that are thrown away.
        thinning: Steps T between two draws of one chain.
        chains: Number of chains that share the draws of a sample, which then depend on each other within a chain;
            a chain for each draw when ``None``, and draws are independent.

    Attributes:
        density: ``"implicit"``.

    Raises:
        ValueError: If a number of steps or of chains is not possible.

    Example:
        >>> walk = MarkovChain(torch.zeros, lambda x: 0.5 * x + torch.randn_like(x), (), burn_in=20)
        >>> walk.sample((1000,)).shape, walk.run(50, chains=4).shape
        (torch.Size([1000]), torch.Size([4, 50]))
    """

    density: Density = "implicit"
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        initial: Callable[[torch.Size], Any],
        transition: Callable[[Any], Any],
        event_shape: Sequence[int],
        batch_shape: Sequence[int] = (),
        support: constraints.Constraint = constraints.real,
        read: Callable[[Any], Tensor] | None = None,
        *,
        burn_in: int = 100,
        thinning: int = 1,
        chains: int | None = None,
    ) -> None:
        if burn_in < 0 or thinning < 1 or (chains is not None and chains < 1):
            raise ValueError(
                "burn_in, thinning, chains: expected at least 0, at least 1, and at least 1 or None, got "
                f"{burn_in}, {thinning} and {chains}"
            )
        self.initial, self.transition, self.read = initial, transition, read or _itself
        self.burn_in, self.thinning, self.chains = burn_in, thinning, chains
        extra = len(event_shape) - support.event_dim
        self._support = constraints.independent(support, extra) if extra > 0 else support
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where x lives."""
        return self._support

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "MarkovChain":
        """Returns the distribution with a larger batch shape, of as many more chains."""
        return MarkovChain(
            self.initial, self.transition, self.event_shape, torch.Size(batch_shape), self._support, self.read,
            burn_in=self.burn_in, thinning=self.thinning, chains=self.chains,
        )  # fmt: skip

    @torch.no_grad()
    def run(self, draws: int, chains: int = 1) -> Tensor:
        """Runs chains from their starts and returns what they visit, in order.

        Args:
            draws: Draws from each chain, ``thinning`` steps apart, the first after ``burn_in`` steps.
            chains: Number of chains.

        Returns:
            The draws, with shape ``(chains, draws) + batch_shape + event_shape``.

        Raises:
            ValueError: If there is no draw, or no chain.
        """
        if draws < 1 or chains < 1:
            raise ValueError(f"draws, chains: expected at least 1, got {draws} and {chains}")
        state = self.initial(torch.Size((chains, *self.batch_shape)))
        for _ in range(self.burn_in):
            state = self.transition(state)
        seen = [self.read(state)]
        for _ in range(draws - 1):
            for _ in range(self.thinning):
                state = self.transition(state)
            seen.append(self.read(state))
        return torch.stack(seen, 1)

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws, with shape ``sample_shape + batch_shape + event_shape``; those of a chain follow each other."""
        shape = torch.Size(sample_shape)
        number = max(shape.numel(), 1)
        chains = min(self.chains or number, number)
        x = self.run(-(-number // chains), chains).flatten(0, 1)[: shape.numel()]
        return x.reshape(shape + x.shape[1:])

    def as_sites(self, name: str) -> Tensor:
        """Samples within a Pyro program, as a site that nothing can be scored by."""
        return pyro.sample(name, self)

    def log_prob(self, value: Tensor) -> NoReturn:
        """Raises: the distribution that a chain tends to has no density that is known.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "log_prob: a Markov chain can be sampled, and has no density; compare its samples with data by "
            "pyro_dgm.evaluation.c2st or mmd, judge its mixing by pyro_dgm.evaluation.chain_diagnostics, or learn a "
            "density (a flow, a VAE) where one is needed"
        )
