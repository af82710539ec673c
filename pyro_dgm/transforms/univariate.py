r"""Families of monotone functions of one variable, parametrised by numbers a network can give.

A family maps a number :math:`x` and parameters :math:`\theta` to :math:`y = g(x; \theta)` with
:math:`\log \partial y / \partial x`, and back. Couplings and autoregressive transforms apply one such
function to every feature; which one is their ``univariate`` argument. All families are the identity at
:math:`\theta = 0`, so that a network whose last layer starts at zero starts as the identity.

========================= =============================================== ============
family                    :math:`g(x; \theta)`                             parameters
========================= =============================================== ============
:class:`Shift`            :math:`x + b`                                    1
:class:`Affine`           :math:`x e^{s} + b`, :math:`|s| < a`             2
:class:`Spline`           monotone rational-quadratic, K bins              3K - 1
========================= =============================================== ============
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .._config import Configured


class Univariate(Configured):
    """A family of monotone functions; subclasses define ``size`` and the two passes."""

    size: int

    def forward_and_ladj(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` with shape (*) and ``theta`` with shape (*, size) to y and log dy/dx, with shape (*)."""
        raise NotImplementedError

    def inverse_and_ladj(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to x and log dx/dy."""
        raise NotImplementedError


class Shift(Univariate):
    """y = x + b: volume-preserving (Dinh, Krueger and Bengio, NICE, 2014, arXiv:1410.8516)."""

    size = 1

    def forward_and_ladj(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Adds b."""
        y = x + theta[..., 0]
        return y, torch.zeros_like(y)

    def inverse_and_ladj(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Subtracts b."""
        x = y - theta[..., 0]
        return x, torch.zeros_like(x)


class Affine(Univariate):
    r"""y = x exp(s) + b with the log-scale bounded softly, :math:`s = a \tanh(s_0 / a)`.

    The bound keeps deep stacks finite in float32: one layer stretches by at most :math:`e^{a}`.
    (Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803.)

    Args:
        bound: The bound a on the absolute log-scale.
    """

    size = 2

    def __init__(self, bound: float = 3.0) -> None:
        self.bound = bound

    def _parameters(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        b, s_0 = theta.unbind(-1)
        return b, self.bound * torch.tanh(s_0 / self.bound)

    def forward_and_ladj(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and shifts."""
        b, s = self._parameters(theta)
        return x * s.exp() + b, s

    def inverse_and_ladj(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes the shift, then the scale."""
        b, s = self._parameters(theta)
        minus_s = -s
        return (y - b) * minus_s.exp(), minus_s


class Spline(Univariate):
    r"""Monotone rational-quadratic spline on [-B, B], the identity outside.

    Knots :math:`(x_k, y_k)` with slopes :math:`d_k`; within bin k, with width :math:`w_k`, height :math:`h_k`,
    :math:`s_k = h_k / w_k` and :math:`\xi = (x - x_k) / w_k`,

    .. math::
        y = y_k + h_k \frac{s_k \xi^2 + d_k \xi (1 - \xi)}
                           {s_k + (d_{k+1} + d_k - 2 s_k) \xi (1 - \xi)}

    The slopes at :math:`\pm B` are exactly 1, so the function is continuously differentiable everywhere. Values are
    clamped to the interval before the bin is looked up, so that the branch not taken has finite
    gradients too. (Durkan, Bekasov, Murray and Papamakarios, Neural Spline Flows, 2019, arXiv:1906.04032.)

    Args:
        bins: Number of bins K.
        bound: Half-width B of the interval; data should be standardised to lie mostly within it.
        min_bin: Least width and height of a bin, as a fraction of the interval.
        min_slope: Least slope at a knot; the greatest is 1 / min_slope, and the log-slope is bounded softly between.

    Raises:
        ValueError: If the bins cannot have their least size.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0, min_bin: float = 1e-3, min_slope: float = 1e-3) -> None:
        if bins < 2 or bins * min_bin >= 1:
            raise ValueError(f"bins: expected at least 2 and fewer than 1 / min_bin = {1 / min_bin:g}, got {bins}")
        if not 0 < min_slope < 1:
            raise ValueError(f"min_slope: expected a number between 0 and 1, got {min_slope}")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound: expected a positive number, got {bound}")
        self.bins, self.bound, self.min_bin, self.min_slope = bins, bound, min_bin, min_slope
        self.size = 3 * bins - 1
        self.max_log_slope = -math.log(min_slope)

    def _knots(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x_k and y_k with shape (*, 2, K + 1), and d_k with shape (*, K + 1)."""
        k, b = self.bins, self.bound
        sizes = theta[..., : 2 * k].unflatten(-1, (2, k)).softmax(-1)
        sizes = 2 * b * (self.min_bin + (1 - k * self.min_bin) * sizes)
        inner = sizes[..., :-1].cumsum(-1) - b
        knots = F.pad(F.pad(inner, (1, 0), value=-b), (0, 1), value=b)
        log_slope = theta[..., 2 * k :]
        log_slope = log_slope / (1 + log_slope.abs() / self.max_log_slope)
        return knots, F.pad(log_slope.exp(), (1, 1), value=1.0)

    def _bin(self, value: Tensor, theta: Tensor, axis: int) -> tuple[Tensor, ...]:
        """Finds the bin of ``value`` along x (axis 0) or y (axis 1): x_k, w_k, y_k, h_k, d_k, d_k+1."""
        knots, slopes = self._knots(theta)
        index = (value.unsqueeze(-1) >= knots[..., axis, 1:-1]).sum(-1)
        table = torch.stack(
            [
                knots[..., 0, :-1],
                knots[..., 0, :].diff(),
                knots[..., 1, :-1],
                knots[..., 1, :].diff(),
                slopes[..., :-1],
                slopes[..., 1:],
            ],
            -2,
        )
        index = index[..., None, None].expand(*index.shape, 6, 1)
        table = table.expand(*index.shape[:-2], 6, self.bins)
        return table.gather(-1, index).squeeze(-1).unbind(-1)

    def _slope(self, xi: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
        """Returns log dy/dx at the position xi of a bin."""
        rest = xi * (1 - xi)
        numerator = d1 * xi.square() + 2 * s * rest + d0 * (1 - xi).square()
        return 2 * s.log() + numerator.log() - 2 * (s + (d0 + d1 - 2 * s) * rest).log()

    def forward_and_ladj(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the spline."""
        inside = x.abs() <= self.bound
        x_in = x.clamp(-self.bound, self.bound)
        x0, w, y0, h, d0, d1 = self._bin(x_in, theta, 0)
        s = h / w
        xi = ((x_in - x0) / w).clamp(0, 1)
        rest = xi * (1 - xi)
        y = y0 + h * (s * xi.square() + d0 * rest) / (s + (d0 + d1 - 2 * s) * rest)
        ladj = self._slope(xi, s, d0, d1)
        return torch.where(inside, y, x), torch.where(inside, ladj, 0.0)

    def inverse_and_ladj(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""Solves the quadratic :math:`a \xi^2 + b \xi + c = 0` of the bin for its root in [0, 1]."""
        inside = y.abs() <= self.bound
        y_in = y.clamp(-self.bound, self.bound)
        x0, w, y0, h, d0, d1 = self._bin(y_in, theta, 1)
        s = h / w
        rise = y_in - y0
        curve = rise * (d0 + d1 - 2 * s)
        a, b, c = h * (s - d0) + curve, h * d0 - curve, -s * rise
        discriminant = (b.square() - 4 * a * c).clamp_min(torch.finfo(y.dtype).tiny)
        xi = (2 * c / (-b - discriminant.sqrt())).clamp(0, 1)
        ladj = -self._slope(xi, s, d0, d1)
        return torch.where(inside, x0 + w * xi, y), torch.where(inside, ladj, 0.0)
