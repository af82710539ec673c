r"""Counts: Poisson and negative binomial distributions, by logarithms of their parameters.

.. math::
    p(x) = \frac{\mu^x e^{-\mu}}{x!}, \qquad
    p(x) = \frac{\Gamma(x + r)}{\Gamma(r)\, x!} \left(\frac{r}{r + \mu}\right)^r \left(\frac{\mu}{r + \mu}\right)^x

Both have mean :math:`\mu`; the second has variance :math:`\mu + \mu^2 / r`, r being the inverse dispersion, and is a
Poisson distribution whose rate is drawn from a gamma distribution of mean :math:`\mu` and shape r.

Gamma functions of large numbers are larger still, and their differences would lose whole nats in float32. So the terms
are taken together (as in Loader, Fast and Accurate Computation of Binomial Probabilities, 2000): with
:math:`c(z) = \log \Gamma(z + 1) - z \log z + z` and :math:`t = \log \mu - \log x`,

.. math::
    \log p(x) &= x (t + 1 - e^t) - c(x), \\
    \log p(x) &= x \log \frac{1 + r / x}{1 + r / \mu} + r \log \frac{x + r}{\mu + r} + \log \frac{r}{x + r}
        + c(x + r) - c(r) - c(x)

Parameters that come from a network may be anything. Logarithms are taken as they are up to :data:`MAX_LOG`, beyond
which the parameter itself grows linearly, so that nothing overflows and every gradient still points back.
"""

import math
from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ..nn import at_least_float32
from .promise import Density

MAX_LOG = 16.0
"""The largest logarithm that is taken as it is: e^16 is 9 million, and float32 counts whole numbers to 17 million."""


class Poisson(dist.TorchDistribution):
    """The Poisson distribution, by the logarithm of its rate.

    Args:
        log_rate: The logarithm; any real number, see the module.

    Attributes:
        density: ``"exact"``.

    Example:
        >>> Poisson(torch.tensor(1000.0)).log_prob(torch.tensor(0.0)).isfinite(), Poisson(torch.tensor(0.0)).mean
        (tensor(True), tensor(1.))
    """

    density: Density = "exact"
    has_rsample = False
    support = constraints.nonnegative_integer
    arg_constraints = {"log_rate": constraints.real}  # noqa: RUF012

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Poisson":
        """Returns the distribution with a larger batch shape."""
        return Poisson(self.log_rate.expand(batch_shape), self.__dict__.get("_validate_args"))

    @property
    def mean(self) -> Tensor:
        """The rate."""
        return limited(self.log_rate).exp()

    @property
    def variance(self) -> Tensor:
        """The rate."""
        return self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-probability of counts, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        m = limited(self.log_rate)
        log_x = value.clamp(min=1).log()
        t = m - log_x
        return torch.where(value > 0, value * (t - torch.expm1(t)), -m.exp()) - _correction(value, log_x)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws counts, as floating numbers."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))


class NegativeBinomial(dist.TorchDistribution):
    """The negative binomial distribution, by the logarithms of its mean and of its inverse dispersion.

    Args:
        log_mean: The logarithm of the mean; any real number, see the module.
        log_r: The logarithm of the inverse dispersion r, likewise; the larger, the nearer to a Poisson distribution.

    Attributes:
        density: ``"exact"``.

    Example:
        >>> p = NegativeBinomial(torch.tensor(2.0).log(), torch.tensor(4.0).log())
        >>> p.mean, p.variance
        (tensor(2.), tensor(3.))
    """

    density: Density = "exact"
    has_rsample = False
    support = constraints.nonnegative_integer
    arg_constraints = {"log_mean": constraints.real, "log_r": constraints.real}  # noqa: RUF012

    def __init__(self, log_mean: Tensor, log_r: Tensor, validate_args: bool | None = None) -> None:
        self.log_mean, self.log_r = torch.broadcast_tensors(log_mean, log_r)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "NegativeBinomial":
        """Returns the distribution with a larger batch shape."""
        logs = self.log_mean.expand(batch_shape), self.log_r.expand(batch_shape)
        return NegativeBinomial(*logs, self.__dict__.get("_validate_args"))

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return limited(self.log_mean).exp()

    @property
    def variance(self) -> Tensor:
        """The variance, mean + mean^2 / r."""
        m, s = limited(self.log_mean), limited(self.log_r)
        return m.exp() + (2 * m - s).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-probability of counts, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        m, s = limited(self.log_mean), limited(self.log_r)
        r, counted = s.exp(), value > 0
        log_x = value.clamp(min=1).log()
        t = m - log_x
        relative = -value * torch.expm1(t) / (m.exp() + r).clamp(min=1e-12)  # (x - mu) / (mu + r)
        relative = torch.where(counted, relative, -torch.sigmoid(m - s))
        both = torch.where(counted, torch.logaddexp(log_x, s), s)  # log(x + r)
        near = relative.abs() < 0.5
        ratio = torch.log1p(torch.where(near, relative, 0.0))
        ratio = torch.where(near, ratio, both - torch.logaddexp(m, s))
        odds = torch.where(near & (s > log_x), t + ratio, F.softplus(s - log_x) - F.softplus(s - m))
        corrections = _correction(value + r, both) - _correction(r, s) - _correction(value, log_x)
        return value * odds + r * ratio + (s - both) + corrections

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws counts, as floating numbers: a rate, then its Poisson count."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            m, s = (at_least_float32(limited(log)) for log in (self.log_mean, self.log_r))
            tiny = torch.finfo(s.dtype).tiny
            r = s.exp().clamp(min=tiny).expand(shape).contiguous()
            # a gamma variable of shape r as one of r + 1 times u^(1 / r), which may be too small for a number
            log_gamma = torch._standard_gamma(r + 1).log() + torch.rand_like(r).clamp(min=tiny).log() / r
            return torch.poisson((log_gamma + (m - s)).exp().clamp(max=2.0**62)).to(self.log_mean.dtype)


def limited(log: Tensor) -> Tensor:
    """Returns a logarithm as it is up to :data:`MAX_LOG`, and beyond that of a parameter that grows linearly."""
    return log.clamp(max=MAX_LOG) + torch.log1p((log - MAX_LOG).clamp(min=0))


def _correction(z: Tensor, log_z: Tensor) -> Tensor:
    """Returns log Gamma(z + 1) - z log z + z, by Stirling's series from 16 on."""
    w = 1 / z.clamp(min=16)
    series = w * (1 / 12 - w**2 * (1 / 360 - w**2 * (1 / 1260 - w**2 * (1 / 1680 - w**2 / 1188))))
    low = z.clamp(max=16)
    exact = torch.lgamma(low + 1) - low * (log_z - 1)
    return torch.where(z < 16, exact, 0.5 * (math.log(2 * math.pi) + log_z) + series)
