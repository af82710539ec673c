r"""The standard normal distribution: base of every flow, prior of most autoencoders.

.. math::
    \log p(z) = -\tfrac{1}{2} z^2 - \tfrac{1}{2} \log 2\pi

``Normal(0, 1)`` computes that through a general mean and deviation, three times as many operations, which a small
model notices at every step.
"""

import math
from collections.abc import Sequence

import torch
from pyro import distributions as dist
from pyro.distributions.util import sum_rightmost
from torch import Tensor

from .._shapes import broadcast_shapes

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class UnitNormal(dist.Normal):
    """Normal(0, 1), element by element.

    Args:
        loc: Zeros, whose shape, dtype and device are those of the distribution.
        scale: ``None``. With one it is an ordinary ``Normal(loc, scale)``, as Pyro's reparameterisations, which make
            another distribution of the same class, need it.

    Example:
        >>> UnitNormal(torch.zeros(3)).to_event(1).log_prob(torch.zeros(3))
        tensor(-2.7568)
    """

    def __init__(self, loc: Tensor, scale: Tensor | None = None, *, validate_args: bool | None = None) -> None:
        self._is_standard = scale is None
        if scale is not None:
            super().__init__(loc, scale, validate_args=validate_args)
            return
        self.loc, self.scale = loc, torch.ones_like(loc)  # of one shape, which Normal would find out at every call
        super(torch.distributions.Normal, self).__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "UnitNormal":
        """Returns the distribution with a larger batch shape."""
        scale = None if self._is_standard else self.scale.expand(batch_shape)
        return UnitNormal(self.loc.expand(batch_shape), scale, validate_args=self.__dict__.get("_validate_args"))

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples."""
        if not self._is_standard:
            return super().rsample(torch.Size(sample_shape))
        return normal_noise(self._extended_shape(sample_shape), self.loc)

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``."""
        if not self._is_standard:
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        return -0.5 * _broadcast(value, self.batch_shape).square() - _HALF_LOG_TWO_PI

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> dist.TorchDistribution:
        """Returns the distribution with its last dimensions those of an event, whose squares it sums at once."""
        n = len(self.batch_shape) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        return _UnitNormalEvent(self, n) if n > 0 and self._is_standard else super().to_event(n)


class _UnitNormalEvent(dist.Independent):
    """Independent unit normals."""

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> dist.TorchDistribution:
        shape = torch.Size(batch_shape) + self.event_shape
        return self.base_dist.expand(shape).to_event(self.reinterpreted_batch_ndims)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        square = _broadcast(value, self.batch_shape + self.event_shape).square()
        square = sum_rightmost(square, len(self.event_shape))
        log_norm = self.event_shape.numel() * _HALF_LOG_TWO_PI
        return torch.rsub(square, -log_norm, alpha=0.5)


def normal_noise(shape: Sequence[int], like: Tensor) -> Tensor:
    """Returns standard normal numbers: those of ``torch.randn``, which is compiled to a loop ten times slower."""
    return torch.normal(0.0, 1.0, shape, dtype=like.dtype, device=like.device)


def _broadcast(value: Tensor, shape: torch.Size) -> Tensor:
    """Gives a value all dimensions of the distribution; most have them, and are left as they are."""
    wider = broadcast_shapes(value.shape, shape)
    return value if value.shape == wider else value.expand(wider)
