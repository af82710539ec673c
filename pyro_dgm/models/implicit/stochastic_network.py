r"""Models that are the transition of a Markov chain; the limit of the chain is what they model.

.. math::
    h_{t+1} \sim p(h \,|\, h_t, x_t, c), \qquad x_{t+1} \sim p(x \,|\, h_{t+1}, c)

What they have in common, whatever the two halves: a walk away from data, by which they are trained, and chains that
sample and fill in. (Alain, Bengio, Yao, Yosinski, Thibodeau-Laufer, Zhang and Vincent, GSNs: Generative Stochastic
Networks, 2015, arXiv:1503.05571.)
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from ..._shapes import broadcast_shapes
from ...distributions import MarkovChain
from ..base import ImplicitModel

if TYPE_CHECKING:
    from ...objectives import Objective

State = tuple[Tensor, Tensor]
STARTS = 64  # that a model remembers


class StochasticNetwork(ImplicitModel):
    """A model that is the transition of a Markov chain; inherit from it and implement ``encode`` and ``decode``.

    Args:
        event_shape: Shape of one x, or a number of features.
        latent_shape: Shape of one h.
        context: Width of the context c, 0 for none.
        support: Where the data live.
        burn_in: First steps of a chain that are thrown away.
        thinning: Steps between two draws of one chain.
        chains: Number of chains that share the draws of a sample; a chain for each when ``None``.
    """

    depth: int  # steps that x needs to reach all of h

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent_shape: Sequence[int],
        context: int,
        support: constraints.Constraint,
        burn_in: int,
        thinning: int,
        chains: int | None,
    ) -> None:
        super().__init__(event_shape, context, support)
        self.latent_shape = torch.Size(latent_shape)
        self.burn_in, self.thinning, self.chains = burn_in, thinning, chains
        self.register_buffer("rest", torch.zeros(self.latent_shape))
        self.register_buffer("starts", torch.zeros(STARTS, *self.event_shape))
        self.register_buffer("initialized", torch.tensor(False))
        self._chain(None, torch.Size(), means=False)  # refuses numbers of steps that are not possible

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Remembers where chains start: every number of such an x is that of another datum, so that none is kept."""
        rows = torch.randint(len(x), self.starts.shape, device=x.device)
        self.starts.copy_(x.flatten(1).gather(0, rows.flatten(1)).reshape(rows.shape))
        self.initialized.fill_(True)

    def encode(self, x: Tensor, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Draws from p(h' | h, x, c), with shape (*, *latent_shape)."""
        raise NotImplementedError(f"{type(self).__name__} lacks encode")

    def decode(self, h: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns the reconstruction distribution p(x | h, c)."""
        raise NotImplementedError(f"{type(self).__name__} lacks decode")

    def walk(self, x: Tensor, context: Tensor | None = None, steps: int = 1) -> Iterator[dist.TorchDistribution]:
        """Walks away from data, as training does: yields p(x | h_k, c) for each of the steps; draws have no gradient.

        Args:
            x: Where to start, with shape ``batch_shape + event_shape``.
            context: Contexts, with shape ``batch_shape + (context,)``.
            steps: Number of steps.
        """
        h = self.rest.expand(*x.shape[: x.dim() - len(self.event_shape)], *self.latent_shape)
        for k in range(steps):
            h = self.encode(x, h, context)
            p = self.decode(h, context)
            yield p
            if k + 1 < steps:
                x = p.sample()

    def reconstruct(self, x: Tensor, context: Tensor | None = None, steps: int = 1) -> Tensor:
        """Returns the mean of p(x' | h, c) after some steps from x."""
        return [p.mean for p in self.walk(x, context, steps)][-1]

    def chain(self, context: Tensor | None = None, *, means: bool = False, start: Tensor | None = None) -> MarkovChain:
        """Returns the chain that samples p(x | c), as calling the model does.

        A trained network has seen data and what lies a few steps from them; from elsewhere its chain may find the
        way late, or not at all. The papers start at data.

        Args:
            context: Contexts, with shape ``batch_shape + (context,)``.
            means: Whether it shows E[x | h_t, c] in place of x_t: what papers print, and score, as samples. They have
                less noise than samples; they are not from p(x | c).
            start: Data of which every chain draws one to start at, with shape ``(n,) + event_shape``. When ``None``,
                numbers drawn independently of each other from the training data, as ``initialize`` has kept some;
                of a network that ``fit`` has not seen, what it makes of hidden units at rest.

        Raises:
            ValueError: If the starts are no data.
        """
        self._check_context(context)
        if start is not None and (start.shape[1:] != self.event_shape or not len(start)):
            shape = ", ".join(map(str, self.event_shape))
            raise ValueError(f"start: expected shape (n, {shape}) with n >= 1, got {tuple(start.shape)}")
        batch_shape = torch.Size() if context is None else context.shape[:-1]
        return self._chain(context, batch_shape, means, start=start)

    def complete(
        self, x: Tensor, missing: Tensor, context: Tensor | None = None, *, means: bool = False
    ) -> MarkovChain:
        """Returns the chain in which known numbers are held fast: a sampler of p(x_mis | x_obs, c).

        That is what it is where the numbers of p(x | h, c) are independent, as those of a ``Factorized`` are: what is
        drawn is then drawn given what is held, too. (Bengio et al., 2013, arXiv:1306.1091, on missing inputs.)

        Args:
            x: Data, with shape ``batch_shape + event_shape``; where missing anything, NaN also.
            missing: Which numbers are missing, true there; broadcasts to the shape of x.
            context: Contexts, with shape ``batch_shape + (context,)``.
            means: Whether the chain shows E[x | h_t, c] in place of x_t, where missing.

        Raises:
            ValueError: If x is no batch of data.
        """
        self._check_context(context)
        n = x.dim() - len(self.event_shape)
        if n < 0 or x.shape[n:] != self.event_shape:
            raise ValueError(f"x: expected shape (*, {', '.join(map(str, self.event_shape))}), got {tuple(x.shape)}")
        missing = missing.to(torch.bool).expand(x.shape)
        batch_shape = broadcast_shapes(x.shape[:n], () if context is None else context.shape[:-1])
        return self._chain(context, batch_shape, means, lambda drawn: torch.where(missing, drawn, x))

    def _distribution(self, context: Tensor | None) -> MarkovChain:
        return self.chain(context)

    def _chain(
        self,
        context: Tensor | None,
        batch_shape: torch.Size,
        means: bool,
        hold: Callable[[Tensor], Tensor] = lambda drawn: drawn,
        start: Tensor | None = None,
    ) -> MarkovChain:
        """Returns the chain of pairs (x, h); ``hold`` puts known numbers back into a draw."""

        def initial(shape: torch.Size) -> State:
            h = self.rest.expand(*shape, *self.latent_shape)
            if start is not None:
                return _rows(start, shape), h
            unseen = self.decode(h, context).sample()
            return hold(torch.where(self.initialized, _rows(self.starts, shape), unseen)), h

        def transition(state: State) -> State:
            h = self.encode(*state, context)
            return hold(self.decode(h, context).sample()), h

        def read(state: State) -> Tensor:
            return hold(self.decode(state[1], context).mean) if means else state[0]

        support = constraints.real if means else self.support
        steps = {"burn_in": self.burn_in, "thinning": self.thinning, "chains": self.chains}
        return MarkovChain(initial, transition, self.event_shape, batch_shape, support, read, **steps)

    def objective(self) -> "Objective":
        """Returns the loss of walkback, with twice as many steps as there are layers, and one more."""
        from ...objectives import Walkback

        return Walkback(2 * self.depth + 1)


def _rows(x: Tensor, shape: torch.Size) -> Tensor:
    return x[torch.randint(len(x), shape, device=x.device)]
