r"""An autoregressive distribution as sequential sites of a Pyro program.

.. math::
    \log p(x | c) = \sum_b \log p(x_b | x_{<b}, c)

with one site for every block b of numbers that follow each other in the order: a single number, or a row of an image. A
site's value may come from its distribution, from data, or from an intervention; the sites after it see that value.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .._shapes import broadcast_shapes
from ..nn import without_autocast
from .promise import Density

if TYPE_CHECKING:
    from .autoregressive import Autoregressive


def by_number(p: "Autoregressive", name: str) -> Tensor:
    """Samples one site for each number; see :meth:`~.Autoregressive.as_sites`."""
    shape = p.batch_shape
    with without_autocast(p.conditioner.like()):
        walk = p.conditioner.walk(p.contexts(shape), shape.numel())
    values: dict[int, Tensor] = {}
    for i in p.conditioner.sequence:
        head = p.head.at(i)
        with without_autocast(p.conditioner.like()):
            theta = walk.output()[..., : head.size]
        x = pyro.sample(f"{name}_{i}", head.checked(theta.reshape(*shape, -1)))
        wider = broadcast_shapes(x.shape, shape)
        if wider != shape:  # a plate or an enumeration made the batch larger: every datum goes on as several
            places = torch.arange(shape.numel(), device=x.device).reshape(shape).expand(wider)
            walk.select(places.reshape(-1))
            shape = wider
        x = x.expand(shape).to(theta.dtype)
        with without_autocast(p.conditioner.like()):
            walk.see(p.seen(i, x.reshape(-1)))
        values[i] = x
    return torch.stack([values[i].expand(shape) for i in range(len(values))], -1).reshape(*shape, *p.event_shape)


def by_row(p: "Autoregressive", name: str) -> Tensor:
    """Samples one site for each row of an image; see :meth:`~.Autoregressive.as_sites`."""
    if p.event_dim != 3:
        raise ValueError(f"by: expected images (C, H, W) for rows, got events of shape {tuple(p.event_shape)}")
    channels, height, width = p.event_shape
    size = channels * width
    rows = [sorted((c * height + i) * width + j for c in range(channels) for j in range(width)) for i in range(height)]
    sequence = p.conditioner.sequence
    if any(sorted(sequence[i * size : (i + 1) * size]) != row for i, row in enumerate(rows)):
        raise ValueError("by: expected a model in raster order for rows, got another order")
    x = p.conditioner.like().new_zeros(*p.batch_shape, *p.event_shape)
    for i in range(height):
        row = pyro.sample(f"{name}_{i}", Row(p, x, i))
        x = x.expand(*broadcast_shapes(row.shape[:-2], x.shape[:-3]), *p.event_shape).clone()
        x[..., i, :] = row
    return x


class Row(dist.TorchDistribution):
    """A row of an image given the rows above it, p(x_row | x_above, c); made by :func:`by_row`.

    Args:
        p: The distribution of images, in raster order.
        above: Images of which the rows above this one are known, with shape ``batch_shape + (C, H, W)``.
        row: The row.
    """

    density: Density = "exact"
    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, p: "Autoregressive", above: Tensor, row: int, batch_shape: Sequence[int] = ()) -> None:
        self.p, self.above, self.row = p, above, row
        batch_shape = broadcast_shapes(batch_shape, p.batch_shape, above.shape[:-3])
        super().__init__(torch.Size(batch_shape), p.event_shape[::2], validate_args=False)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where rows live."""
        return self.p.head.support_of(self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Row":
        """Returns the distribution with a larger batch shape."""
        return Row(self.p, self.above, self.row, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density of the row in nats, in one pass of the network."""
        shape = broadcast_shapes(value.shape[:-2], self.batch_shape)
        x = self.above.expand(*shape, *self.p.event_shape).clone()
        x[..., self.row, :] = value
        return self.p.conditional_log_probs(x)[..., self.row, :].sum((-2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws the row, seeing the rows above once more."""
        shape = self._extended_shape(torch.Size(sample_shape))[:-2] + self.p.event_shape
        _, height, width = self.p.event_shape
        above = [i < self.row for i in range(height) for _ in range(width)] * self.p.event_shape[0]
        stop = (self.row + 1) * len(above) // height
        x = self.p.expand(shape[:-3])._draw(shape, self.above.expand(shape), above, stop=stop)
        return x[..., self.row, :]
