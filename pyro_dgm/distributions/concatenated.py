r"""Independent vectors, one after another in one vector.

.. math::
    x = (x_1, \dots, x_K), \qquad \log p(x) = \sum_k \log p_k(x_k)

For vectors of mixed kinds: one-hot codes beside real ones.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .._shapes import broadcast_shapes
from .promise import Density, weakest


class Concatenated(dist.TorchDistribution):
    """The joint distribution of independent vectors.

    Args:
        parts: Distributions of vectors, whose batch shapes broadcast.

    Raises:
        ValueError: If there are none, or one is not of vectors.

    Example:
        >>> code = dist.OneHotCategorical(torch.full((10,), 0.1))
        >>> noise = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> Concatenated([code, noise]).sample((5,)).shape
        torch.Size([5, 13])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, parts: Sequence[dist.TorchDistribution]) -> None:
        wrong = [type(part).__name__ for part in parts if len(part.event_shape) != 1]
        if wrong or not parts:
            raise ValueError(f"parts: expected distributions of vectors, at least one, got {wrong or 'none'}")
        batch_shape = broadcast_shapes(*(part.batch_shape for part in parts))
        self.parts = [part.expand(batch_shape) for part in parts]
        self.lengths = [part.event_shape[0] for part in parts]
        super().__init__(batch_shape, torch.Size([sum(self.lengths)]), validate_args=False)

    @property
    def density(self) -> Density:
        """What all parts promise."""
        return weakest(self.parts)

    @property
    def has_rsample(self) -> bool:
        """Whether all parts have gradients."""
        return all(part.has_rsample for part in self.parts)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Every part in its own."""
        return _Blocks([part.support for part in self.parts], self.lengths)

    @property
    def mean(self) -> Tensor:
        """The mean, with shape batch + event."""
        return torch.cat([part.mean for part in self.parts], -1)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Concatenated":
        """Returns the distribution with a larger batch shape."""
        return Concatenated([part.expand(torch.Size(batch_shape)) for part in self.parts])

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples with gradients towards the parameters of the parts."""
        return torch.cat([part.rsample(torch.Size(sample_shape)) for part in self.parts], -1)

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples, with shape ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return torch.cat([part.sample(torch.Size(sample_shape)) for part in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with respect to counting in discrete parts."""
        slices = value.split(self.lengths, -1)
        return sum(part.log_prob(x) for part, x in zip(self.parts, slices, strict=True))


class _Blocks(constraints.Constraint):
    event_dim = 1

    def __init__(self, blocks: Sequence[constraints.Constraint], lengths: Sequence[int]) -> None:
        self.blocks, self.lengths = list(blocks), list(lengths)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether every part is where it has to be."""
        slices = value.split(self.lengths, -1)
        return torch.stack([c.check(x) for c, x in zip(self.blocks, slices, strict=True)]).all(0)
