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

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..._shapes import as_shape
from ...distributions import heads
from ...distributions.hierarchy import concatenated, join
from ...nn import GaussianNoise, Parameters, SaltAndPepper, leave_autocast
from ..base import GenerativeModel
from .stochastic_network import StochasticNetwork


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
        shape = as_shape(event_shape)
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
        p = self.head.checked(theta.unflatten(-1, (*self.event_shape, self.head.size)))
        return p.to_event(len(self.event_shape))
