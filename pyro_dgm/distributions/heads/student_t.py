r"""Student's t distribution as a head: real numbers with outliers.

.. math::
    x = \mu + \sigma t, \qquad t = \sqrt{\nu \left(v^{-2 / \nu} - 1\right)} \cos 2 \pi w, \qquad v, w \sim U(0, 1)

is a draw with :math:`\nu` degrees of freedom (Bailey, Polar generation of random variates with the t-distribution,
Mathematics of Computation, 1994), differentiable in :math:`\mu, \sigma` and :math:`\nu`.
"""

import math

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.nn import functional as F

from .base import Head
from .continuous import check_scale, positive

_LEAST = 1e-7


class StudentT(Head):
    r"""Student's t; parameters are location, raw scale (1 at zero) and raw degrees of freedom.

    :math:`\nu = 3 + \mathrm{softplus}`, so that mean and variance exist.

    Args:
        min_scale: The least scale, in [0, 1).

    Raises:
        ValueError: If the least scale is another.

    Example:
        >>> StudentT()(torch.zeros(5, 3)).batch_shape
        torch.Size([5])
    """

    size, noises, has_rsample = 3, 2, True

    def __init__(self, min_scale: float = 1e-3) -> None:
        self.min_scale = check_scale(min_scale)

    def __call__(self, theta: Tensor) -> dist.StudentT:
        """Returns the distributions."""
        loc, raw, df = theta.unbind(-1)
        return dist.StudentT(3 + F.softplus(df), loc, positive(raw, self.min_scale), validate_args=False)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns location + scale * t, by Bailey's method."""
        p, v, w = self(theta), noise[..., 0].clamp(_LEAST, 1 - _LEAST), noise[..., 1]
        t = (p.df * torch.expm1(-2 / p.df * v.log())).sqrt() * torch.cos(2 * math.pi * w)
        return p.loc + p.scale * t
