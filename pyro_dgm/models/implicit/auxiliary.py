r"""GANs with a second task: AC-GAN tells the class of an image, InfoGAN the codes that a sample was made of.

.. math::
    \text{AC-GAN:} \quad x = G(z, c), \quad D(x) \in R, \quad q(c | x) \text{ from the critic's network} \\
    \text{InfoGAN:} \quad c \sim p(c), \quad x = G(c, z), \quad D(x) \in R, \quad q(c | x) \approx p(c | x)

The losses are in :mod:`pyro_dgm.objectives.auxiliary`.
"""

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ...distributions import Concatenated
from ...nn import at_least_float32
from .base import AdversarialModel, flat_mlp, mlp_generator, shape_of

if TYPE_CHECKING:
    from ...objectives import Objective


class ACGAN(AdversarialModel):
    """A conditional GAN whose critic does not see the class, but has to tell it.

    It makes samples that are easy to classify, at some cost of their variety; a projection (``SNGAN``) has no such
    bias. (Odena, Olah and Shlens, Conditional Image Synthesis With Auxiliary Classifier GANs, 2016, arXiv:1610.09585.)

    Args:
        event_shape: Shape of one x, or a number of features.
        latent_features: Width L of the noise z.
        context: Number K of classes, at least 2, which are given one-hot.
        hidden_features: Hidden widths of both default networks.
        generator: A module of your own, called as G(z, c), from (*, L) to (*, *event_shape).
        critic: A module of your own, called as D(x), from (*, *event_shape) to (*, 1 + K): a score, and logits.
        support: Where the data live; the default generator's output is mapped there.

    Raises:
        ValueError: If there are fewer than two classes.

    Example:
        >>> from pyro_dgm.nn import DCGANCritic, DCGANGenerator
        >>> networks = {"generator": DCGANGenerator(16, (1, 8, 8), 10, channels=(8,))}
        >>> networks["critic"] = DCGANCritic((1, 8, 8), channels=(8,), out_features=11)
        >>> gan = ACGAN((1, 8, 8), context=10, **networks)
        >>> gan.classify(gan(torch.eye(10)).sample((5,))).shape
        torch.Size([5, 10, 10])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent_features: int = 16,
        context: int = 2,
        hidden_features: Sequence[int] = (128, 128),
        *,
        generator: nn.Module | None = None,
        critic: nn.Module | None = None,
        support: constraints.Constraint = constraints.real,
    ) -> None:
        shape = shape_of(event_shape)
        if context < 2:
            raise ValueError(f"context: expected a number of classes, at least 2, got {context}; without use GAN")
        generator = generator or mlp_generator(latent_features, shape, hidden_features, context, support)
        both = critic or flat_mlp(shape, 1 + context, hidden_features)
        super().__init__(shape, latent_features, context, generator, _ScoreOf(both), support)

    def classify(self, x: Tensor) -> Tensor:
        """Returns the logits of the classes, with shape (*, K), for x with shape (*, *event_shape)."""
        return at_least_float32(self.critic.network(x))[..., 1:]

    def objective(self) -> "Objective":
        """Returns the non-saturating game with the classes to tell."""
        from ...objectives import AuxiliaryClassifier

        return AuxiliaryClassifier()


class InfoGAN(AdversarialModel):
    """A GAN with codes that can be read off its samples: clusters and directions, found without labels.

    The noise is z = [codes, rest]: one-hot categories, numbers uniform on [-1, 1], and a standard normal rest. Which
    code means what is not determined. (Chen, Duan, Houthooft, Schulman, Sutskever and Abbeel, InfoGAN: Interpretable
    Representation Learning by Information Maximizing Generative Adversarial Nets, 2016, arXiv:1606.03657.) The paper's
    posterior shares layers with the critic, ours is a network of its own.

    Args:
        event_shape: Shape of one x, or a number of features.
        latent_features: Width of the rest of the noise, 0 or more.
        categories: Numbers of values of the categorical codes.
        continuous: Number of continuous codes.
        hidden_features: Hidden widths of the default networks.
        generator: A module of your own, called as G(z), from (*, ``sum(categories)`` + continuous + latent_features).
        critic: A module of your own, called as D(x), from (*, *event_shape) to (*, 1) or (*) scores.
        posterior: A module of your own, called with x, gives (*, ``sum(categories)`` + 2 * continuous): logits, means,
            and inverse softplus of the standard deviations.
        support: Where the data live; the default generator's output is mapped there.

    Attributes:
        code_entropy: The entropy of the codes in nats, that of the continuous ones with respect to length.

    Raises:
        ValueError: If there is no code, or a category with fewer than two values.

    Example:
        >>> gan = InfoGAN(4, categories=(3,), continuous=1)
        >>> gan.encode(gan().sample((5,))).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent_features: int = 16,
        categories: Sequence[int] = (10,),
        continuous: int = 2,
        hidden_features: Sequence[int] = (128, 128),
        *,
        generator: nn.Module | None = None,
        critic: nn.Module | None = None,
        posterior: nn.Module | None = None,
        support: constraints.Constraint = constraints.real,
    ) -> None:
        shape, code = shape_of(event_shape), sum(categories) + continuous
        if min([*categories, 2]) < 2 or continuous < 0 or latent_features < 0 or not code:
            raise ValueError(
                "categories, continuous, latent_features: expected at least one code, categories of at least 2 values, "
                f"and no negative number, got {tuple(categories)}, {continuous} and {latent_features}"
            )
        width = code + latent_features
        generator = generator or mlp_generator(width, shape, hidden_features, 0, support)
        critic = critic or flat_mlp(shape, 1, hidden_features)
        prior = _CodesAndNoise(categories, continuous, latent_features)
        super().__init__(shape, width, 0, generator, critic, support, prior)
        self.posterior = posterior or flat_mlp(shape, code + continuous, hidden_features)
        self.categories, self.continuous = tuple(categories), continuous
        self.code_entropy = sum(map(log, categories)) + continuous * log(2.0)

    def codes(self, z: Tensor) -> Tensor:
        """Returns the codes c in noise z, with shape (*, ``sum(categories)`` + continuous)."""
        return z[..., : sum(self.categories) + self.continuous]

    def infer_codes(self, x: Tensor) -> Concatenated:
        """Returns the distribution q(c | x) for x with shape (*, *event_shape)."""
        *logits, loc, scale = at_least_float32(self.posterior(x)).split(
            [*self.categories, self.continuous, self.continuous], -1
        )
        parts: list[dist.TorchDistribution] = [_OneHot(logits=each) for each in logits]
        if self.continuous:
            parts.append(dist.Normal(loc, F.softplus(scale) + 1e-3).to_event(1))
        return Concatenated(parts)

    def encode(self, x: Tensor) -> Tensor:
        """Returns the means of q(c | x): probabilities of categories, then continuous codes."""
        return self.infer_codes(x).mean

    def objective(self) -> "Objective":
        """Returns the non-saturating game with the bound on mutual information."""
        from ...objectives import MutualInformation

        return MutualInformation()


class _ScoreOf(nn.Module):
    """The score among what a network gives, whatever the class."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(x)[..., :1]


class _OneHot(dist.OneHotCategorical):
    """Torch's, drawn without looking at a value, so that a loss can be traced."""

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        index = self._categorical.sample(torch.Size(sample_shape))
        values = torch.arange(self.event_shape[0], device=index.device)
        return (index.unsqueeze(-1) == values).to(self.logits.dtype)


class _CodesAndNoise(nn.Module):
    """The distribution of codes and rest."""

    def __init__(self, categories: Sequence[int], continuous: int, noise: int) -> None:
        super().__init__()
        self.categories = tuple(categories)
        self.register_buffer("edge", torch.ones(continuous))
        self.register_buffer("loc", torch.zeros(noise))

    def forward(self) -> Concatenated:
        parts: list[dist.TorchDistribution] = [_OneHot(logits=self.loc.new_zeros(n)) for n in self.categories]
        if len(self.edge):
            parts.append(dist.Uniform(-self.edge, self.edge).to_event(1))
        if len(self.loc):
            parts.append(dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1))
        return Concatenated(parts)
