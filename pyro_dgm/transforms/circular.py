r"""Angles: how a network sees them, and how the reals are rolled up into the circle.

.. math::
    e(x) = (\cos x, \sin x, \dots, \cos n x, \sin n x), \qquad y = (x + \pi) \bmod 2 \pi - \pi

A network that reads an angle x as a number takes -3.14 and 3.14 for far apart, and a density that it conditions jumps
where the circle is cut; one that reads :math:`e(x)` cannot tell :math:`x` from :math:`x + 2 \pi`. With
:class:`~pyro_dgm.transforms.CircularSpline` that makes flows on the torus: :class:`Harmonics` is the ``embed`` of
couplings and autoregressive transforms, :class:`Wrap` the end of the flow, which says where its data live.
"""

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from .._config import Configured
from .base import Pass, Transform
from .spline import wrap


class Harmonics(Configured):
    r"""The first n harmonics of an angle, :math:`\cos kx` and :math:`\sin kx` for k = 1..n.

    One determines the angle; more help a network to tell angles apart that are close.

    Args:
        order: Their number n.

    Attributes:
        size: How many numbers stand for an angle, 2 n.

    Raises:
        ValueError: If there is none.

    Example:
        >>> Harmonics()(torch.zeros(3)).shape
        torch.Size([3, 2])
    """

    def __init__(self, order: int = 1) -> None:
        if order < 1:
            raise ValueError(f"order: expected at least 1 harmonic, got {order}")
        self.order, self.size = order, 2 * order

    def __call__(self, x: Tensor) -> Tensor:
        """Maps angles with shape (*) to (*, size)."""
        return torch.stack([f(k * x) for k in range(1, self.order + 1) for f in (torch.cos, torch.sin)], -1)


class Wrap(Transform):
    r"""y = x but for turns, within :math:`[-\pi, \pi)`: a bijection of the circle, element by element.

    It forgets how often x went around, so its inverse is itself, and what stands before it in a flow must live on the
    circle too. Where validation is on, distributions refuse values outside of :math:`[-\pi, \pi)`; where it is off,
    they have the density of the angle.

    Example:
        >>> Wrap()(torch.tensor([1.0, 4.0]))
        tensor([ 1.0000, -2.2832])
    """

    domain = constraints.real
    codomain = constraints.half_open_interval(-math.pi, math.pi)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Takes turns off."""
        return wrap(x), torch.zeros_like(x)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Takes turns off."""
        return wrap(y), torch.zeros_like(y)
