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
        loc: Zeros, whose shape, dtype and device are those of the distribution.
        scale: ``None``. With one it is an ordinary ``Normal(loc, scale)``, as Pyro's reparameterisations, which make
            another distribution of the same class, need it.

    Example:
        >>> UnitNormal(torch.zeros(3)).to_event(1).log_prob(torch.zeros(3))
        tensor(-2.7568)
    """

    def __init__(self, loc: Tensor, scale: Tensor | None = None, *, validate_args: bool | None = None) -> None:
        self._is_standard = scale is None
        super().__init__(loc, torch.ones_like(loc) if scale is None else scale, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "UnitNormal":
        """Returns the distribution with a larger batch shape."""
        scale = None if self._is_standard else self.scale.expand(batch_shape)
        return UnitNormal(self.loc.expand(batch_shape), scale, validate_args=self.__dict__.get("_validate_args"))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``."""
        if not self._is_standard:
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        if value.shape[value.dim() - len(self.batch_shape) :] != self.batch_shape:
            value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        return -0.5 * value.square() - 0.5 * math.log(2 * math.pi)
