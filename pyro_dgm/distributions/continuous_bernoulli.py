r"""The continuous Bernoulli distribution: what makes a Bernoulli's likelihood a density of grey levels in [0, 1].

.. math::
    p(x) = C(\lambda)\, \sigma(\lambda)^x \sigma(-\lambda)^{1 - x} = \frac{\lambda e^{\lambda x}}{e^\lambda - 1},
    \qquad \log p(x) = \lambda \left(x - \tfrac{1}{2}\right) - \log \frac{\sinh(\lambda / 2)}{\lambda / 2}

an exponential distribution on the unit interval. Without the constant C, cross-entropy on grey levels is no
log-density. (Loaiza-Ganem and Cunningham, The continuous Bernoulli, 2019, arXiv:1907.06845.)

Written so, nothing needs a probability: a logit of a thousand is as good as any. With :math:`m = |\lambda|` and d the
distance from the likelier end, :math:`\log p = -m d + \log m - \log(1 - e^{-m})`, which is used for :math:`m \geq 1`;
nearer to zero the differences cancel, and the power series of :math:`\log (\sinh a / a)` takes over, which is exact to
the last place of float64. (Torch's own distribution works with probabilities, clamped away from 0 and 1.)
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .promise import Density

# log(sinh a / a) = sum over k of 2^(2k) B_2k / (2k (2k)!) a^(2k), B_2k Bernoulli's numbers
_SERIES = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575, -3617 / 2605132530000)


class ContinuousBernoulli(dist.TorchDistribution):
    r"""The continuous Bernoulli distribution, by its logit.

    Args:
        logits: The logit :math:`\lambda`; its sign says to which end the density leans, zero is the uniform density.

    Attributes:
        density: ``"exact"``.

    Example:
        >>> p = ContinuousBernoulli(torch.tensor([0.0, 3.0]))
        >>> p.log_prob(torch.tensor([0.3, 1.0])).exp(), p.mean
        (tensor([1.0000, 3.1572]), tensor([0.5000, 0.7191]))
    """

    density: Density = "exact"
    has_rsample = True
    support = constraints.unit_interval
    arg_constraints = {"logits": constraints.real}  # noqa: RUF012

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "ContinuousBernoulli":
        """Returns the distribution with a larger batch shape."""
        return ContinuousBernoulli(self.logits.expand(batch_shape), self.__dict__.get("_validate_args"))

    @property
    def mean(self) -> Tensor:
        r"""The mean, :math:`\frac{1}{2} + \frac{1}{2} (\coth a - 1 / a)` with :math:`a = \lambda / 2`."""
        near, small, m = _split(self.logits)
        slope = sum((k + 1) * c * (0.25 * small.square()) ** k for k, c in enumerate(_SERIES)) * 0.5 * small
        gap = 1 / m + torch.exp(-m) / torch.expm1(-m)
        return torch.where(near, 0.5 + slope, torch.where(self.logits > 0, 1 - gap, gap))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        near, small, m = _split(self.logits)
        distance = torch.where(self.logits > 0, 1 - value, value)
        far = m.log() - torch.log(-torch.expm1(-m)) - m * distance
        return torch.where(near, small * (value - 0.5) - _log_sinhc(0.5 * small), far)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws reparameterised samples, by the inverse of the distribution function."""
        u = torch.rand(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.logits.dtype, device=self.logits.device
        )
        return self.icdf(u)

    def icdf(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log(1 + u (e^\lambda - 1)) / \lambda` for u in [0, 1]."""
        near = self.logits.abs() < (1e-2 if self.logits.dtype.itemsize <= 4 else 1e-4)
        m = torch.where(near, 1.0, self.logits.abs())
        u = torch.where(self.logits > 0, 1 - value, value)
        distance = -torch.log1p(u * torch.expm1(-m)) / m
        small = torch.where(near, self.logits, 0.0)
        flat = value * (1 - value)
        series = value + 0.5 * flat * small + flat * (1 - 2 * value) * small.square() / 6
        return torch.where(near, series, torch.where(self.logits > 0, 1 - distance, distance)).clamp(0, 1)


def _split(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns which logits are near zero, these with zeros for the others, and the sizes of the others with ones."""
    size = logits.abs()
    near = size < 1
    return near, torch.where(near, logits, 0.0), torch.where(near, 1.0, size)


def _log_sinhc(a: Tensor) -> Tensor:
    """Returns log(sinh(a) / a) for |a| <= 1/2, by its power series."""
    square = a.square()
    out = torch.full_like(a, _SERIES[-1])
    for c in _SERIES[-2::-1]:
        out = c + square * out
    return square * out
