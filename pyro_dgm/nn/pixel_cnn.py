r"""The networks of PixelCNN and of the gated PixelCNN.

PixelCNN is a stack of masked convolutions (:mod:`pyro_dgm.nn.causal_convolution`): one of mask A on the image, then
residual blocks of mask B,

.. math::
    h \leftarrow h + W''_{1 \times 1} * \sigma(W'_{3 \times 3} * \sigma(W_{1 \times 1} * \sigma(h) + V c))

of 2h, h, h and 2h channels (van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016,
arXiv:1601.06759). It has a blind spot: a step to the left or upwards sees at most one column to the right for each row
it climbs, so what lies further up and to the right than that is never seen, however many blocks there are. (The first
convolution, k x k, sees (k - 1) / 2 columns to the right in each of its rows.)

The gated PixelCNN has none. A vertical stack v sees all rows above; a horizontal stack h sees v and its own row:

.. math::
    v &\leftarrow \mathrm{gate}(a), & a &= W_v * v + V_v c \\
    h &\leftarrow h + W_{1 \times 1} * \mathrm{gate}(W_h * h + V_h c + W_{1 \times 1} * a), &
    \mathrm{gate}(f, g) &= \tanh(f) \odot \sigma(g)

(van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu, Conditional Image Generation with PixelCNN
Decoders, 2016, arXiv:1606.05328). Both end in :math:`W * \sigma(W * \sigma(h))`, 1 x 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._shapes import as_image_shape
from .activation import in_place
from .causal_convolution import (
    Apply,
    CausalConv2d,
    VerticalConv2d,
    Walks,
    as_batch,
    as_columns,
    as_row,
    by_group,
    channel_axis,
    groups_of,
)
from .mlp import zero_
from .walk import Conditioner, Walk, raster


class RasterNetwork(Conditioner):
    """A network in raster order; subclasses define ``compute(x, do)``, which gives C P channels from an image's.

    Args:
        event_shape: Shape of an image, (C, H, W).
        in_per_feature: Numbers s that stand for a number.
        out_per_feature: Numbers P given per number.
        kernel_sizes: Sizes of the kernels, which have to be odd.
        hidden_channels: Channels that are divided among the colours.

    Raises:
        ValueError: If ``event_shape`` is no image's, a kernel's size is even, or there are fewer channels than colours.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        in_per_feature: int,
        out_per_feature: int,
        kernel_sizes: Sequence[int],
        hidden_channels: int,
    ) -> None:
        event_shape = as_image_shape(event_shape)
        first, *others = kernel_sizes
        if first < 3 or any(k < 1 for k in others) or any(k % 2 == 0 for k in kernel_sizes):
            raise ValueError(f"kernel_size: expected odd numbers, the first at least 3, got {[*kernel_sizes]}")
        if hidden_channels < event_shape[0]:
            raise ValueError(
                f"hidden_channels: expected at least one for each of {event_shape[0]} colours, got {hidden_channels}"
            )
        super().__init__(event_shape, in_per_feature, raster(event_shape))
        self.out_per_feature = out_per_feature

    def compute(self, x: Tensor | None, do: Apply) -> Tensor:
        """Returns the network's channels; ``do`` applies a layer to them, in one pass or in a walk."""
        raise NotImplementedError(f"{type(self).__name__} lacks compute")

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x``, (*, C s, H, W), and ``context``, (*, context), to (*, C, H, W, P)."""
        x, context, batch_shape = as_batch(x, context)
        out = self.compute(x, lambda layer, h: layer(h, context))
        out = out.unflatten(1, (-1, self.out_per_feature)).movedim(2, -1)
        return out.reshape(*batch_shape, *out.shape[1:])


class PixelCNNNetwork(RasterNetwork):
    """The network of PixelCNN.

    Args:
        event_shape: Shape of an image, (C, H, W).
        out_per_feature: Numbers P given per number.
        hidden_channels: Channels h within the residual blocks; there are 2h between them.
        blocks: Number of residual blocks.
        kernel_size: Size of the first kernel.
        context: Width of the context, 0 for none.
        activation: Class of the activation.
        in_per_feature: Numbers s that stand for a number.

    Raises:
        ValueError: As :class:`RasterNetwork` does, or if there are too few blocks.

    Example:
        >>> f = PixelCNNNetwork((3, 4, 4), 2, 6, 1)
        >>> f(torch.zeros(5, 3, 4, 4)).shape
        torch.Size([5, 3, 4, 4, 2])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_per_feature: int,
        hidden_channels: int = 32,
        blocks: int = 7,
        kernel_size: int = 7,
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        *,
        in_per_feature: int = 1,
    ) -> None:
        if blocks < 0:
            raise ValueError(f"blocks: expected no negative number, got {blocks}")
        super().__init__(event_shape, in_per_feature, out_per_feature, (kernel_size,), hidden_channels)
        colours, r = self.event_shape[0], kernel_size // 2
        image, h, wide, out = (
            groups_of(n, colours)
            for n in (colours * in_per_feature, hidden_channels, 2 * hidden_channels, colours * out_per_feature)
        )
        self.first = CausalConv2d(image, wide, r, r, r, strict=True, context=context)
        self.blocks = nn.ModuleList(_Residual(wide, h, context, activation) for _ in range(blocks))
        self.last = _Last(wide, wide, out, activation)

    def compute(self, x: Tensor | None, do: Apply) -> Tensor:
        """Returns the network's channels."""
        h = do(self.first, x)
        for block in self.blocks:
            h = block.compute(h, do)
        return self.last.compute(h, do)

    def walk(self, context: Tensor | None, size: int) -> Walk:
        """Returns the walk through the numbers of ``size`` data."""
        return _ColumnsWalk(self, context, size)


