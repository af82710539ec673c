r"""Self-attention between the pixels of an image, for what convolutions are too short-sighted to see.

.. math::
    \beta_{ji} = \operatorname{softmax}_i \bigl(f(x_i)^\top g(x_j)\bigr), \qquad
    o_j = v \Bigl(\sum_i \beta_{ji}\, h(x_i)\Bigr), \qquad y_j = \gamma\, o_j + x_j

with linear maps f, g, h from C to C/8 channels and v back, and a number :math:`\gamma` that starts at zero: the block
starts as the identity. (Zhang, Goodfellow, Metaxas and Odena, Self-Attention Generative Adversarial Networks, 2018,
arXiv:1805.08318.) It knows no places: permuted pixels give permuted pixels.
"""

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """A block from images to images, in which every pixel looks at every other; memory grows with their square.

    Products and softmax are written out, since fused kernels have no second derivative for gradient penalties.

    Args:
        channels: Channels C of the images.

    Example:
        >>> SelfAttention(16)(torch.zeros(5, 16, 4, 4)).shape
        torch.Size([5, 16, 4, 4])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.f, self.g, self.h = (nn.Conv2d(channels, inner, 1, bias=False) for _ in range(3))
        self.v = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, channels, H, W) to the same shape."""
        f, g, h = (layer(x).flatten(2) for layer in (self.f, self.g, self.h))  # [n, C/8, pixels]
        beta = (g.mT @ f).softmax(-1)  # [n, j, i]
        o = self.v((h @ beta.to(h.dtype).mT).unflatten(-1, x.shape[-2:]))
        return self.gamma * o + x
