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

from torch import nn
from torch.distributions import constraints

from .base import AdversarialModel, flat_mlp, mlp_generator, shape_of


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
        shape = shape_of(event_shape)
        generator = generator or mlp_generator(latent_features, shape, hidden_features, context, support)
        critic = critic or flat_mlp(shape, 1, hidden_features, context)
        super().__init__(shape, latent_features, context, generator, critic, support)
