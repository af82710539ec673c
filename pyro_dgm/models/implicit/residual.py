r"""Residual GANs of images: WGAN-GP, whose critic is smooth by a penalty, and SN-GAN, by spectral normalisation.

.. math::
    z \sim N(0, I), \qquad x = G(z, c), \qquad D(x, c) = w^\top \phi(x) + b + c^\top V \phi(x)

The context c, a class one-hot say, scales and shifts every batch normalisation of the generator, and the critic
projects it on its features (:mod:`pyro_dgm.nn.residual` has the formulas and their sources).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn
from torch.distributions import constraints

from ...nn import ResidualCritic, ResidualGenerator
from .base import PIXELS, AdversarialModel, IntoSupport, levels

if TYPE_CHECKING:
    from ...objectives import Objective


class WGANGP(AdversarialModel):
    """Residual networks in the Wasserstein game, with a gradient penalty of 10 and 5 steps of the critic for one.

    It trains nearly whatever the networks are, at five gradients of gradients for every step of the generator. In
    training mode an image is normalised by the batch that it is drawn with; call ``eval()`` before you compare images.
    (Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, Improved Training of Wasserstein GANs, 2017,
    arXiv:1704.00028.)

    Args:
        image_shape: Shape (C, H, W) of an image.
        latent_features: Width L of the noise z.
        context: Width of the context, 0 for none; a class is given one-hot.
        channels: Channels of all hidden layers.
        attention: Height of the maps that self-attention works on in both networks, 0 for none.
        critic: A critic of your own, in which no datum depends on the others: layer normalisation serves in place of
            batch normalisation.
        support: Where pixels live; the generator's output is mapped there.

    Raises:
        ValueError: If the shape is not that of an image of more than 4 pixels, or no level has the height for
            attention; from its objective, if the critic has batch normalisation.

    Example:
        >>> import torch
        >>> WGANGP((1, 28, 28), context=10, channels=8).eval()(torch.eye(10)).sample().shape
        torch.Size([10, 1, 28, 28])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_features: int = 128,
        context: int = 0,
        channels: int = 128,
        *,
        attention: int = 0,
        critic: nn.Module | None = None,
        support: constraints.Constraint = PIXELS,
    ) -> None:
        generator = _generator(image_shape, latent_features, context, channels, attention, False, support)
        critic = critic or _critic(image_shape, context, channels, attention, False)
        super().__init__(image_shape, latent_features, context, generator, critic, support)

    def objective(self) -> "Objective":
        """Returns the Wasserstein game with a gradient penalty."""
        from ...objectives import Adversarial, GradientPenalty, Wasserstein

        return Adversarial(Wasserstein(), GradientPenalty(10.0), critic_steps=5)


class SNGAN(AdversarialModel):
    """Residual networks in the hinge game, the critic's layers with spectral normalisation: a smooth critic for little.

    With ``attention`` and ``generator_spectral_norm`` it is SAGAN (Zhang, Goodfellow, Metaxas and Odena, 2018,
    arXiv:1805.08318), whose two learning rates, one step of the critic for one of the generator, are the default of
    either; the authors of SN-GAN make five: ``objective=Adversarial(Hinge(), critic_steps=5)``. In training mode an
    image is normalised by the batch that it is drawn with; call ``eval()`` before you compare images.
    (Miyato, Kataoka, Koyama and Yoshida, Spectral Normalization for Generative Adversarial Networks, 2018,
    arXiv:1802.05957; with classes: Miyato and Koyama, cGANs with Projection Discriminator, 2018, arXiv:1802.05637.)

    Args:
        image_shape: Shape (C, H, W) of an image.
        latent_features: Width L of the noise z.
        context: Width of the context, 0 for none; a class is given one-hot.
        channels: Channels of all hidden layers.
        attention: Height of the maps that self-attention works on in both networks, 0 for none.
        generator_spectral_norm: Whether the generator has spectral normalisation, too.
        support: Where pixels live; the generator's output is mapped there.

    Raises:
        ValueError: If the shape is not that of an image of more than 4 pixels, or no level has the height for
            attention.

    Example:
        >>> import torch
        >>> SNGAN((1, 28, 28), context=10, channels=8, attention=14).eval()(torch.eye(10)).sample().shape
        torch.Size([10, 1, 28, 28])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_features: int = 128,
        context: int = 0,
        channels: int = 128,
        *,
        attention: int = 0,
        generator_spectral_norm: bool = False,
        support: constraints.Constraint = PIXELS,
    ) -> None:
        settings = (channels, attention, generator_spectral_norm, support)
        generator = _generator(image_shape, latent_features, context, *settings)
        critic = _critic(image_shape, context, channels, attention, True)
        super().__init__(image_shape, latent_features, context, generator, critic, support)

    def objective(self) -> "Objective":
        """Returns the hinge game on two time scales."""
        from ...objectives import Adversarial, Hinge

        return Adversarial(Hinge())


def _generator(
    image_shape: Sequence[int],
    latent_features: int,
    context: int,
    channels: int,
    attention: int,
    spectral_norm: bool,
    support: constraints.Constraint,
) -> IntoSupport:
    widths = [channels] * (levels(image_shape) + 1)
    network = ResidualGenerator(latent_features, image_shape, context, widths, attention, spectral_norm)
    return IntoSupport(network, image_shape, support, out_dim=3)


def _critic(
    image_shape: Sequence[int], context: int, channels: int, attention: int, spectral_norm: bool
) -> ResidualCritic:
    """The critic, which stops at maps twice as large as those that the generator starts with."""
    widths = [channels] * max(1, levels(image_shape) - 1)
    return ResidualCritic(image_shape, context, widths, 2, attention, spectral_norm)
