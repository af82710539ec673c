r"""The deep convolutional GAN: images from noise by strided convolutions.

.. math::
    z \sim N(0, I), \qquad x = G(z, c), \qquad D(x, c) \in R

Batch normalisation in both networks and Adam with :math:`\beta_1 = 1/2` made adversarial training of image models
work. (Radford, Metz and Chintala, Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks, 2015, arXiv:1511.06434.) The paper's noise is uniform, and its generator ends in tanh(h), ours in tanh(h / 2).
"""

from collections.abc import Sequence

from torch.distributions import constraints

from ...nn import DCGANCritic, DCGANGenerator
from .base import PIXELS, AdversarialModel, IntoSupport, levels


class DCGAN(AdversarialModel):
    """A generative adversarial network of convolutions, for small images of any size (28, 32, 64 pixels, say).

    Sizes are halved and doubled until at most 4 pixels are left. In training mode an image is normalised by the batch
    that it is drawn with; call ``eval()`` before you compare images, or infer their noise. (``fit(ema=...)`` averages
    weights; running averages stay those of the latest weights.) It learns fast and may lose modes of the data;
    :class:`~pyro_dgm.models.GAN` takes networks of your own.

    Args:
        image_shape: Shape (C, H, W) of an image.
        latent_features: Width L of the noise z.
        context: Width of the context, 0 for none; a class is given one-hot.
        channels: Channels on the largest level, which every halving doubles; 128 in the paper, 64 for most that follow.
        critic_batch_norm: Whether the critic has batch normalisation, which a game with a gradient penalty forbids.
        support: Where pixels live; the generator's output is mapped there.

    Raises:
        ValueError: If the shape is not that of an image of more than 4 pixels.

    Example:
        >>> import torch
        >>> gan = DCGAN((1, 28, 28), context=10, channels=8).eval()
        >>> gan(torch.eye(10)).sample().shape
        torch.Size([10, 1, 28, 28])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_features: int = 100,
        context: int = 0,
        channels: int = 64,
        *,
        critic_batch_norm: bool = True,
        support: constraints.Constraint = PIXELS,
    ) -> None:
        widths = [channels * 2**level for level in range(levels(image_shape))]
        network = DCGANGenerator(latent_features, image_shape, context, widths[::-1])
        generator = IntoSupport(network, image_shape, support, out_dim=3)
        critic = DCGANCritic(image_shape, context, widths, critic_batch_norm)
        super().__init__(image_shape, latent_features, context, generator, critic, support)
