r"""What adversarial models share: a generator, a critic, and noise between them.

.. math::
    z \sim p(z), \qquad x = G(z, c), \qquad D(x, c) \in R

A model of the family is this class with networks; which game the networks play is the objective's affair.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..._shapes import as_shape
from ...distributions import Pushforward
from ...nn import MLP, leave_autocast
from ...nn.critics import called, scores
from ...nn.mlp import EventMLP
from ...transforms import Support
from ..base import ImplicitModel
from ..parametric import StandardNormal

if TYPE_CHECKING:
    from ...objectives import Objective

PIXELS = constraints.interval(-1.0, 1.0)


class AdversarialModel(ImplicitModel):
    """A generator and a critic; inherit from it to give a family of networks its name.

    Args:
        event_shape: Shape of one x, or a number of features.
        latent_features: Width L of the noise z, standard normal.
        context: Width of the context, 0 for none.
        generator: Called as G(z) or G(z, c), from (*, L) to (*, *event_shape).
        critic: Called as D(x) or D(x, c), from (*, *event_shape) to (*, 1) or (*) scores.
        support: Where the data live.
        prior: Called without arguments, returns p(z); a standard normal when ``None``.
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent_features: int,
        context: int,
        generator: nn.Module,
        critic: nn.Module,
        support: constraints.Constraint,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__(event_shape, context, support)
        self.generator, self.critic = generator, critic
        self.prior = prior or StandardNormal(latent_features)

    def _distribution(self, context: Tensor | None) -> Pushforward:
        prior = self.prior()
        if context is not None:
            prior = prior.expand(context.shape[:-1])
        return Pushforward(prior, lambda z: self.generate(z, context), self.event_shape, self.support, has_rsample=True)

    def generate(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns G(z, c), with shape (*, *event_shape), for z with shape (*, latent_features)."""
        return leave_autocast(called(self.generator, z, context))

    def score(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's score D(x, c), with shape (*), for x with shape (*, *event_shape)."""
        return scores(self.critic, x.dim() - len(self.event_shape), x, context)

    def objective(self) -> "Objective":
        """Returns the adversarial game."""
        from ...objectives import Adversarial

        return Adversarial()


class IntoSupport(nn.Module):
    """A network whose numbers are mapped to where the data live.

    Args:
        network: Called as f(z, c), gives unbounded numbers.
        event_shape: Shape of one x.
        support: Where the data live.
        out_dim: Number of dimensions of what the network gives for one x.
    """

    def __init__(
        self, network: nn.Module, event_shape: Sequence[int], support: constraints.Constraint, out_dim: int = 1
    ) -> None:
        super().__init__()
        self.network, self.event_shape, self.out_dim = network, torch.Size(event_shape), out_dim
        self.into_support = None if isinstance(support, type(constraints.real)) else Support(support)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps noise (*, L) and contexts (*, context), which broadcast, to data (*, *event_shape)."""
        y = leave_autocast(self.network(z, context)).flatten(-self.out_dim)
        y = y if self.into_support is None else self.into_support(y)
        return y.unflatten(-1, self.event_shape)


def flat_mlp(event_shape: torch.Size, out_features: int, hidden_features: Sequence[int], context: int = 0) -> EventMLP:
    """Returns a multilayer perceptron of data of any shape: a critic, a classifier, a posterior."""
    return EventMLP(event_shape, torch.Size([out_features]), hidden_features, context, nn.LeakyReLU)


def mlp_generator(
    latent_features: int,
    event_shape: torch.Size,
    hidden_features: Sequence[int],
    context: int,
    support: constraints.Constraint,
) -> IntoSupport:
    """Returns a multilayer perceptron from noise to data where they live."""
    size = torch.Size([event_shape.numel()])
    (free,) = size if isinstance(support, type(constraints.real)) else Support(support).inverse_shape(size)
    network = MLP(latent_features, free, hidden_features, context, nn.LeakyReLU)
    return IntoSupport(network, event_shape, support)


def shape_of(event_shape: int | Sequence[int]) -> torch.Size:
    """Returns the shape of an event, given it or a number of features.

    Raises:
        ValueError: If it has no dimension.
    """
    shape = as_shape(event_shape)
    if not shape:
        raise ValueError("event_shape: expected at least one dimension, got (); for one feature say 1")
    return shape


def levels(image_shape: Sequence[int], smallest: int = 4) -> int:
    """Returns how many halvings, rounded upwards, leave at most ``smallest`` pixels in height and width.

    Raises:
        ValueError: If there is nothing to halve.
    """
    if len(image_shape) != 3 or max(image_shape[1:]) <= smallest:
        raise ValueError(
            f"image_shape: expected (channels, height, width) with more than {smallest} pixels in height or width, "
            f"got {tuple(image_shape)}; for fewer use GAN"
        )
    return ((max(image_shape[1:]) - 1) // smallest).bit_length()
