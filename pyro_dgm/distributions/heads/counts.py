r"""Heads of counts: Poisson, and negative binomial for counts that scatter more.

.. math::
    \mu = e^{\theta_1}, \quad r = e^{\theta_2}, \qquad
    \operatorname{Var} x = \mu \quad\text{or}\quad \mu + \mu^2 / r

Networks see a count as :math:`\log(1 + x)`. A draw from given noise is a quantile, found by bisection: the least k for
which :math:`P(x \leq k) = Q(k + 1, \mu)` exceeds uniform noise, Q being the regularised incomplete gamma function; the
rate of a negative binomial count is a quantile of the gamma distribution before. Bisection takes the same steps
whatever the parameters, and so it traces.
"""

import torch
from torch import Tensor
from torch.distributions import constraints

from ..counts import NegativeBinomial as NegativeBinomialCounts
from ..counts import Poisson as PoissonCounts
from ..counts import limited
from .base import Head

_STEPS = 40
_LEAST = 2.0**-25  # noise is zero once in 2^24 draws, and stands for what is below the least other number


class Poisson(Head):
    """A count; the parameter is the logarithm of its rate.

    Example:
        >>> Poisson()(torch.zeros(3, 1)).mean
        tensor([1., 1., 1.])
    """

    size, support = 1, constraints.nonnegative_integer

    def __call__(self, theta: Tensor) -> PoissonCounts:
        """Returns the distributions."""
        return PoissonCounts(theta.squeeze(-1), validate_args=False)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns the count whose share of [0, 1] uniform noise falls in."""
        return _poisson(limited(theta.squeeze(-1)).exp(), noise[..., 0])

    def embed(self, x: Tensor) -> Tensor:
        """Returns log(1 + x)."""
        return x.log1p()[..., None]


class NegativeBinomial(Head):
    """A count that scatters more; parameters are the logarithms of its mean and of its inverse dispersion r.

    Example:
        >>> NegativeBinomial()(torch.zeros(3, 2)).variance
        tensor([2., 2., 2.])
    """

    size, noises, dispersed, support = 2, 2, True, constraints.nonnegative_integer

    def __call__(self, theta: Tensor) -> NegativeBinomialCounts:
        """Returns the distributions."""
        return NegativeBinomialCounts(*theta.unbind(-1), validate_args=False)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns the count by a quantile of its rate, and one of the count given the rate."""
        m, s = limited(theta).unbind(-1)
        s = s.clamp(min=-80)  # below which no rate but zero is drawn, and r is no normal number
        return _poisson((_log_gamma(s, noise[..., 0]) + m - s).exp(), noise[..., 1])

    def embed(self, x: Tensor) -> Tensor:
        """Returns log(1 + x)."""
        return x.log1p()[..., None]


def _poisson(rate: Tensor, u: Tensor) -> Tensor:
    """Returns the least k with Q(k + 1, rate) >= u."""
    rate, u = torch.broadcast_tensors(rate.detach(), u.clamp(min=_LEAST))
    low, high = torch.full_like(rate, -1), (rate + 12 * rate.sqrt() + 30).ceil()
    for _ in range(_STEPS):
        k = ((low + high) / 2).floor()
        below = (k < 0) | (torch.special.gammaincc(k.clamp(min=0) + 1, rate) < u)
        low, high = torch.where(below, k, low), torch.where(below, high, k)
    return high


def _log_gamma(log_r: Tensor, u: Tensor) -> Tensor:
    """Returns the logarithm of the quantile of the gamma distribution with shape r; of one far below r, -infinity."""
    log_r, u = torch.broadcast_tensors(log_r.detach(), u.clamp(min=_LEAST))
    r = log_r.exp()
    low, high = (log_r - 40).clamp(min=-87), (r + 12 * r.sqrt() + 30).log()
    vanishes = torch.special.gammainc(r, low.exp()) >= u
    for _ in range(_STEPS):
        y = (low + high) / 2
        below = torch.special.gammainc(r, y.exp()) < u
        low, high = torch.where(below, y, low), torch.where(below, high, y)
    return torch.where(vanishes, -torch.inf, high)
