r"""Convolutional networks between images and vectors, for autoencoders.

.. math::
    x \in R^{C \times H \times W} \;\to\; \theta \in R^n, \qquad z \in R^n \;\to\; \theta \in R^{C \times H \times W}

An encoder halves the image level by level, a decoder doubles it; an odd size is halved upwards, and doubled it loses
its last row or column, so that images of any size come back as they went (28, 14, 7, 4, 7, 14, 28). With ``blocks``,
every level has residual blocks that start as the identity (He, Zhang, Ren and Sun, Identity Mappings in Deep Residual
Networks, 2016, arXiv:1603.05027). A decoder enlarges by repetition before a convolution, which leaves no checkerboard
(Odena, Dumoulin and Olah, Deconvolution and Checkerboard Artifacts, 2016).

There is no batch normalisation, in a posterior least of all: q(z | x) would depend on the other data of the batch, so
that no bound would hold for the datum, and on running averages in evaluation, which is another posterior than the one
that was trained. Group normalisation (Wu and He, 2018, arXiv:1803.08494) looks at one datum alone.

Autoencoders join what a network sees to one vector, data and context or latent and context; the first convolution
reads it as an image again, and the context is added at every pixel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._config import Configured
from .activation import in_place
from .convolution import Residual, doubled, halved, over_images


class ConvEncoder(Configured, nn.Module):
    """A network from images to vectors.

    Args:
        image_shape: Shape (C, H, W) of an image.
        out_features: Width of the output: twice that of the latent for a ``DiagonalNormal``.
        context: Width of a context, which follows the image in the vector.
        channels: Channels after each halving.
        blocks: Number of residual blocks on every level.
        hidden_features: Width of a layer between the last level and the output, 0 for none.
        activation: Class of the activation.
        groups: Groups of channels that are normalised before activations, 0 for none.

    Raises:
        ValueError: If there is no level, a group is a single number, or what comes is neither an image nor such a
            vector.

    Example:
        >>> f = ConvEncoder((1, 28, 28), 40, context=10)
        >>> f(torch.zeros(5, 794)).shape, ConvEncoder((3, 32, 32), 40, blocks=1)(torch.zeros(5, 3, 32, 32)).shape
        (torch.Size([5, 40]), torch.Size([5, 40]))
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int,
        context: int = 0,
        channels: Sequence[int] = (32, 64),
        blocks: int = 0,
        hidden_features: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        groups: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = torch.Size(image_shape)
        height, width = _sizes(self.image_shape, channels, groups)[-1]
        widths = [self.image_shape[0], *channels]
        self.first = nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1)
        self.context = nn.Linear(context, widths[1], bias=False) if context else None
        layers: list[nn.Module] = []
        for level, m in enumerate(channels):
            if level:
                layers += [*_activated(widths[level], activation, groups), nn.Conv2d(widths[level], m, 3, 2, 1)]
            layers += [Residual(m, activation, groups, zero=True) for _ in range(blocks)]
        self.body = nn.Sequential(*layers, *_activated(channels[-1], activation, groups))
        size = channels[-1] * height * width
        hidden = [nn.Linear(size, hidden_features), in_place(activation)] if hidden_features else []
        self.last = nn.Sequential(*hidden, nn.Linear(hidden_features or size, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Maps vectors (*, C * H * W + context), or images (*, C, H, W) where there is no context, to (*, out)."""
        size, context = self.image_shape.numel(), self.context.in_features if self.context is not None else 0
        if x.shape[-1:] == (size + context,):
            image, c = x[..., :size].unflatten(-1, self.image_shape), x[..., size:]
        elif x.shape[-3:] == self.image_shape and not context:
            image, c = x, x
        else:
            raise ValueError(
                f"x: expected vectors (*, {size + context}), images of shape {tuple(self.image_shape)} flattened and "
                f"{context} numbers of context{'' if context else ', or these images'}, got {tuple(x.shape)}"
            )
        h = over_images(self.first, image)
        if self.context is not None:
            h = h + self.context(c)[..., None, None]
        return self.last(over_images(self.body, h).flatten(-3))


class ConvDecoder(Configured, nn.Module):
    """A network from vectors to images.

    Args:
        in_features: Width of the input: that of the latent, and of the context where there is one.
        image_shape: Shape (C, H, W) of the output. For a head with P parameters of images (C, H, W) it is
            (P * C, H, W), the first C channels the first parameter.
        channels: Channels before each doubling.
        blocks: Number of residual blocks on every level.
        hidden_features: Width of a layer between the input and the first level, 0 for none.
        activation: Class of the activation.
        groups: Groups of channels that are normalised before activations, 0 for none.

    Raises:
        ValueError: If there is no level, or a group is a single number.

    Example:
        >>> ConvDecoder(20, (2, 28, 28))(torch.zeros(7, 5, 20)).shape
        torch.Size([7, 5, 2, 28, 28])
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        blocks: int = 0,
        hidden_features: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        groups: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = torch.Size(image_shape)
        sizes = _sizes(self.image_shape, channels[::-1], groups)[::-1]
        self.start = torch.Size([channels[0], *sizes[0]])
        hidden = [nn.Linear(in_features, hidden_features), in_place(activation)] if hidden_features else []
        self.first = nn.Sequential(*hidden, nn.Linear(hidden_features or in_features, self.start.numel()))
        layers: list[nn.Module] = []
        for n, m, size in zip(channels, [*channels[1:], self.image_shape[0]], sizes[1:], strict=True):
            layers += [Residual(n, activation, groups, zero=True) for _ in range(blocks)]
            layers += [*_activated(n, activation, groups), _Double(size), nn.Conv2d(n, m, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Maps vectors (*, in_features) to images (*, C, H, W)."""
        return over_images(self.body, self.first(z).unflatten(-1, self.start))


class _Double(nn.Module):
    """Repeats every row and column, the last perhaps once only."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        return doubled(h, self.size)


def _activated(channels: int, activation: type[nn.Module], groups: int) -> list[nn.Module]:
    """Returns the layers of an activation, normalised before if wanted."""
    return [*([nn.GroupNorm(groups, channels)] if groups else []), in_place(activation)]


def _sizes(image_shape: torch.Size, channels: Sequence[int], groups: int) -> list[tuple[int, int]]:
    """Returns height and width before and after every halving, the channels being those after it."""
    sizes = halved(image_shape, len(channels))
    for m, (height, width) in zip(channels, sizes[1:], strict=True):
        if groups and m * height * width <= groups:
            raise ValueError(
                f"groups: expected fewer than {m * height * width}, since a level is {m} x {height} x {width}, "
                f"and a number normalised by itself is zero; got {groups}"
            )
    return sizes
