r"""LSTMs over images that see earlier pixels only: the Row LSTM and the Diagonal BiLSTM of PixelRNN.

With x the input map, h and c the hidden and the cell states, y a context,

.. math::
    [o, f, i, g] &= K^{ss} * h_{-} + K^{is} * x + V y + b \\
    c &= \sigma(f) \odot c_{-} + \sigma(i) \odot \tanh(g), \qquad h = \sigma(o) \odot \tanh(c)

where "-" is the front before, a front being what is computed at once:

* Row LSTM: a row. At pixel (i, j), K^ss sees h at (i-1, j-1), (i-1, j) and (i-1, j+1), c is that of (i-1, j), and K^is
  sees x at (i, j-1) and (i, j). Sight widens by a pixel to either side in every row upwards: a triangle.
* Diagonal BiLSTM: a diagonal i + j. K^ss sees h at (i-1, j) and (i, j-1), c is that of (i, j-1), and K^is sees x at
  (i, j). A second LSTM does the same in the mirror image, and its states move down by a row before they are added:

  .. math:: h(i, j) = h^{\rightarrow}(i, j) + h^{\leftarrow}(i-1, j)

Channels are those of the first colour, then those of the second, and so on. Within a pixel a colour sees itself and
those before it (mask B); of other pixels, all being earlier ones, it sees everything. (van den Oord, Kalchbrenner and
Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759.)

Maps have shape (H W, n, channels) here: a front of them is one piece of memory. Every layer has a walk through the
colours of the pixels, one after another; what depends on the row above alone is computed for a row at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import leave_autocast


class ColourLinear(nn.Linear):
    """A linear map of the channels of a pixel, in which a colour sees itself and those before it (a 1x1 mask B).

    Args:
        in_features: Number of input channels, a multiple of the number of colours.
        out_features: Number of output channels, a multiple of the number of colours.
        colours: Number of colours.
        free: Number of inputs, before those channels, that every colour sees.
    """

    def __init__(self, in_features: int, out_features: int, colours: int, free: int = 0) -> None:
        super().__init__(free + in_features, out_features)
        self.colours, self.free = colours, free
        inputs, outputs = (torch.arange(size) * colours // size for size in (in_features, out_features))
        mask = torch.cat([torch.ones(out_features, free), outputs[:, None] >= inputs], 1)
        self.register_buffer("mask", mask.to(self.weight.dtype))

    def masked(self) -> Tensor:
        """Returns the weight, zero where a colour must not see."""
        return self.mask * self.weight

    def forward(self, u: Tensor) -> Tensor:
        """Maps (*, free + in_features) to (*, out_features)."""
        return F.linear(u, self.masked(), self.bias)


def cell(a: Tensor, c: Tensor | None, colours: int) -> tuple[Tensor, Tensor]:
    """Returns the states h and c.

    Args:
        a: What enters the gates, with shape (*, 4 h): for every colour o, f, i and g.
        c: The cell states before, with shape (*, h); ``None`` for zeros.
        colours: Number of colours.
    """
    o, f, i, g = leave_autocast(a).unflatten(-1, (colours, 4, -1)).unbind(-2)
    new = i.sigmoid() * g.tanh()
    if c is not None:
        new = f.sigmoid() * c.unflatten(-1, (colours, -1)) + new
    return (o.sigmoid() * new.tanh()).flatten(-2), new.flatten(-2)


def recurrence(fronts: Sequence[Tensor], k: Tensor, margins: Sequence[tuple[int, int]], colours: int) -> Tensor:
    """Runs the LSTM over fronts.

    Args:
        fronts: What enters the gates from the input, each with shape (directions, pixels, n, 4 h).
        k: The weight K^ss, with shape (directions, taps h, 4 h). Tap t of the p-th pixel of a front is the
            (p + t)-th pixel of the front before; the cell state is that of tap 1.
        margins: For every front, how many zeros to put before and behind the front before.
        colours: Number of colours.

    Returns:
        The states h of all fronts, with shape (directions, pixels of all fronts, n, h).
    """
    h, c, states = None, None, []
    taps = 4 * k.shape[1] // k.shape[2]
    for a, margin in zip(fronts, margins, strict=True):
        if h is not None:
            h, c = (F.pad(t, (0, 0, 0, 0, *margin)) for t in (h, c))
            seen = torch.cat([h[:, t : t + a.shape[1]] for t in range(taps)], -1)
            a = torch.baddbmm(a.flatten(1, 2), seen.flatten(1, 2), k).unflatten(1, a.shape[1:3])
            c = c[:, 1 : 1 + a.shape[1]]
        h, c = cell(a, c, colours)
        states.append(h)
    return torch.cat(states, 1)


class LSTMLayer(nn.Module):
    """What both layers share; they define ``states(x, image, context)``, and ``walk``.

    Args:
        size: Height and width of images.
        channels: Number of channels h; maps have 2 h.
        colours: Number of colours, which divides h.
        context: Width of the context, 0 for none.
        directions: Number of LSTMs.
        taps: Number of pixels that K^ss sees.
        free: Number of inputs of K^is from another pixel.
    """

    def __init__(
        self, size: tuple[int, int], channels: int, colours: int, context: int, directions: int, taps: int, free: int
    ) -> None:
        super().__init__()
        self.size, self.channels, self.colours = size, channels, colours
        self.inputs = nn.ModuleList(ColourLinear(2 * channels, 4 * channels, colours, free) for _ in range(directions))
        bound = (taps * channels) ** -0.5
        self.k = nn.Parameter(torch.empty(directions, taps * channels, 4 * channels).uniform_(-bound, bound))
        self.context = nn.Linear(context, directions * 4 * channels, bias=False) if context else None
        self.up = ColourLinear(channels, 2 * channels, colours)

    def forward(self, x: Tensor, image: Tensor, context: Tensor | None) -> Tensor:
        """Adds to a map what the states make of it.

        Args:
            x: The map, with shape (H W, n, 2 h).
            image: The image, with shape (H W, n, channels of the image).
            context: The context, with shape (n, context).
        """
        return x + self.up(self.states(x, image, context))

    def states(self, x: Tensor, image: Tensor, context: Tensor | None) -> Tensor:
        """Returns the states h, with shape (H W, n, h)."""
        raise NotImplementedError(f"{type(self).__name__} lacks states")

    def with_context(self, a: Tensor, context: Tensor | None) -> Tensor:
        """Adds V y to what enters the gates, with shape (directions, pixels, n, 4 h)."""
        if self.context is None:
            return a
        return a + self.context(context).unflatten(-1, (len(self.k), 1, -1)).movedim(0, 2)


class RowLSTM(LSTMLayer):
    """Row by row; the arguments are those of :class:`LSTMLayer`."""

    def __init__(self, size: tuple[int, int], channels: int, colours: int, context: int = 0) -> None:
        super().__init__(size, channels, colours, context, directions=1, taps=3, free=2 * channels)

    def states(self, x: Tensor, image: Tensor, context: Tensor | None) -> Tensor:
        """Returns the states h, with shape (H W, n, h)."""
        rows = x.unflatten(0, self.size)
        left = F.pad(rows[:, :-1], (0, 0, 0, 0, 1, 0)).flatten(0, 1)
        a = self.with_context(self.inputs[0](torch.cat([left, x], -1))[None], context)
        height, width = self.size
        return recurrence(a.split(width, 1), self.k, [(1, 1)] * height, self.colours)[0]


class DiagonalBiLSTM(LSTMLayer):
    """Diagonal by diagonal, from both sides; the arguments are those of :class:`LSTMLayer`.

    Features of a pixel do not see the pixel itself, and so those of a row do not see its last pixel: at the row below
    it would be out of the sight of all but the last columns. The states from the right may see it, moving down as they
    do, so they see the image too in the first layer.

    Args:
        image: Number of channels of the image, which the states from the right see; 0 if they do not.
    """

    def __init__(self, size: tuple[int, int], channels: int, colours: int, context: int = 0, image: int = 0) -> None:
        super().__init__(size, channels, colours, context, directions=2, taps=2, free=0)
        height, width = size
        self.image = nn.Linear(image, 4 * channels, bias=False) if image else None
        pixels = torch.arange(height * width).reshape(height, width)
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        diagonals = ((rows + columns) * height + rows).flatten().argsort()
        orders = torch.stack([pixels.flatten()[diagonals], pixels.flip(1).flatten()[diagonals]])
        self.register_buffer("orders", orders)
        self.register_buffer("places", orders.argsort(1))
        sums = range(height + width - 1)
        self.lengths = [min(s, height - 1) - max(s - width + 1, 0) + 1 for s in sums]
        self.margins = [(int(s < width), int(s < height)) for s in sums]

    def states(self, x: Tensor, image: Tensor, context: Tensor | None) -> Tensor:
        """Returns the states h, with shape (H W, n, h)."""
        a = [inputs(x[order]) for inputs, order in zip(self.inputs, self.orders, strict=True)]
        if self.image is not None:
            a[1] = a[1] + self.image(image[self.orders[1]])
        fronts = self.with_context(torch.stack(a), context).split(self.lengths, 1)
        h = recurrence(fronts, self.k, self.margins, self.colours)
        left, right = (t[places] for t, places in zip(h, self.places, strict=True))
        width = self.size[1]
        return left + F.pad(right[:-width], (0, 0, 0, 0, width, 0))
