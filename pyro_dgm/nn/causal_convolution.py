r"""Convolutions that see earlier pixels only, and walks through them.

Images are read row by row, pixel by pixel, colour by colour. A convolution is causal in this order where its kernel
stops at the pixel it stands on:

.. math::
    h'_{ij} = b + V c + \sum_{(k, l)} (M \odot W)_{kl}\, h_{i + k,\, j + l}, \qquad
    k < 0 \text{ or } (k = 0,\, l \le 0)

with context :math:`c`. Channels are divided into as many groups as there are colours, and at its own pixel the mask M
lets group g see groups < g (mask A, for a layer that reads the image itself) or <= g (mask B, for all others). (van den
Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759.) A convolution that sees
whole rows, those above or also its own, needs no mask.

In a walk images become known number by number. What lies above is summed up once for a whole row; at a pixel a layer is
then one product with its own pixel and those to the left, which are kept. A network is written once, for a function
that applies a layer: to images in one pass, in a walk to rows, with shape (n, channels, 1, W), or to columns, the
channels of one pixel in one colour's group, with shape (channels, n). Nothing is written in place, so gradients pass.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._shapes import broadcast_shapes
from .convolution import channels_last

Apply = Callable[[nn.Module, Tensor | None], Tensor]
"""Applies a layer to its input, ``None`` where that is the part of an image which is not known yet."""


def groups_of(channels: int, colours: int) -> list[int]:
    """Returns the group, 0..colours-1, of every channel: all alike in size, as far as can be.

    Example:
        >>> groups_of(5, 2)
        [0, 0, 0, 1, 1]
    """
    return [k * colours // channels for k in range(channels)]


def as_batch(x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
    """Returns images with one batch dimension, their contexts, and the batch shape.

    Args:
        x: Images, with shape (*, C, H, W).
        context: The context, with shape (*, context); a single one stays so.
    """
    shape = x.shape[:-3] if context is None else broadcast_shapes(x.shape[:-3], context.shape[:-1])
    n = shape.numel()
    if context is not None:
        single = context.shape[:-1].numel() == 1
        context = context.reshape(1, -1) if single else context.expand(*shape, -1).reshape(n, -1)
    x = x.expand(*shape, *x.shape[-3:]).reshape(n, *x.shape[-3:])
    return channels_last(x), context, shape


class _Contextual(nn.Conv2d):
    """A convolution without padding of its own, with a context."""

    def __init__(self, sizes: tuple[int, int], kernel: tuple[int, int], stride: int, context: int) -> None:
        super().__init__(*sizes, kernel, stride)
        self.context = nn.Linear(context, sizes[1], bias=False) if context else None

    def offset(self, context: Tensor | None) -> Tensor:
        """Returns b + V c, with shape (out_channels,) or (n, out_channels)."""
        return self.bias if self.context is None else self.bias + self.context(context)

    def convolve(self, x: Tensor, weight: Tensor, context: Tensor | None) -> Tensor:
        """Returns W * x + V c + b, x having its margins; in ``channels_last``, even if x has one channel."""
        out = channels_last(F.conv2d(x, weight, self.bias, self.stride))
        return out if self.context is None else out + self.context(context)[..., None, None]


class CausalConv2d(_Contextual):
    """A convolution that sees what comes before a number in raster order, and with mask B that number.

    Args:
        in_groups: The colour of every input channel, sorted.
        out_groups: The colour of every output channel.
        above: Rows of the kernel above the pixel.
        left: Columns of the kernel to the left of the pixel.
        right: Columns of the kernel to its right, in the rows above.
        strict: Whether the mask is A, and not B.
        stride: Step from an output to the next, in both directions.
        context: Width of the context, 0 for none.

    Example:
        >>> f = CausalConv2d([0, 1, 2], [0, 0, 1, 1, 2, 2], 1, 1, 1, strict=True)
        >>> f(torch.zeros(5, 3, 4, 4)).shape, f.mask[2, :, 1].tolist()
        (torch.Size([5, 6, 4, 4]), [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    """

    def __init__(
        self,
        in_groups: Sequence[int],
        out_groups: Sequence[int],
        above: int = 0,
        left: int = 0,
        right: int = 0,
        *,
        strict: bool = False,
        stride: int = 1,
        context: int = 0,
    ) -> None:
        super().__init__((len(in_groups), len(out_groups)), (above + 1, left + 1 + right), stride, context)
        self.in_groups, self.out_groups, self.strict = list(in_groups), list(out_groups), strict
        self.margins = (left, right, above, 0)
        mask = None
        if strict or right or self.in_groups[-1]:
            seen, sees = torch.tensor(self.in_groups), torch.tensor(self.out_groups)[:, None]
            mask = torch.ones_like(self.weight, requires_grad=False)
            mask[:, :, -1, left] = (sees > seen if strict else sees >= seen).to(mask.dtype)
            mask[:, :, -1, left + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps (n, in_channels, H, W) and (n, context) or (1, context) to (n, out_channels, H, W)."""
        return self.convolve(F.pad(x, self.margins) if any(self.margins) else x, self.masked(), context)

    def masked(self) -> Tensor:
        """Returns the kernel, zero where it must not see."""
        return self.weight if self.mask is None else self.weight * self.mask

    def walk(self, context: Tensor | None, size: int, width: int) -> "ColumnWalk":
        """Returns the walk through the columns of images of this width."""
        return ColumnWalk(self, context, size, width)


class VerticalConv2d(_Contextual):
    """A convolution that sees whole rows: those above a pixel, and unless strict its own.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        above: Rows of the kernel above the pixel.
        side: Columns of the kernel to the left, and to the right.
        strict: Whether the pixel's own row is not seen.
        stride: Step from an output to the next, in both directions.
        context: Width of the context, 0 for none.

    Example:
        >>> VerticalConv2d(3, 6, 2, 1, strict=True)(torch.zeros(5, 3, 4, 4)).shape
        torch.Size([5, 6, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        above: int = 0,
        side: int = 0,
        *,
        strict: bool = False,
        stride: int = 1,
        context: int = 0,
    ) -> None:
        super().__init__((in_channels, out_channels), (above + (not strict), 2 * side + 1), stride, context)
        self.margins = (side, side, above, -strict)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps (n, in_channels, H, W) and (n, context) or (1, context) to (n, out_channels, H, W)."""
        return self.convolve(F.pad(x, self.margins) if any(self.margins) else x, self.weight, context)

    def walk(self, context: Tensor | None, size: int, width: int) -> "RowWalk":
        """Returns the walk through the rows of images of this width."""
        return RowWalk(self, context, size, width)


class Walks(dict[nn.Module, "RowWalk | ColumnWalk"]):
    """The walks of all causal layers of a network.

    Args:
        parts: The parts of the network, and the width of the images in each.
        context: The context, with shape (n, context) or (1, context).
        size: Number n of data.
    """

    def __init__(self, parts: Mapping[nn.Module, int], context: Tensor | None, size: int) -> None:
        super().__init__()
        for part, width in parts.items():
            layers = (f for f in part.modules() if isinstance(f, CausalConv2d | VerticalConv2d))
            self.update({f: f.walk(context, size, width) for f in layers})

    def apply(self, layer: nn.Module, h: Tensor | None) -> Tensor:
        """Shows a layer the next part of its input, if that is known, and returns its output there."""
        walk = self[layer]
        if h is not None:
            walk.see(h)
        return walk.output()

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        for walk in self.values():
            walk.select(index)


class RowWalk:
    """A vertical convolution, row by row; made by :meth:`VerticalConv2d.walk`."""

    def __init__(self, conv: VerticalConv2d, context: Tensor | None, size: int, width: int) -> None:
        self.weight, self.side, self.stride = conv.weight, conv.margins[0], conv.stride
        self.offset = conv.offset(context)[..., None, None]
        self.rows = conv.weight.new_zeros(size, conv.in_channels, conv.kernel_size[0], width)

    def see(self, h: Tensor) -> None:
        """Makes the next row of the input known."""
        self.rows = torch.cat([self.rows[:, :, 1:], h], 2)

    def output(self) -> Tensor:
        """Returns the output's row at the last row seen, or if strict at the next."""
        return F.conv2d(F.pad(self.rows, (self.side, self.side)), self.weight, None, self.stride) + self.offset

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.rows = self.rows[index]
        self.offset = self.offset[index] if self.offset.dim() == 4 and len(self.offset) > 1 else self.offset


class ColumnWalk:
    """A causal convolution, pixel by pixel and colour by colour; made by :meth:`CausalConv2d.walk`."""

    def __init__(self, conv: CausalConv2d, context: Tensor | None, size: int, width: int) -> None:
        left, _, above, _ = self.margins = conv.margins
        self.colours, self.strict, self.stride, self.width = conv.in_groups[-1] + 1, conv.strict, conv.stride[0], width
        order, self.sizes = by_group(conv.out_groups)
        weight, offset = conv.weight[order], conv.offset(context)[..., order]
        self.offset = offset[:, None] if offset.dim() == 1 else offset.mT
        self.above = weight[:, :, :-1]
        own = weight[:, :, -1, : left + 1].mT.flatten(1).split(self.sizes)
        seen = [sum(g < c + (not conv.strict) for g in conv.in_groups) for c in range(self.colours)]
        self.weights = [w[:, : left * conv.in_channels + k] for w, k in zip(own, seen, strict=True)]
        self.rows = weight.new_zeros(size, conv.in_channels, above, width)
        self.groups: list[Tensor] = []
        self.row = 0
        self._begin_row()

    def see(self, h: Tensor) -> None:
        """Makes the next group of the input's channels known, at the next pixel if all groups are."""
        self._next_pixel()
        self.groups.append(h)

    def output(self) -> Tensor:
        """Returns the output's channels of the last group seen, or if strict of the next."""
        if self.strict:
            self._next_pixel()
        left = self.margins[0]
        j, colour = len(self.columns) - left, len(self.groups) - (not self.strict)
        seen = [*self.columns[j:], *self.groups] if left else self.groups
        h = seen[0] if len(seen) == 1 else torch.cat(seen)
        return torch.addmm(self.base[j // self.stride][colour], self.weights[colour], h)

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.rows = self.rows[index]
        self.columns, self.groups = ([h[:, index] for h in part] for part in (self.columns, self.groups))
        self.offset = _chosen(self.offset, index)
        self.base = [[_chosen(h, index) for h in column] for column in self.base]

    def _next_pixel(self) -> None:
        """Ends a pixel all of whose colours are known, and a row of such pixels."""
        if len(self.groups) < self.colours:
            return
        self.columns.append(self.groups[0] if self.colours == 1 else torch.cat(self.groups))
        self.groups = []
        if len(self.columns) == self.margins[0] + self.width:
            self.row += 1
            if self.margins[2]:
                self.rows = torch.cat([self.rows[:, :, 1:], as_row(self.columns[self.margins[0] :])], 2)
            self._begin_row()

    def _begin_row(self) -> None:
        """Sums up what lies above, for a whole row that has outputs."""
        left, right, above, _ = self.margins
        blank = self.offset.new_zeros(self.above.shape[1], len(self.rows))
        self.columns = [blank] * left
        if not above:
            self.base = [self.offset.split(self.sizes)] * -(-self.width // self.stride)
        elif self.row % self.stride == 0:
            sums = F.conv2d(F.pad(self.rows, (left, right)), self.above, None, self.stride)
            self.base = as_columns(sums, self.sizes, self.offset)


def by_group(groups: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the channels group by group, and how many each group has."""
    return sorted(range(len(groups)), key=groups.__getitem__), [groups.count(c) for c in range(max(groups) + 1)]


def channel_axis(h: Tensor) -> int:
    """Returns the dimension of the channels: of images or rows, (n, channels, H, W), or columns, (channels, n)."""
    return 1 if h.dim() == 4 else 0


def as_row(columns: Sequence[Tensor]) -> Tensor:
    """Returns W columns, each with shape (channels, n), as a row, (n, channels, 1, W)."""
    return torch.stack(columns, -1).movedim(1, 0)[:, :, None]


def as_columns(row: Tensor, sizes: Sequence[int], offset: Tensor | None = None) -> list[Sequence[Tensor]]:
    """Returns a row, (n, channels, 1, W), as W columns, each in groups of these sizes.

    Args:
        row: The row, its channels group by group.
        sizes: Channels of the groups.
        offset: What to add to each column, with shape (channels, n) or (channels, 1).
    """
    columns = row[:, :, 0].permute(2, 1, 0)
    columns = columns.contiguous() if offset is None else offset + columns
    return [column.split(sizes) for column in columns.unbind()]


def _chosen(h: Tensor, index: Tensor) -> Tensor:
    return h[:, index] if h.shape[1] > 1 else h
