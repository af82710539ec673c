r"""The convolutional restricted Boltzmann machine: filters shared by all places, and hidden units that compete.

.. math::
    E(v, h) = -\sum_k h^k \cdot (W^k \star v) - \sum_k c_k \sum_{ij} h^k_{ij} - \sum_d b_d \sum_{ij} v^d_{ij}

with K filters over an image of C channels, :math:`\star` a convolution without padding (a correlation). With
probabilistic max-pooling at most one is on of every block B of p x p hidden units of a filter, and the pooled unit
says whether any is. With inputs :math:`a^k = c_k + W^k \star v`,

.. math::
    p(h_i = 1 | v) = \frac{e^{a_i}}{1 + \sum_{j \in B} e^{a_j}}, \qquad
    F(v) = -\sum_d b_d \sum_{ij} v^d_{ij} - \sum_B \log\Bigl(1 + \sum_{j \in B} e^{a_j}\Bigr)

where p = 1 is independent binary units. (Lee, Grosse, Ranganath and Ng, Convolutional deep belief networks for scalable
unsupervised learning of hierarchical representations, 2009; Norouzi, Ranjbar and Mori, Stacks of Convolutional
Restricted Boltzmann Machines, 2009; the way down is a transposed convolution: Dumoulin and Visin, A guide to
convolution arithmetic for deep learning, 2016, arXiv:1603.07285.)
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ...._shapes import as_image_shape
from ....nn import without_autocast
from ....nn.convolution import over_images
from ..energy_based import MAX_UNITS, EnergyBasedModel, behind, exact_states, log_sum_over_states


class ConvolutionalRBM(EnergyBasedModel):
    """A convolutional restricted Boltzmann machine of binary images.

    The same weights see every place of an image, so it learns from few images; pixels at the border reach fewer hidden
    units than others. Its density is exact for at most 20 pixels, else an estimate after ``estimate_log_partition()``.

    Args:
        event_shape: Shape (C, H, W) of an image.
        filters: Number K of filters.
        kernel_size: Height and width k of a filter.
        pool: Height and width p of the blocks of which at most one unit is on; 1 for independent units.
        sweeps: Number of sweeps of block Gibbs sampling behind a sample that cannot be exact.

    Attributes:
        weight: W, with shape (K, C, k, k).
        visible_bias: b, with shape (C, 1, 1).
        hidden_bias: c, with shape (K,).
        base: Log-odds of the channels at temperature 0, with shape (C, 1, 1); a buffer.

    Raises:
        ValueError: If an image is smaller than a filter, or blocks do not fill the hidden units.

    Example:
        >>> rbm = ConvolutionalRBM((1, 4, 4), filters=3, kernel_size=3, pool=2)
        >>> x = rbm().sample((5,))
        >>> x.shape, rbm().log_prob(x).shape, rbm.encode(x).shape
        (torch.Size([5, 1, 4, 4]), torch.Size([5]), torch.Size([5, 3, 1, 1]))
    """

    def __init__(
        self, event_shape: Sequence[int], filters: int = 24, kernel_size: int = 5, pool: int = 1, *, sweeps: int = 1000
    ) -> None:
        channels, height, width = event_shape = as_image_shape(event_shape)
        grid = height - kernel_size + 1, width - kernel_size + 1
        if min(filters, kernel_size, pool, *grid) < 1 or grid[0] % pool or grid[1] % pool:
            raise ValueError(
                f"kernel_size, pool: expected filters within images of {height} x {width}, and H - k + 1, W - k + 1 to "
                f"be multiples of pool, got filters={filters}, kernel_size={kernel_size} and pool={pool}"
            )
        few = math.prod(event_shape) <= MAX_UNITS
        super().__init__(event_shape, 0, constraints.boolean, enumerable=few, sweeps=sweeps)
        self.pool, self.blocks = pool, filters * math.prod(grid) // pool**2
        self.weight = nn.Parameter(0.01 * torch.randn(filters, channels, kernel_size, kernel_size))
        self.visible_bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.hidden_bias = nn.Parameter(torch.zeros(filters))
        self.register_buffer("base", torch.zeros(channels, 1, 1))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets the visible biases to the log-odds of the channels, and has annealing start from those."""
        on, count = x.sum((0, 2, 3)) + 1, x[:, 0].numel() + 2
        self.base.copy_((on / (count - on)).log()[:, None, None])
        self.visible_bias.copy_(self.base)
        self.initialized.fill_(True)

    def energy(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the free energy of images (*, C, H, W) in nats."""
        hidden = F.softplus((behind(beta, 4) * self._blocks(x)).logsumexp(-1)).sum((-3, -2, -1))
        seen = x.sum((-2, -1), keepdim=True)
        start = F.softplus(self.base).sum() * (x.shape[-2] * x.shape[-1]) - (seen * self.base).sum((-3, -2, -1))
        start = start + self.blocks * math.log(1 + self.pool**2)
        return (1 - beta) * start - beta * (seen * self.visible_bias).sum((-3, -2, -1)) - hidden

    @torch.no_grad()
    def transition(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the images after a sweep: the hidden units are drawn given them, then they given those."""
        h = self._draw(behind(beta, 4) * self._blocks(x))
        with without_autocast(x):
            seen = over_images(lambda h: F.conv_transpose2d(h, self.weight), h)
        beta = behind(beta, 3)
        return (beta * (seen + self.visible_bias) + (1 - beta) * self.base).sigmoid().bernoulli()

    @torch.no_grad()
    def initial(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns images of independent pixels with the log-odds of the base."""
        return self.base.sigmoid().expand(*shape, *self.event_shape).bernoulli()

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the means of the pooled units, with shape (*, K, (H - k + 1) / p, (W - k + 1) / p)."""
        return self._blocks(x).logsumexp(-1).sigmoid()

    def exact_log_partition(self, context: Tensor | None = None) -> Tensor:
        """Returns log Z in nats, summed over all images, differentiable.

        Raises:
            ValueError: If there are more than 20 pixels.
        """
        return log_sum_over_states(self._log_weight, self.event_shape.numel(), self.base)

    @torch.no_grad()
    def exact_sample(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent exact draws."""
        event_shape = self.event_shape
        states = exact_states(
            lambda s: -self.energy(s.unflatten(-1, event_shape)), event_shape.numel(), self.base, shape
        )
        return states.unflatten(-1, event_shape)

    def _log_weight(self, states: Tensor) -> Tensor:
        """Returns the unnormalised log-probability of images whose pixels are in a row."""
        return -self.energy(states.unflatten(-1, self.event_shape))

    def _blocks(self, x: Tensor) -> Tensor:
        """Returns the inputs of hidden units by block, with shape (*, K, rows of blocks, columns, p p)."""
        with without_autocast(x):
            a = over_images(lambda v: F.conv2d(v, self.weight, self.hidden_bias), x)
        a = a.unflatten(-1, (-1, self.pool)).unflatten(-3, (-1, self.pool))
        return a.transpose(-3, -2).flatten(-2)

    def _draw(self, blocks: Tensor) -> Tensor:
        """Draws at most one unit of every block, by Gumbel's maxima; returns hidden units (*, K, rows, columns)."""
        noise = -torch.empty_like(blocks).exponential_().log()
        off = -torch.empty_like(blocks[..., :1]).exponential_().log()
        highest = torch.cat([blocks + noise, off], -1).argmax(-1, keepdim=True)
        h = (highest == torch.arange(blocks.shape[-1], device=blocks.device)).to(blocks.dtype)
        return h.unflatten(-1, (self.pool, self.pool)).transpose(-3, -2).flatten(-2).flatten(-3, -2)
