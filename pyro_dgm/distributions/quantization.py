r"""From continuous numbers to levels and back: the two conditionals between integers x and dequantised v.

.. math::
    p(x | v) = 1\bigl[x = \lfloor L v \rfloor\bigr], \qquad
    q(v | x): \; v = \frac{x + u}{L}, \; u \sim q(u | x) \text{ on } [0, 1)^D, \qquad
    \log q(v | x) = \log q(u | x) + D \log L

with L levels 0..L-1. A density p(v) becomes a probability of integers as the marginal of a latent variable model whose
latent is v: :math:`P(x) = \int p(x | v) p(v) dv` is the mass of the cell of x, and

.. math::
    E_q \log \frac{1}{K} \sum_k \frac{p(v_k)}{q(v_k | x)} \le \log P(x), \qquad v_k \sim q(v | x)

Uniform u gives the usual bound, a learned q(u | x) a tighter one. (Theis, van den Oord and Bethge, A note on the
evaluation of generative models, 2016, arXiv:1511.01844; Ho, Chen, Srinivas, Duan and Abbeel, Flow++, 2019,
arXiv:1902.00275.)
"""

import math
from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .._shapes import broadcast_shapes
from .promise import Density


def integers(levels: int, event_dim: int) -> constraints.Constraint:
    """Returns the set of events of the integers 0..levels-1."""
    return constraints.independent(constraints.integer_interval(0, levels - 1), event_dim)


def _of_events(holds: Tensor, event_dim: int) -> Tensor:
    """Returns for every event whether something holds of all its numbers."""
    return holds.flatten(-event_dim).all(-1) if event_dim else holds


class Quantized(dist.TorchDistribution):
    """The levels of continuous numbers, p(x | v): certain, given v.

    Numbers outside [0, 1), which a density may have where it should not, take the nearest level.

    Args:
        v: Continuous numbers, with shape ``batch_shape + event_shape``.
        levels: Number of levels L.
        event_dim: Number of dimensions of an event.

    Example:
        >>> Quantized(torch.tensor([0.0, 0.49, 0.99]), 4, 1).sample()
        tensor([0., 1., 3.])
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, v: Tensor, levels: int, event_dim: int) -> None:
        self.v, self.levels = v, levels
        batch = v.dim() - event_dim
        super().__init__(v.shape[:batch], v.shape[batch:], validate_args=False)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Events of integers."""
        return integers(self.levels, self.event_dim)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Quantized":
        """Returns the distribution with a larger batch shape."""
        return Quantized(self.v.expand(*batch_shape, *self.event_shape), self.levels, self.event_dim)

    @property
    def mean(self) -> Tensor:
        """The levels."""
        return (self.levels * self.v).floor().clamp(0, self.levels - 1)

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Returns the levels, as floating numbers."""
        return self.mean.detach().expand(self._extended_shape(torch.Size(sample_shape))).clone()

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns 0 where the levels are those of v, else minus infinity."""
        same = _of_events(value == self.mean, self.event_dim)
        return torch.where(same, 0.0, -math.inf).to(self.v.dtype)


class Dequantization(dist.TorchDistribution):
    r"""Continuous numbers of given levels, :math:`q(v | x)` with v = (x + u) / L.

    Rounding never carries v into the next cell.

    Args:
        x: Levels, integers of floating type, with shape ``batch_shape + event_shape``.
        levels: Number of levels L.
        event_dim: Number of dimensions of an event.
        noise: The distribution of u on the unit cube, its event of as many numbers as that of x; uniform when ``None``.

    Attributes:
        density: ``"exact"``.

    Example:
        >>> q = Dequantization(torch.tensor([3.0, 255.0]), 256, 1)
        >>> q.log_prob(torch.tensor([3.1, 255.9]) / 256) / math.log(256)
        tensor(2.)
    """

    density: Density = "exact"
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, x: Tensor, levels: int, event_dim: int, noise: dist.TorchDistribution | None = None) -> None:
        batch = x.dim() - event_dim
        batch_shape, event_shape = x.shape[:batch], x.shape[batch:]
        if noise is not None:
            batch_shape = broadcast_shapes(batch_shape, noise.batch_shape)
            noise = noise.expand(batch_shape)
        self.x, self.levels, self.noise = x.expand(*batch_shape, *event_shape), levels, noise
        super().__init__(batch_shape, event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether the noise is reparameterised."""
        return self.noise is None or self.noise.has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The unit cube, of which only the cell of x has density."""
        return constraints.independent(constraints.unit_interval, self.event_dim)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Dequantization":
        """Returns the distribution with a larger batch shape."""
        x = self.x.expand(*batch_shape, *self.event_shape)
        noise = None if self.noise is None else self.noise.expand(batch_shape)
        return Dequantization(x, self.levels, self.event_dim, noise)

    def rsample_and_log_prob(self, sample_shape: torch.Size | Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Returns samples and their log-densities, in one pass of the noise."""
        shape, q, volume = torch.Size(sample_shape), self.noise, -self.event_shape.numel() * math.log(self.levels)
        if q is None:
            u = torch.rand_like(self.x.expand(self._extended_shape(shape)))
            return self._place(u), u.new_full((), -volume).expand(shape + self.batch_shape)
        if hasattr(q, "rsample_and_log_prob"):
            u, log_q = q.rsample_and_log_prob(shape)
        else:
            u = q.rsample(shape) if q.has_rsample else q.sample(shape)
            log_q = q.log_prob(u)
        return self._place(u.reshape(self._extended_shape(shape))), log_q - volume

    def _place(self, u: Tensor) -> Tensor:
        margin = 2 * torch.finfo(u.dtype).eps  # what dividing and multiplying again may take away or add
        return torch.clamp(self.x + u, self.x * (1 + margin), (self.x + 1) * (1 - margin)) / self.levels

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws reparameterised samples."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats; minus infinity outside the cell of x."""
        u = self.levels * value - self.x
        inside = _of_events((u >= 0) & (u < 1), self.event_dim)
        volume = -self.event_shape.numel() * math.log(self.levels)
        if self.noise is None:
            return torch.where(inside, -volume, -math.inf).to(u.dtype)
        u = u.clamp(0, 1).reshape(*u.shape[: u.dim() - self.event_dim], *self.noise.event_shape)
        return torch.where(inside, self.noise.log_prob(u) - volume, -math.inf)
