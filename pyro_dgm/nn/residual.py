r"""Residual networks between noise, images and scores, for the stabler games.

.. math::
    G:\; h \leftarrow \mathrm{up}(h) * W_0 + W_2 * \rho(\mathrm{up}(\rho(h)) * W_1), \qquad
    D:\; h \leftarrow \mathrm{down}\bigl(h * W_0 + W_2 * \rho(W_1 * \rho(h))\bigr)

In the generator :math:`\rho` is batch normalisation, given the context if there is one, and a rectifier; in the critic
it is a rectifier alone. up repeats pixels, down averages four of them. The critic's score of an image and a context is

.. math::
    D(x, c) = w^\top \phi(x) + b + c^\top V \phi(x), \qquad \phi(x) = \sum_{\mathrm{pixels}} \mathrm{ReLU}(h)

the *projection* of the context on the features: the form that the log-ratio of two softmax models of the class has.
(Blocks: Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, Improved Training of Wasserstein GANs, 2017,
arXiv:1704.00028, and Miyato, Kataoka, Koyama and Yoshida, 2018, arXiv:1802.05957; projection: Miyato and Koyama, cGANs
with Projection Discriminator, 2018, arXiv:1802.05637.)
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._config import Configured
from .._shapes import broadcast_shapes
from .attention import SelfAttention
from .batch_norm import BatchNorm
from .convolution import channels_last, doubled, halved
from .spectral import spectrally_normalized


class ResidualGenerator(Configured, nn.Module):
    """A network from noise to images of unbounded numbers, which a model maps to where its data live.

    Args:
        in_features: Width of the noise z.
        image_shape: Shape (C, H, W) of an image.
        context: Width of a context, on which scale and shift of every batch normalisation depend, 0 for none.
        channels: Channels at the start and after each doubling; four times 256 for 32 pixels in the second paper.
        attention: Height of the maps that a :class:`SelfAttention` works on, 0 for none.
        spectral_norm: Whether layers have spectral normalisation, as in Zhang et al., 2018, arXiv:1805.08318.

    Raises:
        ValueError: If there is no level, none of the height for attention, or the shape is that of no image.

    Example:
        >>> f = ResidualGenerator(128, (1, 28, 28), context=10, channels=(8, 8, 8, 8), attention=14)
        >>> f(torch.zeros(5, 7, 128), torch.zeros(7, 10)).shape
        torch.Size([5, 7, 1, 28, 28])
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        context: int = 0,
        channels: Sequence[int] = (256, 256, 256, 256),
        attention: int = 0,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = halved(torch.Size(image_shape), len(channels) - 1)[::-1]
        self.start = torch.Size([channels[0], *sizes[0]])
        self.first = nn.Linear(in_features, self.start.numel())
        self.blocks = nn.ModuleList()
        for n, m, size in zip(channels, channels[1:], sizes[1:], strict=False):
            self.blocks.append(_Up(n, m, size, context))
        self.attention = _attention(attention, [size[0] for size in sizes[1:]], channels[1:])
        self.norm = BatchNorm(channels[-1], context)
        self.last = nn.Conv2d(channels[-1], image_shape[0], 3, padding=1)
        self.apply(_initialize)
        if spectral_norm:
            spectrally_normalized(self)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps noise (*, in_features) and contexts (*, context), which broadcast, to images (*, C, H, W)."""
        batch_shape = z.shape[:-1]
        if context is not None:
            batch_shape = broadcast_shapes(batch_shape, context.shape[:-1])
            context = context.expand(*batch_shape, -1).reshape(-1, context.shape[-1])
        h = self.first(z).expand(*batch_shape, -1).reshape(-1, *self.start)
        h = channels_last(h)
        for level, block in enumerate(self.blocks):
            h = _attend(self.attention, level, block(h, context))
        return self.last(self.norm(h, context).relu()).reshape(*batch_shape, -1, *h.shape[-2:])


class ResidualCritic(Configured, nn.Module):
    """A network from images to scores, with the projection of a context.

    Args:
        image_shape: Shape (C, H, W) of an image.
        context: Width of the context, 0 for none.
        channels: Channels after each halving.
        blocks: Blocks after the last halving.
        attention: Height of the maps that a :class:`SelfAttention` works on, 0 for none.
        spectral_norm: Whether layers have spectral normalisation (:class:`SpectralNorm`).
        out_features: Numbers per image: a score, and perhaps logits of classes.

    Raises:
        ValueError: If there is no level, none of the height for attention, or the shape is that of no image.

    Example:
        >>> f = ResidualCritic((3, 32, 32), context=10, channels=(8, 8), spectral_norm=True)
        >>> f(torch.zeros(5, 7, 3, 32, 32), torch.zeros(7, 10)).shape
        torch.Size([5, 7, 1])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        context: int = 0,
        channels: Sequence[int] = (128, 128),
        blocks: int = 2,
        attention: int = 0,
        spectral_norm: bool = False,
        out_features: int = 1,
    ) -> None:
        super().__init__()
        sizes = halved(torch.Size(image_shape), len(channels))
        widths = [image_shape[0], *channels]
        levels = [_Down(n, m, first=level == 0) for level, (n, m) in enumerate(zip(widths, channels, strict=False))]
        flat = [_Down(channels[-1], channels[-1], halve=False) for _ in range(blocks)]
        self.blocks = nn.ModuleList([*levels, *flat])
        self.attention = _attention(attention, [size[0] for size in sizes[1:]], channels)
        self.last = nn.Linear(channels[-1], out_features)
        self.projection = nn.Linear(context, channels[-1], bias=False) if context else None
        self.apply(_initialize)
        if spectral_norm:
            spectrally_normalized(self)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps images (*, C, H, W) and contexts (*, context), which broadcast, to scores (*, out_features)."""
        phi = self.features(x)
        score = self.last(phi)
        if self.projection is not None:
            score = score + (self.projection(context) * phi).sum(-1, keepdim=True)
        return score

    def features(self, x: Tensor) -> Tensor:
        """Returns the features that the score is linear in, with shape (*, channels)."""
        h = channels_last(x.reshape(-1, *x.shape[-3:]))
        for level, block in enumerate(self.blocks):
            h = _attend(self.attention, level, block(h))
        return h.relu().sum((-2, -1)).reshape(*x.shape[:-3], -1)


class _Up(nn.Module):
    """A block of the generator, which doubles the image."""

    def __init__(self, n: int, m: int, size: tuple[int, int], context: int) -> None:
        super().__init__()
        self.size = size
        self.norms = nn.ModuleList([BatchNorm(n, context), BatchNorm(m, context)])
        self.first, self.second = nn.Conv2d(n, m, 3, padding=1), nn.Conv2d(m, m, 3, padding=1)
        self.shortcut = nn.Conv2d(n, m, 1)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        one, two = self.norms
        inner = self.first(doubled(one(h, context).relu(), self.size))
        short = doubled(self.shortcut(h), self.size)  # a pixel-wise map commutes with repetition
        return short + self.second(two(inner, context).relu())


class _Down(nn.Module):
    """A block of the critic; the first of all reads the image without a rectifier."""

    def __init__(self, n: int, m: int, *, halve: bool = True, first: bool = False) -> None:
        super().__init__()
        middle = m if first else n
        self.halve, self.rectify = halve, not first
        self.first, self.second = nn.Conv2d(n, middle, 3, padding=1), nn.Conv2d(middle, m, 3, padding=1)
        self.shortcut = nn.Conv2d(n, m, 1) if halve else None

    def forward(self, h: Tensor) -> Tensor:
        inner = self.second(self.first(h.relu() if self.rectify else h).relu())
        if self.shortcut is None:
            return h + inner
        return self.shortcut(_pool(h)) + _pool(inner)  # a pixel-wise map commutes with means


def _pool(h: Tensor) -> Tensor:
    return F.avg_pool2d(h, 2, ceil_mode=True)


def _attention(height: int, heights: Sequence[int], channels: Sequence[int]) -> nn.ModuleDict:
    """Returns the block of attention under the number of the level that it follows, if there is one."""
    if height and height not in heights:
        raise ValueError(f"attention: expected 0 or the height of a level, one of {list(heights)}, got {height}")
    if not height:
        return nn.ModuleDict()
    level = heights.index(height)
    return nn.ModuleDict({str(level): SelfAttention(channels[level])})


def _attend(attention: nn.ModuleDict, level: int, h: Tensor) -> Tensor:
    return attention[str(level)](h) if str(level) in attention else h


def _initialize(layer: nn.Module) -> None:
    """Draws weights as Miyato et al. do: Glorot's, those of 3x3 convolutions larger by the square root of 2."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight, sqrt(2) if layer.weight.shape[2:] == (3, 3) else 1.0)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
