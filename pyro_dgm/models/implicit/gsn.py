r"""Generative stochastic networks: models that are the transition of a Markov chain, and its limit is what they model.

.. math::
    h_{t+1} \sim p(h \,|\, h_t, x_t, c), \qquad x_{t+1} \sim p(x \,|\, h_{t+1}, c)

The first half corrupts: it loses some of x. The second half, the reconstruction distribution, restores it, and is all
that has to be learnt, one conditional distribution with few modes in place of p(x) with many. If it is the true
posterior of x given h, the chain's stationary distribution is that of the data (theorem 1 and proposition 1 of the
papers below): nothing else is claimed of p(x), which is sampled and has no density here.

- :class:`DenoisingAutoencoder`: h is a corrupted x, and any conditional model restores x. (Bengio, Yao, Alain and
  Vincent, Generalized Denoising Auto-Encoders as Generative Models, 2013, arXiv:1305.6663.)
- :class:`GSN`: h are layers of hidden units, updated as in the Gibbs sampling of a deep Boltzmann machine. (Bengio,
  Thibodeau-Laufer, Alain and Yosinski, Deep Generative Stochastic Networks Trainable by Backprop, 2013,
  arXiv:1306.1091; Alain, Bengio, Yao, Yosinski, Thibodeau-Laufer, Zhang and Vincent, GSNs: Generative Stochastic
  Networks, 2015, arXiv:1503.05571.)
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ...distributions import MarkovChain, heads
from ...distributions.hierarchy import concatenated, join
from ...nn import GaussianNoise, Parameters, SaltAndPepper, leave_autocast
from ..base import GenerativeModel, ImplicitModel

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
        batch_shape = torch.broadcast_shapes(x.shape[:n], () if context is None else context.shape[:-1])
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


class DenoisingAutoencoder(StochasticNetwork):
    r"""A denoising autoencoder as a generative model: corrupt, restore, corrupt what was restored, and so on.

    .. math::
        \tilde x_t \sim C(\tilde x \,|\, x_t), \qquad x_{t+1} \sim p(x \,|\, \tilde x_t, c)

    The restoring model may be any: a network with a narrow middle makes it an autoencoder, a mixture or an
    autoregressive one restores several modes. Much corruption makes the chain mix well and its conditional
    distributions hard; little makes both easy and slow. (For codes of data, see
    :class:`~pyro_dgm.models.Autoencoder` with a corruption in its objective.)

    Args:
        likelihood: Called with [x~, c], flat, shape (*, D + context), returns p(x | x~, c); a model of ours with
            ``context=D + context``, D being the number of elements of x.
        corruption: Called with x, returns x~ of the same shape: of :mod:`pyro_dgm.nn.corruption`, or your own.
        context: Width of the context c, 0 for none.
        burn_in: First steps of a chain that are thrown away.
        thinning: Steps between two draws of one chain.
        chains: Number of chains that share the draws of a sample; a chain for each when ``None``.

    Raises:
        ValueError: If the likelihood does not take so wide a context, or a number of steps is not possible.

    Example:
        >>> from pyro_dgm.models import IndependentBernoulli
        >>> from pyro_dgm.nn import SaltAndPepper
        >>> dae = DenoisingAutoencoder(IndependentBernoulli(6, context=6), SaltAndPepper(0.3), burn_in=20)
        >>> dae().sample((5,)).shape
        torch.Size([5, 6])
    """

    depth = 1

    def __init__(
        self,
        likelihood: GenerativeModel,
        corruption: Callable[[Tensor], Tensor],
        context: int = 0,
        *,
        burn_in: int = 100,
        thinning: int = 1,
        chains: int | None = None,
    ) -> None:
        shape = likelihood.event_shape
        if likelihood.context != shape.numel() + context:
            raise ValueError(
                f"likelihood: expected a model with context={shape.numel() + context}, that of a corrupted x and "
                f"{context} more, got context={likelihood.context}"
            )
        super().__init__(shape, shape, context, likelihood.support, burn_in, thinning, chains)
        self.likelihood, self.corruption = likelihood, corruption

    def encode(self, x: Tensor, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Draws a corrupted x~ from C(x~ | x), with shape (*, *event_shape); what came before does not matter."""
        return self.corruption(x)

    def decode(self, h: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | x~, c)."""
        return self.likelihood(join(h, len(self.event_shape), context))

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Remembers where chains start, and fits what of the likelihood depends on data."""
        super().initialize(x, context)
        self.likelihood.initialize(x, join(self.corruption(x), len(self.event_shape), context))


