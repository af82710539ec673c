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
    d \log P = \sum_k r_k\, d \log w_k \Phi(z_k), \quad
    d \log N = \sum_k q_k\, d \log \tfrac{w_k}{s_k} \varphi(z_k), \quad
    r_k\, m(z_k) = q_k s_k \frac{N}{P}

and from :math:`(\log m)' = -z - m =: d`, :math:`d' = -1 - m d`; in the tail :math:`-d` is the first fraction.
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
    return _sums(x, log_w, mu, log_s)[:3]


def _sums(x: Tensor, log_w: Tensor, mu: Tensor, log_s: Tensor) -> tuple[Tensor, ...]:
    """Returns sigma, l, rho, and summands and sum of P and of N, relative to the density of a component.

    Choices between components are arithmetic: branches that cannot be predicted take longer than all of it.
    """
    w, w_s = log_w.exp(), (log_w - log_s).exp()
    z = (x - mu) * (-log_s).exp()
    h = z.abs() * _ROOT_HALF
    both = torch.special.erfc(h)  # 2 Phi(-|z|)
    sigma = torch.where((w * torch.copysign(1 - both, z)).sum(0) < 0, 1.0, -1.0).to(x)
    left = 0.5 - torch.copysign(x.new_full((), 0.5), sigma * z)  # 1 where a mean is beyond the nearer tail
    nearest = h.amin(0)  # N is relative to its density, P too if all are left
    b = nearest * left.amin(0)
    density = ((nearest - h) * (nearest + h)).exp()
    gap = (b - nearest) * (b + nearest)
    far = h.clamp_min(_TAIL)
    tail = density * (gap.exp() * (0.5 / math.sqrt(math.pi))) / (far + _fraction(far))
    near = both * (0.5 * b.clamp_max(_TAIL).square().exp())
    small = torch.maximum(near, tail)  # each is too small where the other is right
    p, n = w * torch.lerp(1 - small, small, left), w_s * density
    p_sum, n_sum = p.sum(0), n.sum(0)
    log_p = p_sum.log()
    rho = n_sum.log() - log_p + (gap - _LOG_ROOT_TWO_PI)
    return sigma, log_p - b.square(), rho, p, p_sum, n, n_sum


class _Mixture(torch.autograd.Function):
    """sigma, l and rho, and the shares r and q."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, log_w: Tensor, mu: Tensor, log_s: Tensor) -> tuple[Tensor, ...]:
        sigma, l, rho, p, p_sum, n, n_sum = _sums(x, log_w, mu, log_s)
        return sigma, l, rho, p / p_sum, n / n_sum

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        sigma, _, rho, r, q = output
        x, log_w, mu, log_s = inputs
        ctx.mark_non_differentiable(sigma)
        ctx.set_materialize_grads(False)
        ctx.shape = log_w.shape
        ctx.save_for_backward(x, mu, log_s, sigma, rho, r, q)

    @staticmethod
    def backward(
        ctx: Any, _: None, g_l: Tensor | None, g_rho: Tensor | None, g_r: Tensor | None, g_q: Tensor | None
    ) -> tuple[Tensor, ...]:
        x, mu, log_s, sigma, rho, r, q = ctx.saved_tensors
        to_n = torch.zeros_like(x) if g_rho is None else g_rho
        to_p = (0.0 if g_l is None else g_l) - to_n
        if g_r is not None:  # of second order
            to_p = to_p + g_r - (g_r * r).sum(0)
        if g_q is not None:
            to_n = to_n + g_q - (g_q * q).sum(0)
        centred, beta = x - mu, q * to_n
        gamma = torch.addcmul(q * (to_p * (sigma * rho.exp())), beta, centred * (-2 * log_s).exp(), value=-1)
        g_log_s = -torch.addcmul(beta, gamma, centred)
        g_log_w = torch.addcmul(beta, r, to_p.expand_as(r))
        g_mu = -gamma.sum_to_size(mu.shape)
        return gamma.sum(0), g_log_w.sum_to_size(ctx.shape), g_mu, g_log_s.sum_to_size(log_s.shape)


def ndtri_exp(l: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns z with :math:`\log \Phi(z) = l`, for probabilities up to one half, and :math:`\log m(z)`.

    Args:
        l: Logarithms of probabilities, at most log 1/2 (for more, take the other tail and change the sign).

    Example:
        >>> ndtri_exp(torch.tensor([-5e11]))
        (tensor([-1000000.]), tensor([13.8155]))
    """
    return (_NdtriExp.apply if torch.is_grad_enabled() else _NdtriExp.forward)(l)


class _NdtriExp(torch.autograd.Function):
    """Steps of Halley's method, which make an error of 4.5e-4 (Abramowitz and Stegun, 26.2.23) one of its cube."""

    generate_vmap_rule = True

    @staticmethod
    def forward(l: Tensor) -> tuple[Tensor, Tensor]:
        t = (-2 * l).sqrt()
        above = 2.515517 + t * (0.802853 + 0.010328 * t)
        z = above / (1 + t * (1.432788 + t * (0.189269 + 0.001308 * t))) - t
        log_m = t
        for _ in range(2 if l.dtype == torch.float64 else 1):
            h = -_ROOT_HALF * z
            is_tail, far = h > _TAIL, h.clamp_min(_TAIL)
            fraction = _fraction(far)
            log_density = -_LOG_ROOT_TWO_PI - h.square()
            log_ratio = (math.sqrt(2) * (far + fraction)).log()
            near = (0.5 * torch.special.erfc(h)).clamp_min(torch.finfo(z.dtype).tiny).log()
            log_cdf = torch.where(is_tail, log_density - log_ratio, near)
            log_m = torch.where(is_tail, log_ratio, log_density - near)
            m = log_m.exp()
            d = torch.where(is_tail, -math.sqrt(2) * fraction, -z - m)
            step = (l - log_cdf) / m
            step = step / (1 + 0.5 * step * d)
            z, log_m = z + step, log_m + step * (d - 0.5 * step * (1 + m * d))
        return z, log_m

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g_z: Tensor, g_m: Tensor) -> Tensor:
        z, log_m = ctx.saved_tensors
        return torch.addcmul(g_z, g_m, _Slope.apply(z, log_m)) * (-log_m).exp()


class _Slope(torch.autograd.Function):
    """d, the derivative of log m at z, with its own; log m is given, not differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, log_m: Tensor) -> Tensor:
        h = -_ROOT_HALF * z
        return torch.where(h > _TAIL, -math.sqrt(2) * _fraction(h.clamp_min(_TAIL)), -z - log_m.exp())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        log_m, d = ctx.saved_tensors
        return -g * (1 + log_m.exp() * d), None


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