class _Residual(nn.Module):
    """h + W'' * sigma(W' * sigma(W * sigma(h) + V c))."""

    def __init__(self, wide: list[int], h: list[int], context: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.narrow = CausalConv2d(wide, h, context=context)
        self.middle = CausalConv2d(h, h, 1, 1, 1)
        self.widen = CausalConv2d(h, wide)
        self.activation, self.sigma = activation(), in_place(activation)

    def compute(self, h: Tensor, do: Apply) -> Tensor:
        y = do(self.narrow, self.activation(h))
        y = do(self.middle, self.sigma(y))
        return h + do(self.widen, self.sigma(y))


class _Last(nn.Module):
    """W' * sigma(W * sigma(h)), which starts at zero."""

    def __init__(self, h: list[int], hidden: list[int], out: list[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.hidden, self.out = CausalConv2d(h, hidden), zero_(CausalConv2d(hidden, out))
        self.activation = in_place(activation)

    def compute(self, h: Tensor, do: Apply) -> Tensor:
        return do(self.out, self.activation(do(self.hidden, self.activation(h))))


class _ColumnsWalk(Walk):
    """The walk of PixelCNN, all of whose layers go column by column; made by :meth:`PixelCNNNetwork.walk`."""

    def __init__(self, network: PixelCNNNetwork, context: Tensor | None, size: int) -> None:
        self.network, self.walks = network, Walks({network: network.event_shape[-1]}, context, size)
        self.first = self.walks[network.first]

    def output(self) -> Tensor:
        """Returns the numbers given for the next number, with shape (n, out_per_feature)."""
        return self.network.compute(None, self.walks.apply).mT

    def see(self, x: Tensor) -> None:
        """Makes the next number known, with shape (in_per_feature, n)."""
        self.first.see(x)

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.walks.select(index)


class GatedPixelCNNNetwork(RasterNetwork):
    """The network of the gated PixelCNN.

    Args:
        event_shape: Shape of an image, (C, H, W).
        out_per_feature: Numbers P given per number.
        hidden_channels: Channels p of either stack.
        layers: Number of layers.
        kernel_size: Size of the kernels.
        first_kernel_size: Size of the first layer's kernels.
        context: Width of the context, 0 for none.
        activation: Class of the activation of the last two layers.
        in_per_feature: Numbers s that stand for a number.

    Raises:
        ValueError: As :class:`RasterNetwork` does, or if there is no layer.

    Example:
        >>> f = GatedPixelCNNNetwork((1, 4, 4), 2, 6, 2, context=3)
        >>> f(torch.zeros(5, 1, 4, 4), torch.zeros(2, 1, 3)).shape
        torch.Size([2, 5, 1, 4, 4, 2])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_per_feature: int,
        hidden_channels: int = 32,
        layers: int = 8,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        *,
        in_per_feature: int = 1,
    ) -> None:
        if layers < 1:
            raise ValueError(f"layers: expected at least 1, got {layers}")
        sizes = [first_kernel_size, *[kernel_size] * (layers - 1)]
        super().__init__(event_shape, in_per_feature, out_per_feature, sizes, hidden_channels)
        colours = self.event_shape[0]
        image, p, out = (
            groups_of(n, colours)
            for n in (colours * in_per_feature, hidden_channels, colours * out_per_feature)
        )  # fmt: skip
        inputs = [image, *[p] * (layers - 1)]
        self.layers = nn.ModuleList(
            _Gated(x, p, size // 2, context, first=k == 0)
            for k, (x, size) in enumerate(zip(inputs, sizes, strict=True))
        )
        self.last = _Last(p, p, out, activation)

    def compute(self, x: Tensor | None, do: Apply) -> Tensor:
        """Returns the network's channels."""
        return self.horizontal(x, self.vertical(x, do), do)

    def vertical(self, x: Tensor | None, do: Apply) -> list[Tensor]:
        """Returns what the layers of the vertical stack give to those of the horizontal one."""
        links, v = [], x
        for layer in self.layers:
            a = do(layer.vertical, v)
            links.append(do(layer.link, a))
            v = gate(a)
        return links

    def horizontal(self, x: Tensor | None, links: Sequence[Tensor], do: Apply) -> Tensor:
        """Returns the network's channels, given what the vertical stack gives."""
        h = x
        for layer, link in zip(self.layers, links, strict=True):
            y = do(layer.out, gate(do(layer.horizontal, h) + link))
            h = y if layer.first else h + y
        return self.last.compute(h, do)

    def walk(self, context: Tensor | None, size: int) -> Walk:
        """Returns the walk through the numbers of ``size`` data."""
        return _StacksWalk(self, context, size)


class _Gated(nn.Module):
    """A layer of both stacks; see the module."""

    def __init__(self, x: list[int], p: list[int], r: int, context: int, first: bool) -> None:
        super().__init__()
        self.vertical = VerticalConv2d(len(x), 2 * len(p), r, r, strict=first, context=context)
        self.link = VerticalConv2d(2 * len(p), 2 * len(p))
        self.horizontal = CausalConv2d(x, p + p, left=r, strict=first, context=context)
        self.out = CausalConv2d(p, p)
        self.first = first


def gate(h: Tensor) -> Tensor:
    """Returns tanh(f) sigmoid(g), f and g the halves of the channels."""
    f, g = h.chunk(2, channel_axis(h))
    return f.tanh() * g.sigmoid()


class _StacksWalk(Walk):
    """The walk of the gated PixelCNN: the vertical stack row by row; made by :meth:`GatedPixelCNNNetwork.walk`."""

    def __init__(self, network: GatedPixelCNNNetwork, context: Tensor | None, size: int) -> None:
        self.network, self.walks = network, Walks({network: network.event_shape[-1]}, context, size)
        self.order, self.sizes = by_group(network.layers[0].horizontal.out_groups)
        self.place = network.event_shape[0], network.event_shape[2]
        first = network.layers[0]
        self.above, self.left = self.walks[first.vertical], self.walks[first.horizontal]
        self.seen: list[Tensor] = []
        self._begin_row()

    def _begin_row(self) -> None:
        rows = self.network.vertical(None, self.walks.apply)
        self.links = [as_columns(row[:, self.order], self.sizes) for row in rows]

    def output(self) -> Tensor:
        """Returns the numbers given for the next number, with shape (n, out_per_feature)."""
        colours, width = self.place
        if len(self.seen) == colours * width:
            columns = [torch.cat(self.seen[k : k + colours]) for k in range(0, len(self.seen), colours)]
            self.above.see(as_row(columns))
            self.seen = []
            self._begin_row()
        j, colour = divmod(len(self.seen), colours)
        links = [columns[j][colour] for columns in self.links]
        return self.network.horizontal(None, links, self.walks.apply).mT

    def see(self, x: Tensor) -> None:
        """Makes the next number known, with shape (in_per_feature, n)."""
        self.left.see(x)
        self.seen.append(x)

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.walks.select(index)
        self.seen = [x[:, index] for x in self.seen]
        self.links = [[[h[:, index] for h in column] for column in columns] for columns in self.links]
