r"""PixelRNN: images pixel by pixel, by LSTMs that run over the rows or the diagonals of the image.

.. math::
    p(x | c) = \prod_i h\bigl(x_i; \theta_i(x_{<i}, c)\bigr)

rows from the top, pixels from the left, the colours of a pixel in turn; :math:`\theta` is the network of
:mod:`pyro_dgm.nn.pixel_rnn`. (van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016,
arXiv:1601.06759.)
"""

from collections.abc import Sequence

from ....distributions import heads
from ....nn.pixel_rnn import Kind, PixelRNNNetwork
from .base import Head, OneOrder


class PixelRNN(OneOrder):
    """PixelRNN, with Row LSTM or Diagonal BiLSTM layers.

    Diagonal BiLSTMs see everything before a number. Row LSTMs see a triangle that widens upwards, by a pixel to either
    side in every row, and see no further to the left than the first kernel and a pixel per layer in the row itself; in
    return a pass takes H steps a layer, and not H + W - 1. A sample takes D steps that keep the states, and together
    cost two or three passes.
    (van den Oord, Kalchbrenner and Kavukcuoglu, 2016, arXiv:1601.06759; there h = 16 and 7 layers for binary MNIST, h =
    128 and 12 layers for CIFAR-10.)

    Args:
        event_shape: Shape of an image, (C, H, W).
        context: Width of the context, 0 for none; it enters every LSTM layer.
        kind: ``"row"`` or ``"diagonal"``.
        hidden_channels: Number h of channels of the states, a multiple of C.
        blocks: Number of LSTM layers.
        out_channels: Channels of the two pixel-wise layers behind them, a multiple of C.
        kernel_size: Size of the first kernel.
        head: The distribution of a number; coins when ``None``. For 8-bit images, ``heads.Categorical(256,
            ordered=True)``.

    Raises:
        ValueError: If the event is no image, the kind is unknown, there is no layer, channels are no multiples of C, or
            the kernel's size is not odd and 3 at least.

    Example:
        >>> model = PixelRNN((1, 3, 3), kind="row", hidden_channels=4, blocks=1, out_channels=4)
        >>> x = model().sample((5,))
        >>> x.shape, model().log_prob(x[0]).exp().item() == 2**-9
        (torch.Size([5, 1, 3, 3]), True)
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context: int = 0,
        *,
        kind: Kind = "diagonal",
        hidden_channels: int = 16,
        blocks: int = 2,
        out_channels: int = 32,
        kernel_size: int = 7,
        head: Head | None = None,
    ) -> None:
        head = head or heads.Bernoulli()
        conditioner = PixelRNNNetwork(
            event_shape, head.size, kind, hidden_channels, blocks, out_channels, kernel_size, context,
            in_per_feature=head.size_in,
        )  # fmt: skip
        super().__init__(conditioner, head, context)
