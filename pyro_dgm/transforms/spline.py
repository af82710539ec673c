r"""Monotone rational-quadratic splines: every formula of theirs, values and derivatives, in one place.

Knots :math:`(x_k, y_k)` with slopes :math:`d_k`; within bin k, with width :math:`w`, height :math:`h`, slopes
:math:`d_0, d_1` at its ends, :math:`s = h / w`, :math:`\xi = (x - x_0) / w` and :math:`r = \xi (1 - \xi)`,

.. math::
    y = y_0 + h \frac{N}{D}, \quad N = s \xi^2 + d_0 r, \quad D = s + (d_0 + d_1 - 2 s) r, \qquad
    \ell = \log \frac{\partial y}{\partial x} = \log \frac{s^2 P}{D^2}, \quad
    P = d_1 \xi^2 + 2 s r + d_0 (1 - \xi)^2

(Durkan, Bekasov, Murray and Papamakarios, Neural Spline Flows, 2019, arXiv:1906.04032; Gregory and Delbourgo,
1982). With :math:`F(x; \theta) = y`, a change :math:`d\theta` moves the inverse by
:math:`dx = (dy - F_\theta\, d\theta) / F_x`, so both directions share the derivatives :math:`F_\theta` and
:math:`\ell_\theta`. They are written out below: autograd would go through some hundred small operations, and
scatter the gradients of the bins.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .univariate import Univariate


class RationalQuadratic(Univariate):
    """What splines on [-B, B] share; subclasses say which log-slopes stand at the K + 1 knots, and what lies outside.

    Args:
        bins: Number of bins K.
        bound: Half-width B of the interval.
        min_bin: Least width and height of a bin, as a fraction of the interval.
        min_slope: Least slope at a knot; the greatest is 1 / min_slope, and the log-slope is bounded softly between.

    Raises:
        ValueError: If the bins cannot have their least size.
    """

    def __init__(self, bins: int, bound: float, min_bin: float, min_slope: float) -> None:
        if bins < 2 or bins * min_bin >= 1:
            raise ValueError(f"bins: expected at least 2 and fewer than 1 / min_bin = {1 / min_bin:g}, got {bins}")
        if not 0 < min_slope < 1:
            raise ValueError(f"min_slope: expected a number between 0 and 1, got {min_slope}")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound: expected a positive number, got {bound}")
        self.bins, self.bound, self.min_bin, self.min_slope = bins, bound, min_bin, min_slope

    def _evaluate(self, v: Tensor, sizes: Tensor, slopes: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Evaluates the spline, or its inverse, at v within the interval.

        Args:
            v: Where, with shape (*).
            sizes: Logits of widths, then of heights, with shape (2 K, *).
            slopes: Raw log-slopes at the knots, with shape (K + 1, *).
            inverse: Whether v is a y.
        """
        shape = torch.broadcast_shapes(v.shape, sizes.shape[1:])
        added = (1,) * (len(shape) + 1 - sizes.dim())  # batch dimensions that only v has
        sizes, slopes = (t.reshape(len(t), *added, *t.shape[1:]) for t in (sizes, slopes))
        p = sizes.unflatten(0, (2, self.bins)).softmax(1).expand(2, self.bins, *shape)
        evaluate = _Evaluate.apply if torch.is_grad_enabled() else _Evaluate.forward
        numbers = self.bound, self.min_bin, -math.log(self.min_slope)
        return evaluate(v.expand(shape), p, slopes.expand(-1, *shape), inverse, *numbers)[:2]