class GSN(StochasticNetwork):
    r"""The generative stochastic network of several hidden layers, with tied weights.

    .. math::
        h^l \leftarrow \eta_{out} + f\bigl(b_l + W_l h^{l-1} + W_{l+1}^\top h^{l+1} + \eta_{in}\bigr), \qquad
        h^0 = \tilde x \sim C(\tilde x \,|\, x), \qquad
        x \sim p\bigl(x \,|\, \theta = b_0 + W_1^\top h^1\bigr)

    A step updates the odd layers, all at once, then the even ones, x among them. With logistic units that are tossed,
    ``activation=nn.Sigmoid, after=StochasticBinary()``, and no other noise it is Gibbs sampling in a deep Boltzmann
    machine; the noise of the paper, a lot of it, before and after tanh units, leaves gradients to learn by, and the
    chain moves between modes in few steps.

    Args:
        event_shape: Shape of one x, or a number of features.
        hidden_features: Widths of the hidden layers, from the lowest to the highest.
        context: Width of the context c, which moves the biases; 0 for none.
        head: The distribution of one number of x, which sees as many numbers as it has parameters (weights are
            tied): ``heads.Bernoulli()``, ``heads.Categorical(L)``, ``heads.ContinuousBernoulli()``,
            ``heads.Normal(scale=...)``.
        activation: Class of the activation f.
        corruption: The noise C of x before it is seen; ``SaltAndPepper(0.4)`` when ``None``.
        before: The noise that is added within f; ``GaussianNoise(2.0)`` when ``None``.
        after: The noise on the outside of f; ``GaussianNoise(2.0)`` when ``None``.
        burn_in: First steps of a chain that are thrown away.
        thinning: Steps between two draws of one chain.
        chains: Number of chains that share the draws of a sample; a chain for each when ``None``.

    Attributes:
        depth: Number of hidden layers.

    Raises:
        ValueError: If there is no hidden layer, weights cannot be tied, or a number of steps is not possible.

    Example:
        >>> gsn = GSN((1, 4, 4), (20, 10), burn_in=20)
        >>> gsn().sample((5,)).shape, gsn.chain(means=True).run(draws=7, chains=2).shape
        (torch.Size([5, 1, 4, 4]), torch.Size([2, 7, 1, 4, 4]))
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        hidden_features: Sequence[int] = (500, 500),
        context: int = 0,
        *,
        head: heads.Head | None = None,
        activation: type[nn.Module] = nn.Tanh,
        corruption: Callable[[Tensor], Tensor] | None = None,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
        burn_in: int = 100,
        thinning: int = 1,
        chains: int | None = None,
    ) -> None:
        head = head or heads.Bernoulli()
        shape = torch.Size([event_shape] if isinstance(event_shape, Integral) else event_shape)
        if not hidden_features:
            raise ValueError("hidden_features: expected at least one hidden layer, got none")
        if head.size != head.size_in:
            raise ValueError(
                f"head: expected one that has as many parameters as numbers it is seen by, since weights are tied, "
                f"such as Bernoulli, Categorical or Normal(scale=...), got {type(head).__name__} with {head.size} and "
                f"{head.size_in}; a DenoisingAutoencoder takes any likelihood"
            )
        support = head.support_of(shape)
        super().__init__(shape, (sum(hidden_features),), context, support, burn_in, thinning, chains)
        self.head, self.depth, self.activation = head, len(hidden_features), activation()
        self.corruption = corruption or SaltAndPepper(0.4)
        self.before, self.after = before or GaussianNoise(2.0), after or GaussianNoise(2.0)
        self.widths = [shape.numel() * head.size, *hidden_features]
        self.weights = nn.ParameterList(torch.empty(m, n) for n, m in pairwise(self.widths))
        self.biases = Parameters(sum(self.widths), context)
        for weight in self.weights:
            nn.init.xavier_uniform_(weight)

    def encode(self, x: Tensor, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Updates the hidden layers, odd ones first; h holds them side by side, with shape (*, sum of widths)."""
        seen = self.head.embed(self.corruption(x)).flatten(-len(self.event_shape) - 1)
        layers = [seen, *h.split(self.widths[1:], -1)]
        biases = self.biases(context).split(self.widths, -1)
        for first in (1, 2):
            for i in range(first, self.depth + 1, 2):
                a = F.linear(layers[i - 1], self.weights[i - 1]) + biases[i]
                if i < self.depth:
                    a = a + F.linear(layers[i + 1], self.weights[i].mT)
                layers[i] = self.after(self.activation(self.before(a)))
        return concatenated(layers[1:])

    def decode(self, h: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | h, c), which the lowest layer determines."""
        theta = leave_autocast(F.linear(h[..., : self.widths[1]], self.weights[0].mT))
        theta = theta + self.biases(context)[..., : self.widths[0]]
        p = self.head(theta.unflatten(-1, (*self.event_shape, self.head.size)))
        p.__dict__.pop("_validate_args", None)  # data are checked where validation is on, though parameters never are
        return p.to_event(len(self.event_shape))
