r"""Mixtures of normals and the inverse normal distribution function on a logarithmic scale, exact in the far tail.

.. math::
    P(x) = \sum_k w_k \Phi(z_k), \qquad N(x) = \sum_k \frac{w_k}{s_k} \varphi(z_k), \qquad z_k = \frac{x - \mu_k}{s_k}

and :math:`z = \Phi^{-1}(e^l)` with :math:`m(z) = \varphi(z) / \Phi(z)`, the slope of :math:`\log \Phi`. The
complementary error function gives :math:`\Phi(-|z|)` down to :math:`z = -12`, and below that Laplace's continued
fraction,

.. math::
    m(-a) = a + \cfrac{1}{a + \cfrac{2}{a + \cfrac{3}{a + \dots}}}

which after n fractions has relative error :math:`(n + 1)! / a^{2n + 2}`: 6e-8 there with three, 1e-15 with nine
(Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.2.14). Sums are those of numbers relative to the
density of the component that is nearest, so that none of them vanishes and no component takes a logarithm; exponents
are products :math:`(b - a)(b + a)`, never differences of squares.

All derivatives, of any order, follow from shares of the sums, which are kept: with
:math:`r_k = w_k \Phi(z_k) / P` and :math:`q_k = w_k \varphi(z_k) / (s_k N)`,

.. math::
    d \log P = \sum_k r_k\, d \log w_k \Phi(z_k), \qquad
    d \log N = \sum_k q_k\, d \log \tfrac{w_k}{s_k} \varphi(z_k)

and from :math:`m' = m d` and :math:`d' = -1 - m d` with :math:`d = (\log m)' = -z - m`, in the tail the first fraction
with its sign changed. The slope :math:`-z` of :math:`\log \varphi` is written :math:`d + m`: far out, where one
component is all there is, :math:`r_k` and :math:`q_k` are one and cancel before anything is multiplied by :math:`m`.
(Where several of one width and place are left, what rounding leaves of their difference is multiplied.)
"""

import math
from typing import Any

import torch
from torch import Tensor

_ROOT_HALF = math.sqrt(0.5)
_TAIL = 12.0 * _ROOT_HALF  # of |z| / sqrt(2), which is what the error functions see
_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


