r"""The network of PixelCNN++: two streams of shifted convolutions, through several resolutions and back.

A vertical stream v sees the rows above a pixel, a horizontal stream h those, its own row to the left, and v. Both
consist of gated residual blocks

.. math::
    h \leftarrow h + a \odot \sigma(b), \qquad
    (a, b) = W_2 * \mathrm{drop}\, \phi\bigl(W_1 * \phi(h) + W_3 \phi(v) + W_4 \phi(s)\bigr) + V c, \qquad
    \phi(h) = \mathrm{elu}([h, -h])

with kernels of 2 x 3 pixels in v, which has no third term, and 2 x 2 in h. A level is a number of blocks on the way
down, the level below at half the resolution, and blocks on the way up, each with a shortcut s from one on the way down:

.. math::
    h_0 \to h_1 \to \dots \to h_n \to [\text{half} \to \text{level} \to \text{double}] \to
    g_n(\cdot, h_n) \to \dots \to g_0(\cdot, h_0)

The lowest level has nothing in between, and its way up starts at :math:`h_n`, so that there is one block less.
(Salimans, Karpathy, Chen and Kingma, PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood
and Other Modifications, 2017, arXiv:1701.05517; without its weight normalisation.)

In a walk the vertical stream goes row by row, the horizontal one pixel by pixel. A level at half the resolution has
something new in every other row and every other pixel of it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .causal_convolution import (
    Apply,
    CausalConv2d,
    ColumnWalk,
    RowWalk,
    VerticalConv2d,
    Walks,
    as_batch,
    as_columns,
    as_row,
    channel_axis,
)
from .mlp import zero_

Halved = Callable[["Level", Tensor, Callable[[Tensor], Tensor]], Tensor]
"""Takes a level's activations to half the resolution, through what is there, and back."""


class PixelCNNPlusPlusNetwork(nn.Module):
    """The network of PixelCNN++: from an image to numbers for each pixel, given the pixels before it.

    Args:
        event_shape: Shape of an image, (C, H, W).
        out_channels: Numbers given per pixel.
        hidden_channels: Channels of either stream.
        blocks: Number of blocks of a level on its way down.
        levels: Number of resolutions, each half the one before.
        dropout: Share of the numbers within a block that training leaves out.
        context: Width of the context, 0 for none.
        in_per_feature: Numbers s that stand for a number.

    Raises:
        ValueError: If there is no block or no level, or the sides cannot be halved so often.

    Example:
        >>> f = PixelCNNPlusPlusNetwork((3, 4, 4), 10, 6, 1, 2)
        >>> f(torch.zeros(5, 3, 4, 4)).shape
        torch.Size([5, 10, 4, 4])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_channels: int,
        hidden_channels: int = 64,
        blocks: int = 2,
        levels: int = 3,
        dropout: float = 0.0,
        context: int = 0,
        *,
        in_per_feature: int = 1,
    ) -> None:
        super().__init__()
        if blocks < 1 or levels < 1:
            raise ValueError(f"blocks, levels: expected at least 1 of each, got {blocks} and {levels}")
        channels, *sides = event_shape
        if any(side % 2 ** (levels - 1) for side in sides):
            raise ValueError(
                f"levels: expected sides that can be halved {levels - 1} times, got {' x '.join(map(str, sides))}; "
                "take fewer levels"
            )
        x, h = channels * in_per_feature, hidden_channels
        self.above = VerticalConv2d(x, h, 2, 1, strict=True)
        self.left = CausalConv2d([0] * x, [0] * h, 1, 1, 1, strict=True)
        self.levels = nn.ModuleList(
            Level(h, blocks, blocks + (k + 1 < levels), dropout, context, halved=k + 1 < levels) for k in range(levels)
        )
        self.last = zero_(CausalConv2d([0] * h, [0] * out_channels))
        self.width = sides[-1]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x``, (*, C s, H, W), and ``context``, (*, context), to (*, out_channels, H, W)."""
        x, context, batch_shape = as_batch(x, context)

        def do(layer: nn.Module, h: Tensor) -> Tensor:
            return layer(h, context)

        links = self.vertical(x, do, lambda level, v, lower: level.enlarge_rows(lower(do(level.reduce_rows, v))))
        out = self.horizontal(
            x, links.__getitem__, do, lambda level, h, lower: level.enlarge(lower(do(level.reduce, h)))
        )
        return out.reshape(*batch_shape, *out.shape[1:])

    def vertical(self, x: Tensor | None, do: Apply, halved: Halved) -> dict[nn.Module, Tensor]:
        """Returns what the vertical stream gives to each block of the horizontal one."""
        links = {}

        def step(block: Block, v: Tensor, shortcut: Tensor | None) -> Tensor:
            v = block.vertical.compute(v, None, shortcut, do)
            links[block] = do(block.link, concat_elu(v))
            return v

        self._through(do(self.above, x), step, halved)
        return links

    def horizontal(self, x: Tensor | None, link: Callable[[nn.Module], Tensor], do: Apply, halved: Halved) -> Tensor:
        """Returns the network's channels, given what the vertical stream gives to a block."""

        def step(block: Block, h: Tensor, shortcut: Tensor | None) -> Tensor:
            return block.horizontal.compute(h, link(block), shortcut, do)

        return do(self.last, F.elu(self._through(do(self.left, x), step, halved)))

    def _through(self, h: Tensor, step: Callable[..., Tensor], halved: Halved, k: int = 0) -> Tensor:
        """Takes a stream through level k and those below it."""
        level, kept = self.levels[k], [h]
        for block in level.down:
            kept.append(step(block, kept[-1], None))
        if k + 1 < len(self.levels):
            h = halved(level, kept[-1], partial(self._through, step=step, halved=halved, k=k + 1))
        else:
            h = kept.pop()
        for block in level.up:
            h = step(block, h, kept.pop())
        return h

    def walk(self, context: Tensor | None, size: int) -> "PixelWalk":
        """Returns the walk through the pixels of ``size`` data."""
        return PixelWalk(self, context, size)


