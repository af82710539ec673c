r"""The walk through PixelRNN, number by number: of every layer, one colour of one pixel a step.

A colour of a pixel sees, in every layer,

.. math::
    a(i, j) = \underbrace{K_{\uparrow} * h(i-1, \cdot)}_{\text{for the whole row at once}}
            + \underbrace{K_{\leftarrow}\, h(i, j-1)}_{\text{once a pixel}} + K_{\bullet}\, u(i, j)

where of the last term a colour needs its own rows, and the columns of the colours up to its own: a prefix of what the
pixel's channels are so far. The states from the right of a Diagonal BiLSTM belong to the row above and are computed,
pixel after pixel, when a row starts.

Nothing is written in place, so gradients may be recorded. All that is kept has data in the last dimension but one.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .convolutional_lstm import ColourLinear, DiagonalBiLSTM, LSTMLayer, RowLSTM, cell
from .walk import Walk

if TYPE_CHECKING:
    from .pixel_rnn import PixelRNNNetwork


class Kept:
    """A part of the walk; ``kept`` names the attributes that depend on data: tensors, lists of them, parts."""

    kept: tuple[str, ...] = ()

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        for name in self.kept:
            setattr(self, name, _selected(getattr(self, name), index))


def _selected(value: Any, index: Tensor) -> Any:
    if isinstance(value, list):
        return [_selected(v, index) for v in value]
    if isinstance(value, Kept):
        value.select(index)
        return value
    return None if value is None else value[..., index, :]


class Pixelwise(Kept):
    """A :class:`~.ColourLinear`, colour by colour.

    Args:
        layer: The layer.
    """

    kept = ("pixel",)

    def __init__(self, layer: ColourLinear) -> None:
        weights = layer.masked()[:, layer.free :].chunk(layer.colours)
        step = weights[0].shape[1] // layer.colours
        self.weights = [w[:, : (c + 1) * step].mT for c, w in enumerate(weights)]
        self.biases = layer.bias.chunk(layer.colours)
        self.pixel: list[Tensor] = []

    def see(self, u: Tensor, a: Tensor | None = None) -> Tensor:
        """Sees the next colour of the input, and returns that colour of the output, both with shape (n, channels).

        Args:
            u: The colour.
            a: What is added to all colours of the output, in place of the bias.
        """
        c = len(self.pixel) % len(self.weights)
        self.pixel = [*self.pixel[:c], u] if c else [u]
        offset = self.biases[c] if a is None else a.chunk(len(self.weights), -1)[c]
        return torch.addmm(offset, torch.cat(self.pixel, -1), self.weights[c])


class LSTMWalk(Kept):
    """What the walks of both layers share; they define what enters a pixel from others.

    Args:
        layer: The layer.
        context: The context, with shape (n, context) or (1, context).
        size: Number n of data.
    """

    kept = ("biases", "inputs", "up", "us", "hs", "cs", "offset", "pixel_h", "pixel_c")

    def __init__(self, layer: LSTMLayer, context: Tensor | None, size: int) -> None:
        self.colours = layer.colours
        biases = torch.stack([inputs.bias for inputs in layer.inputs])[:, None, None]
        self.biases = list(layer.with_context(biases, context)[:, 0].expand(-1, size, -1))
        self.inputs, self.up = Pixelwise(layer.inputs[0]), Pixelwise(layer.up)
        self.us: list[Tensor] = []  # the pixels of this row so far: input, and states
        self.hs: list[Tensor] = []
        self.cs: list[Tensor] = []
        self.pixel_h: list[Tensor] = []  # the colours of this pixel so far
        self.pixel_c: list[Tensor] = []
        self.offset: Tensor | None = None  # what enters this pixel from others

    def start(self, image: Tensor) -> None:
        """Starts a row that is not the first.

        Args:
            image: The row of the image above, with shape (W, n, channels).
        """
        self.enter_row(image)
        self.us, self.hs, self.cs = [], [], []

    def enter_row(self, image: Tensor) -> None:
        """Computes what enters the pixels of a new row from the row above, whose pixels are still there."""
        raise NotImplementedError(f"{type(self).__name__} lacks enter_row")

    def entering(self) -> Tensor:
        """Returns what enters the gates of a new pixel from other pixels, with shape (n, 4 h)."""
        raise NotImplementedError(f"{type(self).__name__} lacks entering")

    def before(self) -> Tensor | None:
        """Returns the cell states before a new pixel."""
        raise NotImplementedError(f"{type(self).__name__} lacks before")

    def beside(self) -> Tensor | None:
        """Returns what is added to the states of a new pixel."""
        raise NotImplementedError(f"{type(self).__name__} lacks beside")

    def see(self, u: Tensor) -> Tensor:
        """Sees the next colour of the map, with shape (n, 2 h / colours), and returns that of the next map."""
        c = len(self.pixel_h)
        if c == 0:
            self.offset = self.entering()
        before, beside = (None if t is None else t.chunk(self.colours, -1)[c] for t in (self.before(), self.beside()))
        h, new = cell(self.inputs.see(u, self.offset), before, 1)
        out = u + self.up.see(h if beside is None else h + beside)
        self.pixel_h, self.pixel_c = [*self.pixel_h, h], [*self.pixel_c, new]
        if c + 1 == self.colours:
            self.us.append(torch.cat(self.inputs.pixel, -1))
            self.hs.append(torch.cat(self.pixel_h, -1))
            self.cs.append(torch.cat(self.pixel_c, -1))
            self.pixel_h, self.pixel_c = [], []
        return out


class RowLSTMWalk(LSTMWalk):
    """The walk through a Row LSTM; the arguments are those of :class:`LSTMWalk`."""

    kept = (*LSTMWalk.kept, "above", "cells")

    def __init__(self, layer: RowLSTM, context: Tensor | None, size: int) -> None:
        super().__init__(layer, context, size)
        self.k, self.left = layer.k[0], layer.inputs[0].weight[:, : layer.inputs[0].free].mT
        width = layer.size[1]
        self.above, self.cells = [self.biases[0]] * width, [None] * width

    def enter_row(self, image: Tensor) -> None:
        """Applies K^ss to the row above."""
        h = F.pad(torch.stack(self.hs), (0, 0, 0, 0, 1, 1))
        seen = torch.cat([h[:-2], h[1:-1], h[2:]], -1)
        self.above, self.cells = list(self.biases[0] + seen @ self.k), self.cs

    def entering(self) -> Tensor:
        """Returns what enters from the row above and the pixel to the left."""
        above = self.above[len(self.us)]
        return torch.addmm(above, self.us[-1], self.left) if self.us else above

    def before(self) -> Tensor | None:
        """Returns the cell states above."""
        return self.cells[len(self.us)]

    def beside(self) -> None:
        """Returns that there is nothing."""


class DiagonalBiLSTMWalk(LSTMWalk):
    """The walk through a Diagonal BiLSTM; the arguments are those of :class:`LSTMWalk`."""

    kept = (*LSTMWalk.kept, "above", "right")

    def __init__(self, layer: DiagonalBiLSTM, context: Tensor | None, size: int) -> None:
        super().__init__(layer, context, size)
        (self.k_above, self.k_beside), (self.right_above, self.right_beside) = (k.chunk(2) for k in layer.k)
        self.right_input, self.image = layer.inputs[1].masked().mT, layer.image
        self.above, self.right = [self.biases[0]] * layer.size[1], []

    def enter_row(self, image: Tensor) -> None:
        """Applies K^ss to the row above, and computes its states from the right."""
        self.above = list(self.biases[0] + torch.stack(self.hs) @ self.k_above)
        a = self.biases[1] + torch.stack(self.us) @ self.right_input
        if self.image is not None:
            a = a + self.image(image)
        if self.right:
            a = a + torch.stack(self.right) @ self.right_above
        h, c, right = None, None, []
        for pixel in reversed(a.unbind()):
            h, c = cell(pixel if h is None else torch.addmm(pixel, h, self.right_beside), c, self.colours)
            right.append(h)
        self.right = right[::-1]

    def entering(self) -> Tensor:
        """Returns what enters from the row above and the pixel to the left."""
        above = self.above[len(self.us)]
        return torch.addmm(above, self.hs[-1], self.k_beside) if self.hs else above

    def before(self) -> Tensor | None:
        """Returns the cell states to the left."""
        return self.cs[-1] if self.cs else None

    def beside(self) -> Tensor | None:
        """Returns the states from the right, of the row above."""
        return self.right[len(self.us)] if self.right else None


class PixelRNNWalk(Kept, Walk):
    """The outputs of PixelRNN, one number after another becoming known.

    Args:
        network: The network.
        context: The context, with shape (n, context) or (1, context).
        size: Number n of data.
    """

    kept = ("blank", "rows", "row", "above", "layers", "pixelwise")

    def __init__(self, network: "PixelRNNNetwork", context: Tensor | None, size: int) -> None:
        self.colours, _, self.width = network.event_shape
        self.step, s, kernel = 0, network.in_per_feature, network.first.masked()
        self.reach = r = kernel.shape[-1] // 2
        self.kernel, self.bias = kernel[:, :, :r], network.first.bias
        beside = kernel[:, :, r, : r + 1].permute(0, 2, 1).flatten(1).chunk(self.colours)
        self.beside = [k[:, : (r * self.colours + c) * s].mT for c, k in enumerate(beside)]
        self.blank = kernel.new_zeros(size, s)
        self.rows = [kernel.new_zeros(self.width, size, self.colours * s)] * r  # of the image, above
        self.row: list[Tensor] = []  # the numbers of this row so far, behind blank pixels
        self.above: list[Tensor] = []  # what the convolution makes of them
        walk = RowLSTMWalk if isinstance(network.layers[0], RowLSTM) else DiagonalBiLSTMWalk
        self.layers = [walk(layer, context, size) for layer in network.layers]
        self.pixelwise = [Pixelwise(layer) for layer in network.pixelwise]

    def output(self) -> Tensor:
        """Returns the parameters of the next number, with shape (n, out_per_feature)."""
        pixel, c = divmod(self.step, self.colours)
        j = pixel % self.width
        if j == c == 0:
            self._start()
        seen = torch.cat(self.row[-self.reach * self.colours - c :], -1)
        u = torch.addmm(self.above[j].chunk(self.colours, -1)[c], seen, self.beside[c])
        for layer in self.layers:
            u = layer.see(u)
        for layer in self.pixelwise:
            u = layer.see(u.relu())
        return u

    def see(self, x: Tensor) -> None:
        """Makes the next number known, with shape (in_per_feature, n)."""
        self.row.append(x.mT)
        self.step += 1

    def _start(self) -> None:
        """Starts a row: the convolution of the rows above, and what the layers make of the last of them."""
        if self.step:
            numbers = torch.stack(self.row[self.reach * self.colours :]).unflatten(0, (self.width, self.colours))
            image = numbers.transpose(1, 2).flatten(-2)
            self.rows = [*self.rows[1:], image]
            for layer in self.layers:
                layer.start(image)
        x = F.pad(torch.stack(self.rows).permute(2, 3, 0, 1), (self.reach, self.reach))
        self.above = list(F.conv2d(x, self.kernel, self.bias)[:, :, 0].permute(2, 0, 1))
        self.row = [self.blank] * (self.reach * self.colours)
