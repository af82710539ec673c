r"""The normal distribution function and its inverse on a logarithmic scale, exact and smooth in the far tail.

.. math::
    \log \Phi(z), \qquad m(z) = \frac{d}{dz} \log \Phi(z) = \frac{\varphi(z)}{\Phi(z)}, \qquad
    \Phi^{-1}(e^l)

``torch.special.log_ndtr`` has the right value everywhere, but its gradient :math:`\exp(-z^2/2 - \log \sqrt{2 \pi} -
\log \Phi(z))` is the difference of two huge numbers in the tail: noise in float32 from :math:`z = -1000` on. Below
:math:`z = -14` it is replaced by the asymptotic series of Mills' ratio,

.. math::
    \Phi(z) = \frac{\varphi(z)}{|z|} S(z), \qquad S(z) = 1 - z^{-2} + 3 z^{-4} - 15 z^{-6} + \dots

whose first eight terms have relative error 1e-13 there (Abramowitz and Stegun, Handbook of Mathematical Functions,
1964, 26.2.12), and which autograd differentiates as often as one likes.
"""

import math

import torch
from torch import Tensor

_TAIL = -14.0
_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


def log_ndtr(z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log Phi(z) and the logarithm of its slope, log m(z).

    Args:
        z: Any numbers, in float32 or float64.

    Example:
        >>> log_ndtr(torch.tensor([-1e6, 0.0]))
        (tensor([-5.0000e+11, -6.9315e-01]), tensor([13.8155, -0.2258]))
    """
    near, far = z.clamp_min(_TAIL), z.clamp_max(_TAIL)
    body = torch.special.log_ndtr(near)
    log_density = -0.5 * near.square() - _LOG_ROOT_TWO_PI
    series, inverse_square = torch.zeros_like(z), far.square().reciprocal()
    for n in range(15, 0, -2):
        series = -n * inverse_square * (1 + series)
    log_ratio = series.log1p() - (-far).log()
    tail = -0.5 * far.square() - _LOG_ROOT_TWO_PI + log_ratio
    is_tail = z < _TAIL
    return torch.where(is_tail, tail, body), torch.where(is_tail, -log_ratio, log_density - body)


def ndtri_exp(l: Tensor) -> Tensor:
    r"""Returns z with :math:`\log \Phi(z) = l`, for probabilities up to one half.

    Args:
        l: Logarithms of probabilities, at most log 1/2 (for more, take the other tail and change the sign).

    Example:
        >>> ndtri_exp(torch.tensor([-5e11]))
        tensor([-1000000.])
    """
    with torch.no_grad():
        square = (-2 * l - 2 * _LOG_ROOT_TWO_PI).clamp_min(1.0)
        tail = -(square - square.log()).sqrt()
        z = torch.where(l < -50, tail, torch.special.ndtri(l.clamp_min(-50).exp()))
    for _ in range(3):  # Newton's method; the last two steps give the gradients (see ``inversion``)
        value, log_slope = log_ndtr(z)
        z = z + (l - value) * (-log_slope).exp()
    return z