def mixture_tail(x: Tensor, log_w: Tensor, mu: Tensor, log_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns the nearer tail of a mixture of normals.

    Args:
        x: Where, with shape (*), in float32 or float64.
        log_w: Logarithms of the weights, none of them below -60, with shape (K, *), as those that follow.
        mu: The means.
        log_s: Logarithms of the deviations.

    Returns:
        :math:`\sigma`, 1 up to the median and -1 beyond; :math:`l = \log P`, beyond the median of the mass above x
        instead; and :math:`\rho = \log N / P`. All have shape (*).

    Example:
        >>> one = torch.zeros(1, 1)
        >>> mixture_tail(torch.tensor([1e6]), one, one, one)
        (tensor([-1.]), tensor([-5.0000e+11]), tensor([13.8155]))
    """
    if torch.is_grad_enabled():
        return _Mixture.apply(x, log_w, mu, log_s)[:3]
    return _mixture(x, log_w, mu, log_s, with_shares=False)


def _mixture(x: Tensor, log_w: Tensor, mu: Tensor, log_s: Tensor, with_shares: bool) -> tuple[Tensor, ...]:
    """Returns sigma, l and rho; with shares also r, q and, of every component in the nearer tail, m and d.

    Choices between components are arithmetic: branches that cannot be predicted take longer than all of it.
    """
    w, w_s = log_w.exp(), (log_w - log_s).exp()
    z = (x - mu) * (-log_s).exp()
    h = z.abs() * _ROOT_HALF
    both = torch.special.erfc(h)  # 2 Phi(-|z|)
    sigma = torch.where((w * torch.copysign(1 - both, z)).sum(0) < 0, 1.0, -1.0).to(x)
    v = sigma * z
    left = 0.5 - torch.copysign(x.new_full((), 0.5), v)  # 1 where a component's mean is beyond the nearer tail
    nearest = h.amin(0)  # N is relative to its density, P too if all are left
    b = nearest * left.amin(0)
    relative = ((nearest - h) * (nearest + h)).exp()
    gap = (b - nearest) * (b + nearest)
    density = relative * (gap - _LOG_ROOT_TWO_PI).exp()
    _, m_tail, d_tail = _tail(h)
    near = both * (0.5 * b.clamp_max(_TAIL).square().exp())
    small = torch.maximum(near, density / m_tail)  # each is too small where the other is right
    cdf = torch.lerp(1 - small, small, left)
    p, n = w * cdf, w_s * relative
    p_sum, n_sum = p.sum(0), n.sum(0)
    log_p = p_sum.log()
    rho = n_sum.log() - log_p + (gap - _LOG_ROOT_TWO_PI)
    found = sigma, log_p - b.square(), rho
    if not with_shares:
        return found
    is_tail = h * left > _TAIL
    m = torch.where(is_tail, m_tail, density / cdf)
    return *found, p / p_sum, n / n_sum, m, torch.where(is_tail, d_tail, -v - m)


class _Mixture(torch.autograd.Function):
    """sigma, l and rho, and the shares r and q; m and d are for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, log_w: Tensor, mu: Tensor, log_s: Tensor) -> tuple[Tensor, ...]:
        return _mixture(x, log_w, mu, log_s, with_shares=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        sigma, _, _, r, q, m, d = output
        x, log_w, mu, log_s = inputs
        ctx.mark_non_differentiable(sigma, m, d)
        ctx.set_materialize_grads(False)
        ctx.shape = log_w.shape
        ctx.save_for_backward(x, mu, log_s, sigma, r, q, m, d)

    @staticmethod
    def backward(
        ctx: Any, _: None, g_l: Tensor | None, g_rho: Tensor | None, g_r: Tensor | None, g_q: Tensor | None, *__: None
    ) -> tuple[Tensor, ...]:
        x, mu, log_s, sigma, r, q, m, d = ctx.saved_tensors
        g_l, g_rho = (torch.zeros_like(x) if g is None else g for g in (g_l, g_rho))
        x_mu, to_z = x - mu, sigma * (-log_s).exp()
        if torch.is_grad_enabled():
            m, d = _Slopes.apply(x_mu * to_z, m, d)
        beta, g_log_w = g_rho * q, torch.addcmul(g_l * r, g_rho.expand_as(r), q - r)
        if g_r is not None:  # of second order
            g_log_w = g_log_w + r * (g_r - (g_r * r).sum(0))
        if g_q is not None:
            through_q = q * (g_q - (g_q * q).sum(0))
            beta, g_log_w = beta + through_q, g_log_w + through_q
        gamma = torch.addcmul(m * g_log_w, beta, d) * to_z
        g_log_s = -torch.addcmul(beta, gamma, x_mu)
        g_mu = -gamma.sum_to_size(mu.shape)
        return gamma.sum(0), g_log_w.sum_to_size(ctx.shape), g_mu, g_log_s.sum_to_size(log_s.shape)


class _Slopes(torch.autograd.Function):
    """m and d at z, which are given, with their derivatives m d and -1 - m d."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, m: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        return m.clone(), d.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g_m: Tensor, g_d: Tensor) -> tuple[Tensor, None, None]:
        m, d = ctx.saved_tensors
        return (g_m - g_d) * (m * d) - g_d, None, None


def ndtri_exp(l: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns z with :math:`\log \Phi(z) = l`, for probabilities up to one half, and :math:`\log m(z)`.

    Args:
        l: Logarithms of probabilities, at most log 1/2 (for more, take the other tail and change the sign).

    Example:
        >>> ndtri_exp(torch.tensor([-50.0, -5e3]))
        (tensor([ -9.6748, -99.9447]), tensor([2.2799, 4.6047]))
    """
    return (_NdtriExp.apply if torch.is_grad_enabled() else _NdtriExp.forward)(l)[:2]


class _NdtriExp(torch.autograd.Function):
    """Steps of Halley's method, which make an error of 4.5e-4 (Abramowitz and Stegun, 26.2.23) one of its cube."""

    generate_vmap_rule = True

    @staticmethod
    def forward(l: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = (-2 * l).sqrt()
        above = 2.515517 + t * (0.802853 + 0.010328 * t)
        z = above / (1 + t * (1.432788 + t * (0.189269 + 0.001308 * t))) - t
        for _ in range(2 if l.dtype == torch.float64 else 1):
            h = -_ROOT_HALF * z
            is_tail, m_tail, d_tail = _tail(h)
            log_density = -_LOG_ROOT_TWO_PI - h.square()
            near = (0.5 * torch.special.erfc(h)).clamp_min(torch.finfo(z.dtype).tiny).log()
            log_m = torch.where(is_tail, m_tail.log(), log_density - near)
            m = log_m.exp()
            d = torch.where(is_tail, d_tail, -z - m)
            step = (l - torch.where(is_tail, log_density - log_m, near)) / m
            step = step / (1 + 0.5 * step * d)
            z = z + step
        bend = 1 + d * log_m.exp()
        log_m, d = log_m + step * (d - 0.5 * step * bend), d - step * bend
        is_tail, m_tail, d_tail = _tail(-_ROOT_HALF * z)
        return z, torch.where(is_tail, m_tail.log(), log_m), torch.where(is_tail, d_tail, d)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g_z: Tensor, g_m: Tensor, _: None) -> Tensor:
        z, log_m, d = ctx.saved_tensors
        m = log_m.exp()
        if torch.is_grad_enabled():
            m, d = _Slopes.apply(z, m, d)
        return torch.addcmul(g_z, g_m, d) / m


def _tail(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns whether -sqrt(2) h is in the tail, and m and d there."""
    far = h.clamp_min(_TAIL)
    fraction = _fraction(far)
    return h > _TAIL, math.sqrt(2) * (far + fraction), -math.sqrt(2) * fraction


def _fraction(h: Tensor) -> Tensor:
    r"""Returns :math:`m(-\sqrt{2} h) / \sqrt{2} - h`, its fractions scaled so that all numerators are 1."""
    levels = 9 if h.dtype == torch.float64 else 3
    factors = [2.0]
    for n in range(2, levels + 1):
        factors.append(2 / (n * factors[-1]))
    value = h.reciprocal() / factors.pop()
    for factor in reversed(factors):
        value = torch.add(value, h, alpha=factor).reciprocal()
    return value