class Spline(RationalQuadratic):
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
        super().__init__(bins, bound, min_bin, min_slope)
        self.size = 3 * bins - 1

    def forward_and_ladj(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the spline."""
        return self._within(x, theta, inverse=False)

    def inverse_and_ladj(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Solves the quadratic of the bin."""
        return self._within(y, theta, inverse=True)

    def _within(self, v: Tensor, theta: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        theta, inside = theta.movedim(-1, 0), v.abs() <= self.bound
        slopes = F.pad(theta[2 * self.bins :], (0, 0) * (theta.dim() - 1) + (1, 1))
        clamped = v.clamp(-self.bound, self.bound)
        out, ladj = self._evaluate(clamped, theta[: 2 * self.bins], slopes, inverse)
        return torch.where(inside, out, v), torch.where(inside, ladj, 0.0)


class CircularSpline(RationalQuadratic):
    r"""Monotone rational-quadratic spline of the circle :math:`[-\pi, \pi)`, followed by a rotation.

    .. math::
        y = \bigl(g(x) + \phi + \pi\bigr) \bmod 2\pi - \pi, \qquad d_0 = d_K

    :math:`g` is a spline on the interval whose slopes at both ends are one free number, so that it is continuously
    differentiable where the interval closes; the rotation :math:`\phi` moves that point, which g alone would keep. Its
    zero of parameters is the identity. (Rezende, Papamakarios, Racaniere, Albergo, Kanwar, Shanahan and Cranmer,
    Normalizing Flows on Tori and Spheres, 2020, arXiv:2002.02428.)

    Args:
        bins: Number of bins K.
        min_bin: Least width and height of a bin, as a fraction of the circle.
        min_slope: Least slope at a knot; the greatest is 1 / min_slope, and the log-slope is bounded softly between.

    Raises:
        ValueError: If the bins cannot have their least size.
    """

    def __init__(self, bins: int = 8, min_bin: float = 1e-3, min_slope: float = 1e-3) -> None:
        super().__init__(bins, math.pi, min_bin, min_slope)
        self.size = 3 * bins + 1

    def forward_and_ladj(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the spline, then rotates."""
        sizes, slopes, phase = self._parts(theta)
        y, ladj = self._evaluate(wrap(x), sizes, slopes, inverse=False)
        return wrap(y + phase), ladj

    def inverse_and_ladj(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Rotates back, then solves the quadratic of the bin."""
        sizes, slopes, phase = self._parts(theta)
        x, ladj = self._evaluate(wrap(y - phase), sizes, slopes, inverse=True)
        return wrap(x), ladj

    def _parts(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, k = theta.movedim(-1, 0), self.bins
        return theta[: 2 * k], torch.cat([theta[2 * k : 3 * k], theta[2 * k : 2 * k + 1]]), theta[-1]


def wrap(angle: Tensor) -> Tensor:
    r"""Returns an angle within :math:`[-\pi, \pi)`, the one there as it is."""
    turned = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    within = (angle >= -math.pi) & (angle < math.pi)
    edge = -math.pi  # rounding may give the excluded end
    return torch.where(within, angle, torch.where(turned < math.pi, turned, edge))


class _Evaluate(torch.autograd.Function):
    """Value and log-slope at v, given fractions p of the interval, (2, K, *), and raw log-slopes a, (K + 1, *).

    The bin is given too, so that the derivative has what it needs and is differentiable in its turn.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        v: Tensor, p: Tensor, a: Tensor, inverse: bool, bound: float, min_bin: float, max_log_slope: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        start, size, raw, k = _find(v, p, a, int(inverse), bound, min_bin)
        (x_0, y_0), (w, h), (d_0, d_1) = start, size, _slope(raw, max_log_slope)[0]
        s = h / w
        curve = d_0 + d_1 - 2 * s
        if inverse:  # the root in [0, 1] of a quadratic, in the form that does not cancel
            rise = v - y_0
            curved = rise * curve
            b = h * d_0 - curved
            root = torch.addcmul(b.square(), torch.addcmul(curved, h, s - d_0), s * rise, value=4)
            xi = 2 * s * rise / (b + root.clamp_min(torch.finfo(v.dtype).tiny).sqrt())
        else:
            xi = (v - x_0) / w
        xi = xi.clamp(0, 1)
        r = xi * (1 - xi)
        den = torch.addcmul(s, curve, r)
        ell = 2 * (s / den).log() + _p(xi, r, s, d_0, d_1).log()
        if inverse:
            return torch.addcmul(x_0, w, xi), -ell, start, size, raw, k
        return torch.addcmul(y_0, h, torch.addcmul(d_0 * r, s, xi.square()) / den), ell, start, size, raw, k

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        v, p, _, *ctx.numbers = inputs
        ctx.bins = p.shape[1]
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(v, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        v, out, ell, start, size, raw, k = ctx.saved_tensors
        inverse, bound, min_bin, max_log_slope = ctx.numbers
        g_out, g_ell, g_start, g_size, g_raw, _ = grads
        g_out, g_ell = (torch.zeros_like(v) if g is None else g for g in (g_out, g_ell))
        (x_0, _), (w, h), (slopes, growth) = start, size, _slope(raw, max_log_slope)
        d_0, d_1 = slopes
        s, x = h / w, out if inverse else v
        xi = ((x - x_0) / w).clamp(0, 1)
        rest = 1 - xi
        r, turn = xi * rest, rest - xi
        curve = d_0 + d_1 - 2 * s
        den = torch.addcmul(s, curve, r)
        share = torch.addcmul(d_0 * r, s, xi.square()) / den  # N / D
        p_ = _p(xi, r, s, d_0, d_1)
        ell_xi = 2 * ((d_1 * xi + s * turn - d_0 * rest) / p_ - curve * turn / den)
        slope = (-ell if inverse else ell).exp()
        if inverse:
            beta = -g_ell
            alpha = -torch.addcmul(g_out, beta, ell_xi / w) / slope
            g_v = -alpha
        else:
            alpha, beta = g_out, g_ell
            g_v = torch.addcmul(alpha * slope, beta, ell_xi / w)
        g_xi = torch.addcmul(beta * ell_xi, alpha, slope * w)
        a_h, b_p, b_den = alpha * h / den, beta / p_, 2 * beta / den
        den_s = 1 - 2 * r
        g_s = a_h * (xi.square() - share * den_s) + 2 * (beta / s + r * b_p) - den_s * b_den
        g_d = torch.stack(
            [
                torch.addcmul(r * (a_h * (1 - share) - b_den), rest.square(), b_p),
                torch.addcmul(-r * torch.addcmul(b_den, a_h, share), xi.square(), b_p),
            ]
        )
        g_start_ = torch.stack([-g_xi / w, alpha])
        g_size_ = torch.stack([-(g_s * s + g_xi * xi) / w, torch.addcmul(g_s / w, alpha, share)])
        given = zip((g_start_, g_size_, g_d * growth), (g_start, g_size, g_raw), strict=True)
        g_start, g_size, g_raw = (mine if other is None else mine + other for mine, other in given)
        return g_v, *_spread(g_start, g_size, g_raw, k, ctx.bins, bound, min_bin), None, None, None, None


def _along(start: int, stop: int, like: Tensor) -> Tensor:
    """Returns whole numbers along a new first dimension, to broadcast against ``like``."""
    return torch.arange(start, stop, dtype=like.dtype, device=like.device).view(-1, *[1] * like.dim())


def _slope(raw: Tensor, max_log_slope: float) -> tuple[Tensor, Tensor]:
    """Returns the slopes, and their derivatives, of raw log-slopes, which are bounded softly."""
    shrink = 1 / (1 + raw.abs() / max_log_slope)
    slope = (raw * shrink).exp()
    return slope, slope * shrink.square()


def _p(xi: Tensor, r: Tensor, s: Tensor, d_0: Tensor, d_1: Tensor) -> Tensor:
    return torch.addcmul(torch.addcmul(2 * s * r, d_1, xi.square()), d_0, (1 - xi).square())


def _find(
    v: Tensor, p: Tensor, a: Tensor, axis: int, bound: float, min_bin: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Finds the bin of v along x (axis 0) or y (axis 1): (x_0, y_0), (w, h), raw slopes, index, by counting knots."""
    bins = p.shape[1]
    total = p.cumsum(1)
    free = 2 * bound * (1 - bins * min_bin)
    k = (v + bound >= torch.add(2 * bound * min_bin * _along(1, bins, v), total[axis, :-1], alpha=free)).sum(0)
    index = k.expand(2, 1, *k.shape)
    size = p.gather(1, index).squeeze(1)
    start = free * (total.gather(1, index).squeeze(1) - size) + (k * v.new_full((), 2 * bound * min_bin) - bound)
    raw = a.gather(0, torch.stack([k, k + 1]))
    return start, free * size + 2 * bound * min_bin, raw, k


def _spread(
    g_start: Tensor, g_size: Tensor, g_raw: Tensor, k: Tensor, bins: int, bound: float, min_bin: float
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of p and a: those of a bin's start go to all bins before it, all others to itself."""
    before = (k - _along(-2, bins + 1, g_raw[0])).clamp(0, 1)  # 1 where k exceeds j
    here = before[:-1] - before[1:]
    free = 2 * bound * (1 - bins * min_bin)
    g_p = (free * g_start).unsqueeze(1) * before[2:-1]
    g_p = torch.addcmul(g_p, (free * g_size).unsqueeze(1), here[1:-1])
    return g_p, torch.addcmul(here[1:] * g_raw[0], here[:-1], g_raw[1])
