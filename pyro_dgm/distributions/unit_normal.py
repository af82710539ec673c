r"""The standard normal distribution: base of every flow, prior of most autoencoders.

.. math::
    \log p(z) = -\tfrac{1}{2} z^2 - \tfrac{1}{2} \log 2\pi

``Normal(0, 1)`` computes that through a general mean and deviation, three times as many operations, which a small
model notices at every step.
"""

import math

import torch
from pyro import distributions as dist
from torch import Tensor


class UnitNormal(dist.Normal):
    """Normal(0, 1), element by element.

    Args:
        zeros: Zeros, whose shape, dtype and device are those of the distribution.

    Example:
        >>> UnitNormal(torch.zeros(3)).to_event(1).log_prob(torch.zeros(3))
        tensor(-2.7568)
    """

    def __init__(self, zeros: Tensor, *, validate_args: bool | None = None) -> None:
        super().__init__(zeros, torch.ones_like(zeros), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "UnitNormal":
        """Returns the distribution with a larger batch shape."""
        return UnitNormal(self.loc.expand(batch_shape), validate_args=self.__dict__.get("_validate_args"))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        if value.shape[value.dim() - len(self.batch_shape) :] != self.batch_shape:
            value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        return -0.5 * value.square() - 0.5 * math.log(2 * math.pi)
