r"""The normal distribution function and its inverse on a logarithmic scale, exact and smooth in the far tail.

.. math::
    \log \Phi(z), \qquad m(z) = \frac{d}{dz} \log \Phi(z) = \frac{\varphi(z)}{\Phi(z)}, \qquad
    \Phi^{-1}(e^l)

``torch.special.log_ndtr`` has the right value everywhere, at the cost of ten functions, but its gradient
:math:`\exp(-z^2/2 - \log \sqrt{2 \pi} - \log \Phi(z))` is the difference of two huge numbers in the tail: noise in
float32 from :math:`z = -1000` on. Here the complementary error function gives :math:`\Phi(-|z|)` down to
:math:`z = -12`, and below that the asymptotic series of Mills' ratio,

.. math::
    \Phi(z) = \frac{\varphi(z)}{|z|} S(z), \qquad S(z) = 1 - z^{-2} + 3 z^{-4} - 15 z^{-6} + \dots

whose first four terms have relative error 2e-8 there, the first ten 1e-13 (Abramowitz and Stegun, Handbook of
Mathematical Functions, 1964, 26.2.12). Derivatives follow from :math:`(\log m)' = -z - m =: d` and
:math:`d' = -1 - m d`, where :math:`d = z (1 / S - 1)` in the tail.
"""

import math
from typing import Any

import torch
from torch import Tensor

_TAIL = -12.0
_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


def log_ndtr(z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log Phi(z) and the logarithm of its slope, log m(z).

    Args:
        z: Any numbers, in float32 or float64.

    Example:
        >>> log_ndtr(torch.tensor([-1e6, 0.0]))
        (tensor([-5.0000e+11, -6.9315e-01]), tensor([13.8155, -0.2258]))
    """
    return (_LogNdtr.apply if torch.is_grad_enabled() else _LogNdtr.forward)(z)


class _LogNdtr(torch.autograd.Function):
    """The logarithms of Phi and m; the derivative d of the latter is left to the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        log_density = torch.sub(-_LOG_ROOT_TWO_PI, z.square(), alpha=0.5)
        small = 0.5 * torch.special.erfc(z.abs() * math.sqrt(0.5)).clamp_min(torch.finfo(z.dtype).tiny)
        negative = (-z).sign().clamp_min(0)  # arithmetic in place of a choice, whose branches cannot be predicted
        log_cdf = torch.lerp((-small).log1p(), small.log(), negative)
        far = z.clamp_max(_TAIL)
        log_ratio = _series(far).log1p() - (-far).log()
        is_tail = z < _TAIL
        log_cdf = torch.where(is_tail, log_density + log_ratio, log_cdf)
        return log_cdf, torch.where(is_tail, -log_ratio, log_density - log_cdf)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, g_cdf: Tensor, g_m: Tensor) -> Tensor:
        z, log_m = ctx.saved_tensors
        return torch.addcmul(g_cdf * log_m.exp(), g_m, _Slope.apply(z, log_m))


class _Slope(torch.autograd.Function):
    """d, the derivative of log m at z, with its own; log m is given, not differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, log_m: Tensor) -> Tensor:
        far = z.clamp_max(_TAIL)
        series = _series(far)
        return torch.where(z < _TAIL, -far * series / (1 + series), -z - log_m.exp())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        log_m, d = ctx.saved_tensors
        return -g * (1 + log_m.exp() * d), None


def _series(z: Tensor) -> Tensor:
    """S(z) - 1."""
    total, inverse_square = torch.zeros_like(z), z.square().reciprocal()
    for n in range(19 if z.dtype == torch.float64 else 7, 0, -2):
        term = -n * inverse_square
        total = torch.addcmul(term, term, total)
    return total


def ndtri_exp(l: Tensor) -> Tensor:
    r"""Returns z with :math:`\log \Phi(z) = l`, for probabilities up to one half.

    Args:
        l: Logarithms of probabilities, at most log 1/2 (for more, take the other tail and change the sign).

    Example:
        >>> ndtri_exp(torch.tensor([-5e11]))
        tensor([-1000000.])
    """
    with torch.no_grad():
        square = (-2 * l - 2 * _LOG_ROOT_TWO_PI).clamp_min(2.0)
        tail = -(square - (square - square.log()).log()).sqrt()
        z = torch.where(l < -50, tail, torch.special.ndtri(l.clamp_min(-50).exp()))
    for _ in range(2):  # Newton's method, whose steps give the gradients of first and second order (see ``inversion``)
        value, log_slope = log_ndtr(z)
        z = z + (l - value) * (-log_slope).exp()
    return z
