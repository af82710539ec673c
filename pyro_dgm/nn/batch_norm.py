r"""Batch normalisation of images, plain or given a context.

.. math::
    y = \gamma(c) \, \frac{h - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta(c), \qquad
    \gamma(c) = \gamma + \Gamma c, \quad \beta(c) = \beta + B c

with mean :math:`\mu` and variance :math:`\sigma^2` of every channel over the data of the batch and their pixels, or, in
evaluation mode, running averages of those. (Ioffe and Szegedy, Batch Normalization, 2015, arXiv:1502.03167; a scale and
a shift per class: Dumoulin, Shlens and Kudlur, A Learned Representation For Artistic Style, 2016, arXiv:1610.07629;
De Vries, Strub, Mary, Larochelle, Pietquin and Courville, 2017, arXiv:1707.00683.)

It belongs into generators, whose samples it keeps from being all alike. It makes every output depend on the whole
batch, so it has no place where a single datum is meant: in a density, a posterior, or under a gradient penalty.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation, whose scale and shift may depend on a context: on a class, if that is one-hot.

    In training mode the running averages move only where gradients are computed: drawing samples, which is done
    without, changes nothing.

    Args:
        channels: Channels of the images.
        context: Width of the context, 0 for none. What depends on it starts at zero.

    Example:
        >>> norm = BatchNorm(3, context=10)
        >>> norm(torch.randn(5, 3, 4, 4), torch.zeros(5, 10)).shape
        torch.Size([5, 3, 4, 4])
    """

    def __init__(self, channels: int, context: int = 0) -> None:
        super().__init__(channels)
        # no layer, since spectral normalisation could not divide it by its zero
        self.context = nn.Parameter(torch.zeros(2 * channels, context)) if context else None

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps images (n, channels, H, W) and contexts (n, context) to images of the same shape."""
        batch, moving = self.training, self.training and torch.is_grad_enabled()
        averages = (None, None) if batch and not moving else (self.running_mean, self.running_var)
        if moving:
            self.num_batches_tracked.add_(1)
        if self.context is None:
            return F.batch_norm(h, *averages, self.weight, self.bias, batch, self.momentum, self.eps)
        gamma, beta = F.linear(context, self.context).chunk(2, -1)
        gamma, beta = ((t + p)[..., None, None] for t, p in ((gamma, self.weight), (beta, self.bias)))
        return gamma * F.batch_norm(h, *averages, training=batch, momentum=self.momentum, eps=self.eps) + beta


def mixes_data(network: nn.Module) -> bool:
    """Whether batch normalisation somewhere in a network makes the output for a datum depend on the others.

    Example:
        >>> mixes_data(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))), mixes_data(nn.GroupNorm(1, 3))
        (True, False)
    """
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())
