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
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .univariate import Theta, Univariate, first, number_first, whole

_BIN_GAIN, _SLOPE_GAIN = 0.25, 0.5  # at a rate that suits networks' hidden layers, bins learn too fast
_FEW = 4096  # values up to which one search among the joined parameters of all features costs less than two


class RationalQuadratic(Univariate):
    r"""What splines on [-B, B] share; subclasses say which slopes stand at the K + 1 knots, and what lies outside.

    Args:
        bins: Number of bins K.
        bound: Half-width B of the interval.
        min_bin: Least width and height :math:`m_b` of a bin, as a fraction of the interval.
        min_slope: Least slope m at a knot.

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

    def _evaluate(
        self, v: Tensor, parts: Sequence[tuple[Tensor, Tensor]], inverse: bool, bound: float = math.inf
    ) -> tuple[Tensor, Tensor]:
        """Evaluates the spline, or its inverse, at v, and the identity outside of the bound.

        Args:
            v: Where, with shape (*, D); memory runs feature by feature from here on, as it does in what networks give.
            parts: For one run of features after another, logits of width and height, bin by bin, (2 K, D, *), and raw
                slopes, (K + 1, D, *) for all knots, or (K - 1, D, *) for all but the outermost, whose slope is 1.
            inverse: Whether v is a y.
            bound: Half-width of the interval, if v may lie outside.
        """
        evaluate = _Evaluate.apply if torch.is_grad_enabled() else _Evaluate.forward
        out, ladj = evaluate(*self._look(v, parts, inverse, bound), inverse, self.min_slope)
        return out.movedim(0, -1), ladj.movedim(0, -1)

    def _restore(self, y: Tensor, parts: Sequence[tuple[Tensor, Tensor]], bound: float = math.inf) -> Tensor:
        """Evaluates the inverse alone; without gradient, which takes the slope."""
        if torch.is_grad_enabled():
            return self._evaluate(y, parts, True, bound)[0]
        y, inner, here = self._look(y, parts, True, bound)
        xi, *_ = _place(inner, here, True, self.min_slope)
        return torch.where(inner == y, torch.addcmul(here[0], here[2], xi), y).movedim(0, -1)

    def _look(
        self, v: Tensor, parts: Sequence[tuple[Tensor, Tensor]], inverse: bool, bound: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns v and v within the bound, (D, *), and its bin, (6, D, *)."""
        v, least = v.movedim(-1, 0).contiguous(), 2 * self.bound * self.min_bin
        inner = v.clamp(-bound, bound)
        pieces = [inner] if len(parts) == 1 else inner.split([sizes.shape[1] for sizes, _ in parts])
        look = _Bin.apply if torch.is_grad_enabled() else _Bin.forward
        bins = []
        for piece, (sizes, slopes) in zip(pieces, parts, strict=True):
            shares = sizes.view(self.bins, 2, *sizes.shape[1:]).softmax(0)
            bins.append(look(piece, shares, slopes, inverse, self.bound, least)[0])
        return v, inner, bins[0] if len(bins) == 1 else torch.cat(bins, 1)


