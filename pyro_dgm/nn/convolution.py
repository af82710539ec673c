r"""Convolutional networks for images, with a context.

.. math::
    h_1 = W_1 * x + V c + P + b_1, \qquad \theta = W_n * \sigma(h_{n-1}) + b_n

with :math:`*` a convolution that keeps height and width. The context :math:`c` is a vector: it is added to the first
hidden layer at every pixel alike. The positions :math:`P`, if wanted, are free, one number per channel and pixel: they
tell a convolution where it is. Between the two stands either one pixel-wise layer, or residual blocks

.. math::
    h \leftarrow h + W'' * \sigma(W' * \sigma(h))

There is no batch normalisation: with it the density of a datum would depend on its batch in training and on running
averages in evaluation, two different models. Images may have any batch dimensions, and activations are kept in the
memory format ``channels_last``, in which convolutions need no reordering.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._shapes import as_image_shape
from .activation import in_place
from .mlp import zero_


class ConvNet(nn.Module):
    r"""A network from images to as many numbers per pixel as wanted, which starts at zero.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        hidden_channels: Channels of the hidden layers; 0 for a single convolution.
        blocks: Number of residual blocks of two 3x3 convolutions (RealNVP: Dinh, Sohl-Dickstein and Bengio, 2016,
            arXiv:1605.08803); 0 for one 1x1 convolution in their place (Glow: Kingma and Dhariwal, 2018,
            arXiv:1807.03039).
        context: Width of the context, 0 for none.
        activation: Class of the activation.
        positions: Height and width of the images, for positions P; none when ``None``.

    Raises:
        ValueError: If a number is negative; with positions, when shown images of another size.

    Example:
        >>> f = ConvNet(3, 2, 8, blocks=1, context=5)
        >>> f(torch.zeros(10, 3, 6, 6), torch.zeros(4, 1, 5)).shape
        torch.Size([4, 10, 2, 6, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 64,
        blocks: int = 0,
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        positions: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if hidden_channels < 0 or blocks < 0:
            raise ValueError(
                f"hidden_channels, blocks: expected no negative number, got {hidden_channels} and {blocks}"
            )
        width = hidden_channels or out_channels
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.positions = None if positions is None else nn.Parameter(torch.zeros(*positions, width))
        if not hidden_channels:
            zero_(self.first)
            if self.context is not None:
                nn.init.zeros_(self.context.weight)
            self.body = nn.Sequential()
            return
        middle = [Residual(width, activation) for _ in range(blocks)]
        middle = middle or [nn.Sequential(in_place(activation), nn.Conv2d(width, width, 1))]
        self.body = nn.Sequential(*middle, in_place(activation), zero_(nn.Conv2d(width, out_channels, 3, padding=1)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps x, shape (*, in_channels, H, W), and the context, shape (*, context), to (*, out_channels, H, W)."""
        h = over_images(self.first, x)
        if self.context is not None:
            h = h + self.context(context)[..., None, None]
        if self.positions is not None:
            height, width, _ = self.positions.shape
            if x.shape[-2:] != (height, width):
                raise ValueError(f"x: expected images of {height}x{width}, as the positions are, got {tuple(x.shape)}")
            h = h + self.positions.movedim(-1, -3)
        return over_images(self.body, h)


class Residual(nn.Module):
    """h + W'' * sigma(W' * sigma(h)), with group normalisation before each activation if wanted.

    Args:
        channels: Channels of h.
        activation: Class of the activation.
        groups: Groups of channels that are normalised, 0 for none.
        zero: Whether W'' starts at zero, the block as the identity.
    """

    def __init__(self, channels: int, activation: type[nn.Module], groups: int = 0, zero: bool = False) -> None:
        super().__init__()
        norms = [[nn.GroupNorm(groups, channels)] if groups else [] for _ in range(2)]
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        first = in_place(activation) if groups else activation()
        self.layers = nn.Sequential(*norms[0], first, convolutions[0], *norms[1], in_place(activation), convolutions[1])
        if zero:
            zero_(convolutions[1])

    def forward(self, h: Tensor) -> Tensor:
        """Maps (n, channels, H, W) to the same shape."""
        return h + self.layers(h)


def channels_last(x: Tensor) -> Tensor:
    """Returns images in that memory format, by operations that ``torch.func.vmap`` knows too."""
    last = x.movedim(-3, -1)
    return x if last.is_contiguous() else last.contiguous().movedim(-1, -3)  # needless views slow backward


def over_images(f: nn.Module, x: Tensor) -> Tensor:
    """Applies to images with any batch dimensions what wants exactly one.

    Args:
        f: Maps (n, C, H, W) to (n, C', H', W').
        x: Images, with shape (*, C, H, W).
    """
    batch_shape = x.shape[:-3]
    if len(batch_shape) != 1:
        x = x.reshape(batch_shape.numel(), *x.shape[-3:])
    y = f(channels_last(x))
    return y if len(batch_shape) == 1 else y.reshape(*batch_shape, *y.shape[1:])


def halved(image_shape: torch.Size, levels: int) -> list[tuple[int, int]]:
    """Returns height and width before and after each of so many halvings; an odd size is halved upwards.

    Args:
        image_shape: Shape (C, H, W) of an image.
        levels: Number of halvings.

    Raises:
        ValueError: If it is no shape of an image, or there is no level.
    """
    _, height, width = as_image_shape(image_shape, "image_shape")
    if levels < 1:
        raise ValueError("channels: expected at least one level, got none; GatedMLP and MLP are without")
    sizes = [(height, width)]
    for _ in range(levels):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def doubled(h: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeats every row and column of images, the last perhaps once only, so that they have this height and width."""
    return F.interpolate(h, scale_factor=2.0)[..., : size[0], : size[1]]
