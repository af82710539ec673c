r"""The network of PixelRNN: a masked convolution, LSTMs over the image, and pixel-wise layers.

.. math::
    u_0 = K_A * x, \qquad u_l = u_{l-1} + U_l\, h_l(u_{l-1}), \qquad
    \theta = W_3\, \sigma(W_2\, \sigma(W_1\, \sigma(u_L)))

with :math:`\sigma` the rectifier. The kernel of K_A is masked (mask A): it sees the pixels before, and of the pixel
itself the colours before. All that follows may see its own colour too (mask B). The layers :math:`h_l` are Row LSTMs or
Diagonal BiLSTMs (:mod:`pyro_dgm.nn.convolutional_lstm`); maps u have 2 h channels, states h.

Diagonal BiLSTMs see everything before pixel (i, j). L Row LSTMs behind a kernel that reaches r pixels see a triangle:
in row i - m the columns from j - m - L - r to j + m - 1 + r, and in row i those from j - L - r.

(van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759.)
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from .._shapes import as_image_shape, broadcast_shapes
from .causal_convolution import CausalConv2d, groups_of
from .convolution import over_images
from .convolutional_lstm import ColourLinear, DiagonalBiLSTM, RowLSTM
from .mlp import zero_
from .pixel_rnn_walk import PixelRNNWalk
from .walk import Conditioner, raster

Kind = Literal["row", "diagonal"]


class PixelRNNNetwork(Conditioner):
    """The network of PixelRNN.

    Args:
        event_shape: Shape of an image, (C, H, W).
        out_per_feature: Numbers P given per number of the image.
        kind: ``"row"`` or ``"diagonal"``.
        hidden_channels: Number h of channels of the states, a multiple of C.
        blocks: Number L of LSTM layers.
        out_channels: Channels of the two pixel-wise layers, a multiple of C.
        kernel_size: Size of the first kernel, 2 r + 1.
        context: Width of the context, 0 for none.
        in_per_feature: Numbers s by which the network sees a number.

    Raises:
        ValueError: If the event is no image, the kind is unknown, there is no layer, channels are no multiples of C, or
            the kernel's size is not odd and 3 at least.

    Example:
        >>> import torch
        >>> f = PixelRNNNetwork((3, 4, 5), 2, "row", hidden_channels=6, blocks=1, out_channels=6, context=2)
        >>> f(torch.zeros(10, 3, 4, 5), torch.zeros(7, 1, 2)).shape
        torch.Size([7, 10, 3, 4, 5, 2])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_per_feature: int,
        kind: Kind = "diagonal",
        hidden_channels: int = 16,
        blocks: int = 2,
        out_channels: int = 32,
        kernel_size: int = 7,
        context: int = 0,
        *,
        in_per_feature: int = 1,
    ) -> None:
        event_shape = as_image_shape(event_shape)
        colours, *size = event_shape
        if kind not in ("row", "diagonal"):
            raise ValueError(f"kind: expected 'row' or 'diagonal', got {kind!r}")
        if blocks < 1:
            raise ValueError(f"blocks: expected at least 1, got {blocks}")
        for name, channels in (("hidden_channels", hidden_channels), ("out_channels", out_channels)):
            if channels < 1 or channels % colours:
                raise ValueError(f"{name}: expected a multiple of the {colours} colours, got {channels}")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, 3 at least, got {kernel_size}")
        super().__init__(event_shape, in_per_feature, raster(event_shape))
        channels = colours * in_per_feature
        groups, r = [groups_of(n, colours) for n in (channels, 2 * hidden_channels)], kernel_size // 2
        self.first = CausalConv2d(*groups, r, r, r, strict=True)
        if kind == "row":
            layers = [RowLSTM(size, hidden_channels, colours, context) for _ in range(blocks)]
        else:
            layers = [
                DiagonalBiLSTM(size, hidden_channels, colours, context, 0 if l else channels) for l in range(blocks)
            ]
        self.layers = nn.ModuleList(layers)
        last = zero_(ColourLinear(out_channels, colours * out_per_feature, colours))
        widths = (2 * hidden_channels, out_channels)
        self.pixelwise = nn.ModuleList([*(ColourLinear(width, out_channels, colours) for width in widths), last])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps x, shape (*, C s, H, W), and the context, shape (*, context), to (*, C, H, W, out_per_feature)."""
        colours, height, width = self.event_shape
        batch_shape = broadcast_shapes(x.shape[:-3], () if context is None else context.shape[:-1])
        if context is not None:
            context = context.expand(*batch_shape, -1).reshape(-1, context.shape[-1])
        u, image = (
            t.expand(*batch_shape, *t.shape[-3:]).reshape(-1, *t.shape[-3:]).movedim((2, 3), (0, 1)).flatten(0, 1)
            for t in (over_images(self.first, x), x)
        )
        for layer in self.layers:
            u = layer(u, image, context)
        for layer in self.pixelwise:
            u = layer(u.relu())
        theta = u.reshape(height, width, *batch_shape, colours, -1)
        return theta.movedim((0, 1), (-3, -2))

    def walk(self, context: Tensor | None, size: int) -> PixelRNNWalk:
        """Returns the walk through the numbers of ``size`` data."""
        return PixelRNNWalk(self, context, size)