class Spline(RationalQuadratic):
    r"""Monotone rational-quadratic spline on [-B, B], the identity outside.

    Knots :math:`(x_k, y_k)` with slopes :math:`d_k`; within bin k, with width :math:`w_k`, height :math:`h_k`,
    :math:`s_k = h_k / w_k` and :math:`\xi = (x - x_k) / w_k`,

    .. math::
        y = y_k + h_k \frac{s_k \xi^2 + d_k \xi (1 - \xi)}
                           {s_k + (d_{k+1} + d_k - 2 s_k) \xi (1 - \xi)}

    Of the numbers given, bins have :math:`w_k = 2 B\, (m_b + (1 - K m_b)\, \mathrm{softmax}(\cdot)_k)`, heights alike,
    and inner knots :math:`d_k = m + \log(1 + e^{\beta u_k}) / \beta` with :math:`\beta = \log 2 / (1 - m)`, which is 1
    at zero and grows no faster than :math:`u_k`. The slopes at :math:`\pm B` are 1, so the function is continuously
    differentiable everywhere. Values are clamped to the interval before the bin is looked up, so that the branch not
    taken has finite gradients too. (Durkan, Bekasov, Murray and Papamakarios, Neural Spline Flows, 2019,
    arXiv:1906.04032.)

    Args:
        bins: Number of bins K.
        bound: Half-width B of the interval; data should be standardised to lie mostly within it.
        min_bin: Least width and height :math:`m_b` of a bin, as a fraction of the interval.
        min_slope: Least slope m at a knot.

    Raises:
        ValueError: If the bins cannot have their least size.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0, min_bin: float = 1e-3, min_slope: float = 1e-3) -> None:
        super().__init__(bins, bound, min_bin, min_slope)
        self.size = 3 * bins - 1
        self.gains = [_BIN_GAIN] * (2 * bins) + [_SLOPE_GAIN] * (bins - 1)

    def forward_and_ladj(self, x: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Evaluates the spline."""
        return self._evaluate(*self._parts(x, theta), inverse=False, bound=self.bound)

    def inverse_and_ladj(self, y: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Solves the quadratic of the bin."""
        return self._evaluate(*self._parts(y, theta), inverse=True, bound=self.bound)

    def inverse_value(self, y: Tensor, theta: Theta) -> Tensor:
        """Solves the quadratic of the bin."""
        return self._restore(*self._parts(y, theta), self.bound)

    def _parts(self, v: Tensor, theta: Theta) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        v, thetas = number_first(v, theta)
        if len(thetas) > 1 and v.numel() <= _FEW:
            thetas = [torch.cat([t.expand(*t.shape[:2], *v.shape[:-1]) for t in thetas], 1)]
        return v, [t.split([2 * self.bins, self.bins - 1]) for t in thetas]


class CircularSpline(RationalQuadratic):
    r"""Monotone rational-quadratic spline of the circle :math:`[-\pi, \pi)`, after a rotation.

    .. math::
        y = g\bigl((x + \phi + \pi) \bmod 2\pi - \pi\bigr), \qquad d_0 = d_K

    :math:`g` is a spline on the interval whose slopes at both ends are one free number, so that it is continuously
    differentiable where the interval closes; the rotation :math:`\phi` moves that point, which g alone would keep. Its
    zero of parameters is the identity. (Rezende, Papamakarios, Racaniere, Albergo, Kanwar, Shanahan and Cranmer,
    Normalizing Flows on Tori and Spheres, 2020, arXiv:2002.02428.)

    Args:
        bins: Number of bins K.
        min_bin: Least width and height :math:`m_b` of a bin, as a fraction of the circle.
        min_slope: Least slope m at a knot.

    Raises:
        ValueError: If the bins cannot have their least size.
    """

    def __init__(self, bins: int = 8, min_bin: float = 1e-3, min_slope: float = 1e-3) -> None:
        super().__init__(bins, math.pi, min_bin, min_slope)
        self.size = 3 * bins + 1
        self.gains = [_BIN_GAIN] * (2 * bins) + [_SLOPE_GAIN] * bins + [1.0]

    def forward_and_ladj(self, x: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Rotates, then evaluates the spline."""
        phase = whole(theta)[..., -1]
        y, ladj = self._evaluate(*self._parts(wrap(x + phase), theta), inverse=False)
        return wrap(y), ladj

    def inverse_and_ladj(self, y: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Solves the quadratic of the bin, then rotates back."""
        phase = whole(theta)[..., -1]
        x, ladj = self._evaluate(*self._parts(wrap(y), theta), inverse=True)
        return wrap(x - phase), ladj

    def inverse_value(self, y: Tensor, theta: Theta) -> Tensor:
        """Solves the quadratic of the bin, then rotates back."""
        return wrap(self._restore(*self._parts(wrap(y), theta)) - whole(theta)[..., -1])

    def _parts(self, v: Tensor, theta: Theta) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        (v, thetas), k = number_first(v, theta), self.bins
        return v, [(t[: 2 * k], torch.cat([t[2 * k : 3 * k], t[2 * k : 2 * k + 1]])) for t in thetas]


def wrap(angle: Tensor) -> Tensor:
    r"""Returns an angle within :math:`[-\pi, \pi)`, the one there as it is."""
    turned = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    within = (angle >= -math.pi) & (angle < math.pi)
    edge = -math.pi  # rounding may give the excluded end
    return torch.where(within, angle, torch.where(turned < math.pi, turned, edge))


class _Bin(torch.autograd.Function):
    """The bin of v, (6, *): x_0, y_0, w, h, raw slopes at its ends.

    It is found among bins that have shares (K, 2, *) of what the least sizes leave of [-B, B], given the knots' slopes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        v: Tensor, shares: Tensor, slopes: Tensor, inverse: bool, bound: float, least: float
    ) -> tuple[Tensor, Tensor]:
        sizes = torch.rsub(shares, least, alpha=len(shares) * least - 2 * bound)
        if len(slopes) < len(sizes):
            zero = torch.zeros_like(slopes[:1])
            slopes = torch.cat([zero, slopes, zero])
        pairs = sizes.unbind(0)
        starts = torch.stack([*accumulate(pairs[:-1], initial=torch.full_like(pairs[0], -bound))])
        k = (v >= starts[1:, int(inverse)]).sum(0)
        of_both = k.expand(1, 2, *k.shape)
        rows = [(starts, of_both), (sizes, of_both), (slopes[:-1], k[None]), (slopes[1:], k[None])]
        return torch.cat(
            [t.expand(*t.shape[: -k.dim()], *k.shape).gather(0, i).flatten(0, -1 - k.dim()) for t, i in rows]
        ), k

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, shares, slopes, _, bound, least = inputs
        ctx.shapes, ctx.scale = (shares.shape, slopes.shape), 2 * bound - len(shares) * least
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the start of a bin go to the sizes of all bins before it, others to the bin itself."""
        (k,), (shares, slopes) = ctx.saved_tensors, ctx.shapes
        j = first(torch.arange(-2, shares[0] + 1, dtype=g.dtype, device=k.device), k)
        before = (k - j).clamp(0, 1)  # 1 where j is less than k
        here = before[:-1] - before[1:]
        g_start, g_size = (ctx.scale * g[:4]).split(2)
        g_shares = torch.addcmul(g_start * before[2:-1, None], g_size, here[1:-1, None])
        d = 1 if slopes[0] < shares[0] else 0
        g_slopes = torch.addcmul(here[1 + d : len(here) - d] * g[4], here[d : len(here) - 1 - d], g[5])
        return None, g_shares.sum_to_size(shares), g_slopes.sum_to_size(slopes), None, None, None


class _Evaluate(torch.autograd.Function):
    """Value and log-slope at v, given its bin; the identity outside of the bound, where v is not its ``inner``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, inner: Tensor, here: Tensor, inverse: bool, min_slope: float) -> tuple[Tensor, Tensor]:
        x_0, y_0, w, h, *_ = here.unbind(0)
        xi, s, half, d_0, d_1 = _place(inner, here, inverse, min_slope)
        r = torch.addcmul(xi, xi, xi, value=-1)
        den = torch.addcmul(s, half, r, value=2)
        p = _p(xi, r, half, d_0, d_1)
        ell = ((den / s).square() / p if inverse else (s / den).square() * p).log()
        out = torch.addcmul(x_0, w, xi) if inverse else torch.addcmul(y_0, h, torch.addcmul(s * xi, r, d_0 - s) / den)
        inside = inner == v
        return torch.where(inside, out, v), torch.where(inside, ell, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        v, inner, here, *ctx.numbers = inputs
        ctx.save_for_backward(v, inner, here, *output)

    @staticmethod
    def backward(ctx: Any, g_out: Tensor, g_ell: Tensor) -> tuple[Tensor | None, ...]:
        v, inner, here, out, ell = ctx.saved_tensors
        inverse, min_slope = ctx.numbers
        inside, g_all = inner == v, g_out
        g_out, beta = torch.where(inside, g_out, 0.0), torch.where(inside, -g_ell if inverse else g_ell, 0.0)
        x_0, _, w, h, *_ = here.unbind(0)
        d_0, d_1 = slopes = _slopes(here[4:], min_slope)
        s = h / w
        half = torch.lerp(d_0, d_1, 0.5) - s
        xi = (((out if inverse else v) - x_0) / w).clamp(0, 1)
        r = torch.addcmul(xi, xi, xi, value=-1)
        den = torch.addcmul(s, half, r, value=2)
        share = torch.addcmul(s * xi, r, d_0 - s) / den  # N / D
        # the loss changes by alpha dF + beta d ell, at fixed x
        b, e = beta / _p(xi, r, half, d_0, d_1), 2 * beta / den
        g_xi = torch.addcmul(b * (d_1 - d_0), b + e, torch.addcmul(half, half, xi, value=-2), value=-2)
        if inverse:
            alpha = -torch.addcdiv(g_out, g_xi, w) * ell.exp()
            g_x, g_v, g_xi = g_out, -alpha, -g_out * w
        else:
            alpha = g_out
            g_xi = torch.addcmul(g_xi, alpha * w, ell.exp())
            g_v = g_xi / w
            g_x = -g_v
        a = alpha * h / den
        t = torch.addcmul(e, a, share)
        u = t + b
        m = r * torch.sub(a, u, alpha=2)
        g_s = torch.addcmul(torch.addcdiv(-t - m, beta, s, value=2), a, xi)
        g_1 = torch.addcmul(xi * b, r, u, value=-1)
        g_d = torch.stack([m + b - g_1, g_1]) * -torch.expm1((min_slope - slopes) * _beta(min_slope))
        g_w, g_h = -torch.addcmul(g_xi * xi, g_s, s) / w, torch.addcdiv(alpha * share, g_s, w)
        return torch.where(inside, g_v, g_all), None, torch.stack([g_x, alpha, g_w, g_h, *g_d]), None, None


def _place(inner: Tensor, here: Tensor, inverse: bool, min_slope: float) -> tuple[Tensor, ...]:
    """Returns xi, s, half of d_0 + d_1 - 2 s, d_0, d_1; of a y, xi is the root in [0, 1] of a quadratic."""
    x_0, y_0, w, h, *_ = here.unbind(0)
    d_0, d_1 = _slopes(here[4:], min_slope)
    s = h / w
    half = torch.lerp(d_0, d_1, 0.5) - s
    if inverse:  # in the form that does not cancel
        rise = inner - y_0
        c, bent = s * rise, half * rise
        a, b = torch.addcmul(bent, h, s - d_0, value=0.5), torch.addcmul(bent, h, d_0, value=-0.5)
        root = torch.addcmul(b.square(), a, c, value=2)
        xi = c / (root.clamp_min(torch.finfo(inner.dtype).tiny).sqrt() - b)
    else:
        xi = (inner - x_0) / w
    return xi.clamp(0, 1), s, half, d_0, d_1


def _slopes(raw: Tensor, min_slope: float) -> Tensor:
    return F.softplus(raw, _beta(min_slope)) + min_slope


def _beta(min_slope: float) -> float:
    """Returns the sharpness of the softplus that makes the slope 1 of a zero."""
    return math.log(2) / (1 - min_slope)


def _p(xi: Tensor, r: Tensor, half: Tensor, d_0: Tensor, d_1: Tensor) -> Tensor:
    return torch.addcmul(torch.lerp(d_0, d_1, xi), half, r, value=-2)