class Level(nn.Module):
    """The blocks of a resolution, and the ways to the next and back; see the module."""

    def __init__(self, h: int, down: int, up: int, dropout: float, context: int, halved: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(Block(h, dropout, context) for _ in range(down))
        self.up = nn.ModuleList(Block(h, dropout, context, shortcut=True) for _ in range(up))
        if halved:
            self.reduce_rows = VerticalConv2d(h, h, 1, 1, stride=2)
            self.reduce = CausalConv2d([0] * h, [0] * h, 1, 1, stride=2)
            self.enlarge_rows = nn.ConvTranspose2d(h, h, (2, 3), 2, (0, 1), (0, 1))
            self.enlarge = nn.ConvTranspose2d(h, h, 2, 2)


class Block(nn.Module):
    """A residual block of either stream, and what the vertical one gives to the other."""

    def __init__(self, h: int, dropout: float, context: int, shortcut: bool = False) -> None:
        super().__init__()
        vertical = partial(VerticalConv2d, 2 * h)
        self.vertical = Residual(
            vertical(h, 1, 1), vertical(2 * h, 1, 1, context=context), vertical(h) if shortcut else None, dropout
        )
        self.link = vertical(h)

        def horizontal(out: int, side: int = 0, context: int = 0) -> CausalConv2d:
            return CausalConv2d([0] * (2 * h), [0] * out, side, side, context=context)

        self.horizontal = Residual(
            horizontal(h, 1), horizontal(2 * h, 1, context), horizontal(h) if shortcut else None, dropout
        )


class Residual(nn.Module):
    """h + a * sigmoid(b); see the module."""

    def __init__(self, first: nn.Module, second: nn.Module, shortcut: nn.Module | None, dropout: float) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = first, second, shortcut
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def compute(self, h: Tensor, link: Tensor | None, shortcut: Tensor | None, do: Apply) -> Tensor:
        """Returns the next h, from this one, what the vertical stream gives, and a shortcut."""
        y = do(self.first, concat_elu(h))
        y = y if link is None else y + link
        y = y if shortcut is None else y + do(self.shortcut, concat_elu(shortcut))
        y = do(self.second, self.dropout(concat_elu(y)))
        return h + F.glu(y, channel_axis(y))


def concat_elu(h: Tensor) -> Tensor:
    """Returns the elu of h and of -h, as twice as many channels."""
    return F.elu(torch.cat([h, -h], channel_axis(h)))


class PixelWalk:
    """The network's output at one pixel after another; made by :meth:`PixelCNNPlusPlusNetwork.walk`."""

    def __init__(self, network: PixelCNNPlusPlusNetwork, context: Tensor | None, size: int) -> None:
        width, levels = network.width, network.levels
        parts = {network.above: width, network.left: width, network.last: width}
        parts.update({level: width >> k for k, level in enumerate(levels)})
        self.network, self.walks = network, Walks(parts, context, size)
        self.rows, self.columns = {}, {}
        for k, level in enumerate(levels[:-1]):
            self.rows[level] = _HalvedRows(self.walks[level.reduce_rows], level.enlarge_rows)
            self.columns[level] = _HalvedColumns(self.walks[level.reduce], level.enlarge, width >> k)
        self.seen: list[Tensor] = []
        self._begin_row()

    def _begin_row(self) -> None:
        links = self.network.vertical(None, self.walks.apply, lambda level, v, lower: self.rows[level](v, lower))
        self.links = {block: deque(h for (h,) in as_columns(row, [row.shape[1]])) for block, row in links.items()}

    def output(self) -> Tensor:
        """Returns the numbers given for the next pixel, with shape (n, out_channels)."""
        if len(self.seen) == self.network.width:
            self.walks[self.network.above].see(as_row(self.seen))
            self.seen = []
            self._begin_row()
        return self.network.horizontal(
            None,
            lambda block: self.links[block].popleft(),
            self.walks.apply,
            lambda level, h, lower: self.columns[level](h, lower),
        ).mT

    def see(self, x: Tensor) -> None:
        """Makes the next pixel known, with shape (C s, n)."""
        self.walks[self.network.left].see(x)
        self.seen.append(x)

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        for part in (self.walks, *self.rows.values(), *self.columns.values()):
            part.select(index)
        self.seen = [x[:, index] for x in self.seen]
        self.links = {block: deque(h[:, index] for h in columns) for block, columns in self.links.items()}


class _HalvedRows:
    """To half the resolution and back, row by row."""

    def __init__(self, reduce: RowWalk, enlarge: nn.ConvTranspose2d) -> None:
        self.reduce, self.enlarge, self.weight, self.bias = reduce, enlarge, enlarge.weight, enlarge.bias
        self.second: list[Tensor] = []  # of two rows

    def __call__(self, v: Tensor, lower: Callable[[Tensor], Tensor]) -> Tensor:
        self.reduce.see(v)
        if self.second:
            return self.second.pop()
        v, f = lower(self.reduce.output()), self.enlarge
        v = F.conv_transpose2d(v, self.weight, self.bias, f.stride, f.padding, f.output_padding)
        first, *self.second = v.split(1, 2)
        return first

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.second = [row[index] for row in self.second]


class _HalvedColumns:
    """To half the resolution and back, pixel by pixel."""

    def __init__(self, reduce: ColumnWalk, enlarge: nn.ConvTranspose2d, width: int) -> None:
        self.reduce, self.width = reduce, width
        self.weight, self.bias = enlarge.weight.permute(2, 3, 1, 0), enlarge.bias[:, None]
        self.step = 0
        self.lower: list[Tensor] = []

    def __call__(self, h: Tensor, lower: Callable[[Tensor], Tensor]) -> Tensor:
        i, j = divmod(self.step, self.width)
        self.step += 1
        self.reduce.see(h)
        if i % 2 == j % 2 == 0:
            self.lower = self.lower if j else []
            self.lower.append(lower(self.reduce.output()))
        return torch.addmm(self.bias, self.weight[i % 2, j % 2], self.lower[j // 2])

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.lower = [h[:, index] for h in self.lower]
