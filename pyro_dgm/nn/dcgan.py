r"""The two networks of the deep convolutional GAN: strided convolutions all the way, between noise and images.

.. math::
    G:\; (z, c) \to W z + V c \to 4 \times 4 \to 8 \times 8 \to \dots \to H \times W, \qquad
    D:\; (x, c) \to H/2 \times W/2 \to \dots \to 4 \times 4 \to R

Every level of the generator is batch normalisation, a rectifier and a transposed convolution of stride 2; every level
of the critic is a convolution of stride 2, batch normalisation and a leaky rectifier. The kernel is 4 x 4, and 3 x 3
where the larger size is odd, so that 28 pixels go by 14 and 7 to 4 and back. (Radford, Metz and Chintala, Unsupervised
Representation Learning with Deep Convolutional Generative Adversarial Networks, 2015, arXiv:1511.06434.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._config import Configured
from .batch_norm import BatchNorm
from .convolution import halved, over_images


class DCGANGenerator(Configured, nn.Module):
    """A network from noise to images of unbounded numbers, which a model maps to where its data live.

    Args:
        in_features: Width of the noise z.
        image_shape: Shape (C, H, W) of an image.
        context: Width of a context, which is added to the first layer, 0 for none.
        channels: Channels before each doubling; the paper's are (1024, 512, 256, 128) for 64 pixels.

    Raises:
        ValueError: If there is no level, or the shape is that of no image.

    Example:
        >>> f = DCGANGenerator(100, (1, 28, 28), context=10, channels=(32, 16, 8))
        >>> f(torch.zeros(5, 7, 100), torch.zeros(7, 10)).shape
        torch.Size([5, 7, 1, 28, 28])
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        context: int = 0,
        channels: Sequence[int] = (512, 256, 128, 64),
    ) -> None:
        super().__init__()
        sizes = halved(torch.Size(image_shape), len(channels))[::-1]
        self.start = torch.Size([channels[0], *sizes[0]])
        self.first = nn.Linear(in_features, self.start.numel(), bias=False)
        self.context = nn.Linear(context, self.start.numel(), bias=False) if context else None
        layers: list[nn.Module] = []
        for n, m, size in zip(channels, [*channels[1:], image_shape[0]], sizes[1:], strict=True):
            last = size == sizes[-1]
            layers += [BatchNorm(n), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(n, m, _kernel(size), stride=2, padding=1, bias=last)]
        self.body = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps noise (*, in_features) and contexts (*, context), which broadcast, to images (*, C, H, W)."""
        h = self.first(z)
        if self.context is not None:
            h = h + self.context(context)
        return over_images(self.body, h.unflatten(-1, self.start))


class DCGANCritic(Configured, nn.Module):
    """A network from images to scores.

    Args:
        image_shape: Shape (C, H, W) of an image.
        context: Width of a context, which is added to the first layer at every pixel, 0 for none.
        channels: Channels after each halving.
        batch_norm: Whether there is batch normalisation, between the first level and the output. A gradient penalty
            is about a single datum and does without.
        out_features: Numbers per image: a score, and perhaps logits of classes.

    Raises:
        ValueError: If there is no level, or the shape is that of no image.

    Example:
        >>> DCGANCritic((3, 32, 32), channels=(8, 16, 32))(torch.zeros(5, 7, 3, 32, 32)).shape
        torch.Size([5, 7, 1])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        context: int = 0,
        channels: Sequence[int] = (64, 128, 256, 512),
        batch_norm: bool = True,
        out_features: int = 1,
    ) -> None:
        super().__init__()
        sizes = halved(torch.Size(image_shape), len(channels))
        self.first = nn.Conv2d(image_shape[0], channels[0], _kernel(sizes[0]), stride=2, padding=1)
        self.context = nn.Linear(context, channels[0], bias=False) if context else None
        layers: list[nn.Module] = [nn.LeakyReLU(0.2)]
        for n, m, size in zip(channels, channels[1:], sizes[1:], strict=False):
            layers += [nn.Conv2d(n, m, _kernel(size), stride=2, padding=1, bias=not batch_norm)]
            layers += [*([BatchNorm(m)] if batch_norm else []), nn.LeakyReLU(0.2, inplace=True)]
        self.body = nn.Sequential(*layers)
        height, width = sizes[-1]
        self.last = nn.Linear(channels[-1] * height * width, out_features)
        self.apply(_initialize)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps images (*, C, H, W) and contexts (*, context), which broadcast, to scores (*, out_features)."""
        h = over_images(self.first, x)
        if self.context is not None:
            h = h + self.context(context)[..., None, None]
        return self.last(over_images(self.body, h).flatten(-3))


def _kernel(size: tuple[int, int]) -> tuple[int, int]:
    """The kernel between a size and its half: an odd size is halved upwards, and doubled again one pixel is lost."""
    height, width = (3 if n % 2 else 4 for n in size)
    return height, width


def _initialize(layer: nn.Module) -> None:
    """Draws weights as the paper does, from normal distributions of standard deviation 0.02."""
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if isinstance(layer, BatchNorm):
        nn.init.normal_(layer.weight, 1.0, 0.02)
