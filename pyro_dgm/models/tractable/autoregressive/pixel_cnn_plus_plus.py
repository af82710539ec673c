r"""PixelCNN++: images of many levels, pixel by pixel in raster order, by two streams through several resolutions.

From the pixels before it (and a context y) the network gives each pixel, whose C colours are seen as places x_c in
[-1, 1], one mixture of K components for all colours, with parameters

.. math::
    \pi_k, \quad \mu_{ck}, \quad s_{ck}, \quad \alpha_{cdk} \in (-1, 1), \qquad c = 1 \dots C, \; d < c

whose means are linear in the colours before:

.. math::
    p(x_1, \dots, x_C) = \sum_k \pi_k \prod_c p_k(x_c | x_{<c}), \qquad
    p_k(x_c | x_{<c}) = \mathrm{logistic}\Bigl(x_c; \mu_{ck} + \sum_{d < c} \alpha_{cdk} x_d, s_{ck}\Bigr)

each rounded to the nearest level. Number by number that is a mixture again, in which a component weighs as much as it
explains the colours so far,

.. math::
    p(x_c | x_{<c}) = \sum_k \frac{\pi_{ck}}{\sum_m \pi_{cm}}\, p_k(x_c | x_{<c}), \qquad
    \pi_{ck} = \pi_k \prod_{d < c} p_k(x_d | x_{<d})

so that the head is :class:`~pyro_dgm.distributions.heads.DiscretizedLogisticMixture`, as it would be of one colour. The
network is in :mod:`pyro_dgm.nn.pixel_cnn_plus_plus`. (Salimans, Karpathy, Chen and Kingma, PixelCNN++: Improving the
PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications, 2017, arXiv:1701.05517.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...._shapes import as_image_shape
from ....distributions import heads
from ....nn import Conditioner, Walk, leave_autocast
from ....nn.pixel_cnn_plus_plus import PixelCNNPlusPlusNetwork
from ....nn.walk import raster
from .base import Head, OneOrder


class PixelCNNPlusPlus(OneOrder):
    """PixelCNN++: shifted convolutions at several resolutions, and one mixture for all colours of a pixel.

    It sees everything that comes before a number, within its reach, which the lower resolutions widen. (Salimans,
    Karpathy, Chen and Kingma, 2017, arXiv:1701.05517; there 160 channels, 5 blocks, 3 levels, dropout 0.5.)

    Args:
        event_shape: Shape of an image, (C, H, W).
        context: Width of the context, 0 for none.
        hidden_channels: Channels of either stream.
        blocks: Number of residual blocks of a level on its way down.
        levels: Number of resolutions, each half the one before; 1 for none but the image's.
        dropout: Share of the numbers within a block that are left out while the model is in training mode.
        head: The distribution of a number; ten components, 256 levels when ``None``. Several colours need a
            ``heads.DiscretizedLogisticMixture``; for one, any will do.

    Raises:
        ValueError: If the shape is no image's, its sides cannot be halved so often, there is no block or no level, or
            several colours have another head.

    Example:
        >>> import torch
        >>> model = PixelCNNPlusPlus((3, 4, 4), hidden_channels=4, blocks=1, levels=2)
        >>> x = model().sample((2,))
        >>> x.shape, model().log_prob(x).shape
        (torch.Size([2, 3, 4, 4]), torch.Size([2]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context: int = 0,
        *,
        hidden_channels: int = 64,
        blocks: int = 2,
        levels: int = 3,
        dropout: float = 0.0,
        head: Head | None = None,
    ) -> None:
        head = head or heads.DiscretizedLogisticMixture()
        event_shape = as_image_shape(event_shape)
        colours = event_shape[0]
        out = head.size
        if colours > 1:
            if not isinstance(head, heads.DiscretizedLogisticMixture):
                raise ValueError(
                    f"head: expected a DiscretizedLogisticMixture for {colours} colours, got {type(head).__name__}; "
                    "GatedPixelCNN takes any head"
                )
            out = head.components * (1 + 2 * colours + colours * (colours - 1) // 2)
        network = PixelCNNPlusPlusNetwork(
            event_shape, out, hidden_channels, blocks, levels, dropout, context, in_per_feature=head.size_in
        )
        super().__init__(ColourConditioner(network, head, event_shape), head, context)


class ColourConditioner(Conditioner):
    """The parameters of every colour, given those of a pixel and the colours before.

    Args:
        network: Gives the parameters of a pixel: logits, then means and log-scales colour by colour, then raw alphas.
        head: The distribution of a number: of several colours a mixture of K components.
        event_shape: Shape of an image, (C, H, W).
    """

    def __init__(self, network: PixelCNNPlusPlusNetwork, head: Head, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape, head.size_in, raster(event_shape))
        self.network, self.head = network, head

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x``, (*, C s, H, W), and ``context``, (*, context), to (*, C, H, W, P)."""
        raw = leave_autocast(self.network(x, context)).movedim(-3, -1)
        if self.event_shape[0] == 1:
            return raw[..., None, :, :, :]
        pixel = Pixel(self.head, self.event_shape[0], raw)
        thetas = []
        for colour in x.unbind(-3):
            thetas.append(pixel.theta())
            pixel.see(colour)
        return torch.stack(thetas, -4)

    def walk(self, context: Tensor | None, size: int) -> Walk:
        """Returns the walk through the numbers of ``size`` data."""
        return _ColourWalk(self, context, size)


class Pixel:
    """The mixture of a pixel, colour by colour.

    Args:
        head: The head, of K components.
        colours: Number C of colours.
        raw: The pixel's parameters, with shape (*, K (1 + 2 C + C (C - 1) / 2)).
    """

    def __init__(self, head: heads.DiscretizedLogisticMixture, colours: int, raw: Tensor) -> None:
        k = head.components
        self.head, self.colours, self.x = head, colours, []
        self.log_pi, self.mu_s, self.alpha = raw.split([k, 2 * k * colours, raw.shape[-1] - k - 2 * k * colours], -1)

    def theta(self) -> Tensor:
        """Returns the head's parameters of the next colour, with shape (*, 3 K)."""
        c, k = len(self.x), self.head.components
        mu, s = self.mu_s[..., 2 * k * c : 2 * k * (c + 1)].chunk(2, -1)
        first = k * (c * (c - 1) // 2)
        for d, x in enumerate(self.x):
            mu = mu + self.alpha[..., first + k * d : first + k * (d + 1)].tanh() * x[..., None]
        self.current = torch.cat([self.log_pi, mu, s], -1)
        return self.current

    def see(self, x: Tensor) -> None:
        """Makes the colour known whose parameters were asked for last, a place in [-1, 1], with shape (*)."""
        self.x.append(x)
        if len(self.x) < self.colours:
            parts = self.head(self.current).component_distribution
            self.log_pi = self.log_pi + parts.log_prob(parts.round(x)[..., None])

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.x = [x[index] for x in self.x]
        self.log_pi, self.mu_s, self.alpha = self.log_pi[index], self.mu_s[index], self.alpha[index]
        self.current = self.current[index]


class _ColourWalk(Walk):
    """The walk of PixelCNN++: the network pixel by pixel, the mixture colour by colour."""

    def __init__(self, conditioner: ColourConditioner, context: Tensor | None, size: int) -> None:
        self.head, self.colours = conditioner.head, conditioner.event_shape[0]
        self.pixels = conditioner.network.walk(context, size)
        self.seen: list[Tensor] = []
        self.pixel: Pixel | None = None

    def output(self) -> Tensor:
        """Returns the parameters of the next number, with shape (n, P)."""
        if self.colours == 1:
            return self.pixels.output()
        if not self.seen:
            self.pixel = Pixel(self.head, self.colours, leave_autocast(self.pixels.output()))
        return self.pixel.theta()

    def see(self, x: Tensor) -> None:
        """Makes the next number known, with shape (in_per_feature, n)."""
        self.seen.append(x)
        if self.pixel is not None:
            self.pixel.see(x[0])
        if len(self.seen) == self.colours:
            self.pixels.see(torch.cat(self.seen))
            self.seen, self.pixel = [], None

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.pixels.select(index)
        self.seen = [x[:, index] for x in self.seen]
        if self.pixel is not None:
            self.pixel.select(index)
