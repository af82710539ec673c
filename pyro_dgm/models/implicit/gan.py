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
from typing import TYPE_CHECKING

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from ...distributions import Pushforward
from ...nn import MLP, at_least_float32, leave_autocast
from ...transforms import Support
from ..base import ImplicitModel

if TYPE_CHECKING:
    from ...objectives import Objective


class GAN(ImplicitModel):
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
        super().__init__(event_shape, context, support)
        if not self.event_shape:
            raise ValueError("event_shape: expected at least one dimension, got (); for one feature say 1")
        size = self.event_shape.numel()
        self.generator = generator or _DefaultGenerator(
            latent_features, self.event_shape, hidden_features, context, support
        )
        self.critic = critic or _DefaultCritic(size, len(self.event_shape), hidden_features, context)
        self.register_buffer("loc", torch.zeros(latent_features))

    def _distribution(self, context: Tensor | None) -> Pushforward:
        prior = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        if context is not None:
            prior = prior.expand(context.shape[:-1])
        return Pushforward(prior, lambda z: self.generate(z, context), self.event_shape, self.support)

    def generate(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns G(z, c), with shape (*, *event_shape), for z with shape (*, latent_features)."""
        return leave_autocast(self.generator(z) if context is None else self.generator(z, context))

    def score(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's score D(x, c), with shape (*), for x with shape (*, *event_shape)."""
        score = at_least_float32(self.critic(x) if context is None else self.critic(x, context))
        return score.squeeze(-1) if score.dim() > x.dim() - len(self.event_shape) else score

    def objective(self) -> "Objective":
        """Returns the adversarial game."""
        from ...objectives import Adversarial

        return Adversarial()


class _DefaultGenerator(nn.Module):
    def __init__(
        self,
        latent_features: int,
        event_shape: torch.Size,
        hidden_features: Sequence[int],
        context: int,
        support: constraints.Constraint,
    ) -> None:
        super().__init__()
        self.into_support = None if isinstance(support, type(constraints.real)) else Support(support)
        size = torch.Size([event_shape.numel()])
        (free,) = size if self.into_support is None else self.into_support.inverse_shape(size)
        self.network = MLP(latent_features, free, hidden_features, context, nn.LeakyReLU)
        self.event_shape = event_shape

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x = leave_autocast(self.network(z, context))
        x = x if self.into_support is None else self.into_support(x)
        return x.unflatten(-1, self.event_shape)


class _DefaultCritic(nn.Module):
    def __init__(self, size: int, event_dim: int, hidden_features: Sequence[int], context: int) -> None:
        super().__init__()
        self.network = MLP(size, 1, hidden_features, context, nn.LeakyReLU)
        self.event_dim = event_dim

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(x.flatten(-self.event_dim), context)
