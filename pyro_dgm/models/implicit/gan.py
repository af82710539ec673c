r"""The generative adversarial network, with any generator and any critic.

.. math::
    z \sim p(z), \qquad x = G(z, c), \qquad D(x, c) \in R

A generator :math:`G` turns noise into data; a critic :math:`D` learns to tell its samples from real ones, and the
generator learns to be mistaken for them. Which game the two play is the objective's affair
(:class:`pyro_dgm.objectives.Adversarial`). (Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville
and Bengio, Generative Adversarial Nets, 2014, arXiv:1406.2661; with a context: Mirza and Osindero,
Conditional Generative Adversarial Nets, 2014, arXiv:1411.1784.)
"""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ...nn import MLP
from ...transforms import Support
from .base import AdversarialModel, IntoSupport


class GAN(AdversarialModel):
    """A generative adversarial network.

    It samples fast and sharply and has no density: ``gan().log_prob`` raises and names what to use instead.

    Args:
        event_shape: Shape of one x, or a number of features.
        latent_features: Width L of the noise z, standard normal.
        context: Width of the context, 0 for none.
        hidden_features: Hidden widths of both default networks.
        generator: A module of your own, called as G(z) or G(z, c), from (*, L) to (*, *event_shape).
        critic: A module of your own, called as D(x) or D(x, c), from (*, *event_shape) to (*, 1) or (*) scores
            (logits, larger for real).
        support: Where the data live; the default generator's output is mapped there.

    Example:
        >>> GAN((1, 4, 4), latent_features=3)().sample((5,)).shape
        torch.Size([5, 1, 4, 4])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent_features: int = 16,
        context: int = 0,
        hidden_features: Sequence[int] = (128, 128),
        *,
        generator: nn.Module | None = None,
        critic: nn.Module | None = None,
        support: constraints.Constraint = constraints.real,
    ) -> None:
        shape = torch.Size([int(event_shape)] if isinstance(event_shape, Integral) else event_shape)
        if not shape:
            raise ValueError("event_shape: expected at least one dimension, got (); for one feature say 1")
        generator = generator or _default_generator(latent_features, shape, hidden_features, context, support)
        critic = critic or _DefaultCritic(shape.numel(), len(shape), hidden_features, context)
        super().__init__(shape, latent_features, context, generator, critic, support)


def _default_generator(
    latent_features: int,
    event_shape: torch.Size,
    hidden_features: Sequence[int],
    context: int,
    support: constraints.Constraint,
) -> IntoSupport:
    size = torch.Size([event_shape.numel()])
    (free,) = size if isinstance(support, type(constraints.real)) else Support(support).inverse_shape(size)
    network = MLP(latent_features, free, hidden_features, context, nn.LeakyReLU)
    return IntoSupport(network, event_shape, support)


class _DefaultCritic(nn.Module):
    def __init__(self, size: int, event_dim: int, hidden_features: Sequence[int], context: int) -> None:
        super().__init__()
        self.network = MLP(size, 1, hidden_features, context, nn.LeakyReLU)
        self.event_dim = event_dim

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(x.flatten(-self.event_dim), context)
