r"""PixelCNN and the gated PixelCNN: images, number by number in raster order, by causal convolutions.

.. math::
    p(x | y) = \prod_i \prod_j \prod_c h\bigl(x_{ijc}; \theta_{ijc}(x_{<ijc}, y)\bigr)

with the pixels row by row, the colours of a pixel one after another, and y the context, a class say (one-hot), which
every layer sees. A number is seen as a place in [-1, 1] by the heads of levels. The density takes one pass, all pixels
at once; a sample takes a step for each number, which computes one new column of activations in each layer.

:class:`PixelCNN` has a blind spot, up and to the right of every pixel, :class:`GatedPixelCNN` has none: see
:mod:`pyro_dgm.nn.pixel_cnn`, which has the networks and their formulas. (van den Oord, Kalchbrenner and Kavukcuoglu,
Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759; van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and
Kavukcuoglu, Conditional Image Generation with PixelCNN Decoders, 2016, arXiv:1606.05328.)
"""

from collections.abc import Sequence

from torch import nn

from ....distributions import heads
from ....nn.pixel_cnn import GatedPixelCNNNetwork, PixelCNNNetwork
from .base import Head, OneOrder


class PixelCNN(OneOrder):
    """PixelCNN: a masked convolution on the image, then residual blocks of masked convolutions.

    The simplest and the fastest of its kind, but it does not see all of the image above: what lies further to the right
    than it lies above (plus the reach of the first kernel) is in its blind spot. (van den Oord, Kalchbrenner and
    Kavukcuoglu, 2016, arXiv:1601.06759; there 15 blocks of 128 channels for colours, with 256 levels.)

    Args:
        event_shape: Shape of an image, (C, H, W).
        context: Width of the context, 0 for none.
        hidden_channels: Channels h within residual blocks, between which there are 2h; at least one for each colour.
        blocks: Number of residual blocks.
        kernel_size: Size of the first kernel, odd; the others are 3 x 3 and 1 x 1.
        head: The distribution of a number; coins when ``None``. For levels, ``heads.Categorical(256, ordered=True)``.
        activation: Class of the activation.

    Raises:
        ValueError: If the shape is no image's, the kernel's size even, or there are fewer channels than colours.

    Example:
        >>> import torch
        >>> model = PixelCNN((1, 4, 4), hidden_channels=4, blocks=1)
        >>> model().sample((3,)).shape, model().log_prob(torch.zeros(1, 4, 4)).div(16).exp()
        (torch.Size([3, 1, 4, 4]), tensor(0.5000, grad_fn=<ExpBackward0>))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context: int = 0,
        *,
        hidden_channels: int = 32,
        blocks: int = 7,
        kernel_size: int = 7,
        head: Head | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        head = head or heads.Bernoulli()
        conditioner = PixelCNNNetwork(
            event_shape, head.size, hidden_channels, blocks, kernel_size, context, activation,
            in_per_feature=head.size_in,
        )  # fmt: skip
        super().__init__(conditioner, head, context)


class GatedPixelCNN(OneOrder):
    """Gated PixelCNN: a stack that sees the rows above, a stack that sees the row, and gates in place of rectifiers.

    It sees everything that comes before a number, within its reach. (van den Oord, Kalchbrenner, Vinyals, Espeholt,
    Graves and Kavukcuoglu, 2016, arXiv:1606.05328.)

    Args:
        event_shape: Shape of an image, (C, H, W).
        context: Width of the context, 0 for none.
        hidden_channels: Channels p of either stack; at least one for each colour.
        layers: Number of layers.
        kernel_size: Size of the kernels, odd.
        first_kernel_size: Size of the first layer's kernels, odd.
        head: The distribution of a number; coins when ``None``. For levels, ``heads.Categorical(256, ordered=True)``.
        activation: Class of the activation of the last two layers.

    Raises:
        ValueError: If the shape is no image's, a kernel's size even, or there are fewer channels than colours.

    Example:
        >>> import torch
        >>> model = GatedPixelCNN((1, 4, 4), context=10, hidden_channels=4, layers=2)
        >>> digit = torch.nn.functional.one_hot(torch.tensor(7), 10).float()
        >>> model(digit).sample((3,)).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context: int = 0,
        *,
        hidden_channels: int = 32,
        layers: int = 8,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        head: Head | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        head = head or heads.Bernoulli()
        conditioner = GatedPixelCNNNetwork(
            event_shape, head.size, hidden_channels, layers, kernel_size, first_kernel_size, context, activation,
            in_per_feature=head.size_in,
        )  # fmt: skip
        super().__init__(conditioner, head, context)
