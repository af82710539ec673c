r"""Adversarial networks that encode: BiGAN (ALI) judges pairs of data and codes, VAE-GAN what a critic sees of data.

.. math::
    \text{BiGAN:} \quad & x = G(z), \quad z = E(x) \text{ or } z \sim q(z | x), \quad D(x, z) \in R \\
    \text{VAE-GAN:} \quad & x = G(z), \quad z \sim q(z | x), \quad D(x) = k(h(x)), \quad
        \log p(h | z) = \log N\bigl(h;\, h(G(z)), I\bigr)

Neither has a density of x: samples are G(z), and the normal distribution of VAE-GAN is one of features. Games are in
:mod:`pyro_dgm.objectives.adversarial_inference`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ...distributions.hierarchy import center, join
from ...nn import MLP, at_least_float32, leave_autocast
from ...nn.critics import called, scores
from ..parametric import DiagonalNormal
from .base import AdversarialModel, flat_mlp, mlp_generator, shape_of

if TYPE_CHECKING:
    from ...objectives import Objective


class BiGAN(AdversarialModel):
    r"""A generative adversarial network with an encoder, which learns to invert the generator.

    The critic tells pairs (x, E(x)) of data and their codes from pairs (G(z), z) of samples and their noise. Where it
    cannot, the two joint distributions agree: codes of data are distributed as the prior, and E(G(z)) = z, or, with a
    stochastic encoder (ALI), :math:`q(z | x)` is the posterior of z under the generator. In practice reconstructions
    G(E(x)) resemble x in kind more than in detail. (Donahue, Kraehenbuehl and Darrell, Adversarial Feature Learning,
    2016, arXiv:1605.09782; Dumoulin et al., Adversarially Learned Inference, 2016, arXiv:1606.00704.)

    Args:
        event_shape: Shape of one x, or a number of features.
        latent_features: Width L of the noise z, standard normal.
        context: Width of the context, 0 for none.
        hidden_features: Hidden widths of the default networks.
        generator: A module of your own, called as G(z) or G(z, c), from (*, L) to (*, *event_shape).
        encoder: A module of your own, called as E(x) or E(x, c), from (*, *event_shape) to (*, L), or to a distribution
            of such z; a deterministic MLP when ``None``.
        stochastic: Whether the default encoder is a normal distribution, its means and deviations by an MLP.
        critic: A module of your own, called as D(x, z) or D(x, z, c), to (*, 1) or (*) scores, larger for (x, E(x)).
        support: Where the data live; the default generator's output is mapped there.

    Example:
        >>> gan = BiGAN((1, 4, 4), latent_features=3, stochastic=True)
        >>> x = gan().sample((5,))
        >>> gan.encode(x).shape, gan.encode(x, num_samples=2).shape, gan.reconstruct(x).shape
        (torch.Size([5, 3]), torch.Size([2, 5, 3]), torch.Size([5, 1, 4, 4]))
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent_features: int = 16,
        context: int = 0,
        hidden_features: Sequence[int] = (128, 128),
        *,
        generator: nn.Module | None = None,
        encoder: nn.Module | None = None,
        stochastic: bool = False,
        critic: nn.Module | None = None,
        support: constraints.Constraint = constraints.real,
    ) -> None:
        shape = shape_of(event_shape)
        if encoder is not None and stochastic:
            raise ValueError("stochastic: expected False beside an encoder of your own: what it returns says which")
        generator = generator or mlp_generator(latent_features, shape, hidden_features, context, support)
        super().__init__(
            shape,
            latent_features,
            context,
            generator,
            critic or _PairMLP(shape, latent_features, hidden_features, context),
            support,
        )
        default = _NormalEncoder if stochastic else flat_mlp
        self.encoder = encoder or default(shape, latent_features, hidden_features, context)

    def infer(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """Returns q(z | x, c) for x with shape (*, *event_shape): all mass on E(x, c) if that is one code."""
        z = called(self.encoder, x, context)
        return z if isinstance(z, Distribution) else dist.Delta(leave_autocast(z), event_dim=1)

    def encode(self, x: Tensor, context: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        """Returns the codes E(x, c), or the middle of q(z | x, c), with shape (*, L); or draws, (num_samples, *, L)."""
        q = self.infer(x, context)
        if num_samples is not None:
            return q.rsample((num_samples,))
        return q.v if isinstance(q, dist.Delta) else center(q)

    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns G(E(x, c), c)."""
        return self.generate(self.encode(x, context), context)

    def pairs(self, x: Tensor, context: Tensor | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Returns pairs of data and codes, and pairs of samples and noise, one of each for every datum."""
        code = self.infer(x, context).rsample()
        z = self.prior().expand(code.shape[:-1]).rsample()
        return (x, code), (self.generate(z, context), z)

    def score_pair(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's score D(x, z, c), with shape (*)."""
        return scores(self.critic, x.dim() - len(self.event_shape), x, z, context)

    def score(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's score D(x, E(x, c), c) of data with their codes, with shape (*)."""
        return self.score_pair(x, self.infer(x, context).rsample(), context)

    def objective(self) -> "Objective":
        """Returns the game over pairs."""
        from ...objectives import AdversarialInference

        return AdversarialInference()


class VAEGAN(AdversarialModel):
    r"""An autoencoder that reconstructs what a critic sees of data rather than the data themselves.

    A squared error of pixels blurs; one of features that tell data from samples does not. ``encode`` and
    ``reconstruct`` are an autoencoder's. There is no log_prob: samples are G(z) without noise, and the likelihood of
    training is one of features, which is no density of x (:meth:`similarity` gives it). (Larsen, Sonderby, Larochelle
    and Winther, Autoencoding beyond pixels using a learned similarity metric, 2015, arXiv:1512.09300.)

    Args:
        event_shape: Shape of one x, or a number of features.
        latent_features: Width L of z, whose prior is a standard normal.
        context: Width of the context, 0 for none.
        hidden_features: Hidden widths of the default networks.
        generator: A module of your own, called as G(z) or G(z, c), from (*, L) to (*, *event_shape).
        posterior: A module of your own called with [x, c], (*, data + context), returns q(z | x, c) of L numbers.
        features: A module of your own, called as h(x) or h(x, c), from (*, *event_shape) to features of any shape (*,
            ...).
        head: A module of your own, called as k(h), from features to (*, 1) or (*) scores; needed beside ``features``.
        gamma: The similarity's weight in the generator's loss, see :class:`~pyro_dgm.objectives.LearnedSimilarity`.
        support: Where the data live; the default generator's output is mapped there.

    Raises:
        ValueError: If there are features without a head.

    Example:
        >>> model = VAEGAN((1, 4, 4), latent_features=3)
        >>> x = model().sample((5,))
        >>> model.reconstruct(x).shape, model.similarity(x, x).shape
        (torch.Size([5, 1, 4, 4]), torch.Size([5]))
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent_features: int = 16,
        context: int = 0,
        hidden_features: Sequence[int] = (128, 128),
        *,
        generator: nn.Module | None = None,
        posterior: nn.Module | None = None,
        features: nn.Module | None = None,
        head: nn.Module | None = None,
        gamma: float = 1e-2,
        support: constraints.Constraint = constraints.real,
    ) -> None:
        shape = shape_of(event_shape)
        if (features is None) != (head is None):
            raise ValueError("features, head: expected both or neither, since the head reads the features")
        critic = _FeatureCritic(
            features or _FeatureMLP(shape, hidden_features, context), head or MLP(hidden_features[-1], 1, ())
        )
        generator = generator or mlp_generator(latent_features, shape, hidden_features, context, support)
        super().__init__(shape, latent_features, context, generator, critic, support)
        self.posterior = posterior or DiagonalNormal(latent_features, shape.numel() + context, hidden_features)
        self.gamma = gamma

    def infer(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """Returns the posterior q(z | x, c) for x with shape (*, *event_shape)."""
        return self.posterior(join(x, len(self.event_shape), context))

    def encode(self, x: Tensor, context: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        """Returns the middle of q(z | x, c), with shape (*, L), or draws, with shape (num_samples, *, L)."""
        q = self.infer(x, context)
        return center(q) if num_samples is None else q.rsample((num_samples,))

    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns G(z, c) at the representation z of x."""
        return self.generate(self.encode(x, context), context)

    def features(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns what the critic sees of data, flattened, with shape (*, features)."""
        h = at_least_float32(called(self.critic.features, x, context))
        batch_dim = x.dim() - len(self.event_shape)
        return h.flatten(batch_dim) if h.dim() > batch_dim else h.unsqueeze(-1)

    def similarity(self, x: Tensor, other: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns log N(h(x); h(other), I) in nats, with shape (*)."""
        other = self.features(other, context)
        return dist.Normal(other, torch.ones_like(other)).log_prob(self.features(x, context)).sum(-1)

    def objective(self) -> "Objective":
        """Returns the game of encoder, generator and critic."""
        from ...objectives import LearnedSimilarity

        return LearnedSimilarity(gamma=self.gamma)


class _PairMLP(nn.Module):
    """A critic of pairs (x, z)."""

    def __init__(
        self, event_shape: torch.Size, latent_features: int, hidden_features: Sequence[int], context: int
    ) -> None:
        super().__init__()
        self.network = MLP(event_shape.numel() + latent_features, 1, hidden_features, context, nn.LeakyReLU)
        self.event_dim = len(event_shape)

    def forward(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(join(x, self.event_dim, z), context)


class _NormalEncoder(nn.Module):
    """A normal distribution of codes."""

    def __init__(
        self, event_shape: torch.Size, latent_features: int, hidden_features: Sequence[int], context: int
    ) -> None:
        super().__init__()
        self.posterior = DiagonalNormal(latent_features, event_shape.numel() + context, hidden_features)
        self.event_dim = len(event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return self.posterior(join(x, self.event_dim, context))


class _FeatureMLP(nn.Module):
    """The layers of a critic before its last."""

    def __init__(self, event_shape: torch.Size, hidden_features: Sequence[int], context: int) -> None:
        super().__init__()
        self.network = flat_mlp(event_shape, hidden_features[-1], hidden_features[:-1], context)
        self.activation = nn.LeakyReLU()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.activation(self.network(x, context))


class _FeatureCritic(nn.Module):
    """A critic in two parts."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.head(called(self.features, x, context))
