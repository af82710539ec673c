r"""Codes that carry their vectors: what a discrete latent looks like to a network.

.. math::
    z = [k, e_k], \qquad k \sim p(k), \qquad p(z) = p(k)

Numbers of classes mean nothing as numbers, so a network is shown the vector :math:`e_k` of a table in place of k; and
no gradient reaches a class, while it can reach its vector. A draw therefore is both, the code first, then its vector,
along a last dimension. The density is that of the codes, with respect to counting.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .promise import Density, density_of


class Embedded(dist.TorchDistribution):
    """The distribution of [k, e_k] for codes k from a distribution.

    Args:
        codes: The distribution of k, integers as floating numbers, with an event shape S.
        table: The vectors e, with shape (K, d).

    Attributes:
        density: What the distribution of k promises.

    Example:
        >>> p = Embedded(dist.Categorical(torch.ones(4, 3)).to_event(1), torch.eye(3))
        >>> p.event_shape, p.sample((5,)).shape, p.log_prob(p.sample((5,))).shape
        (torch.Size([4, 4]), torch.Size([5, 4, 4]), torch.Size([5]))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, codes: dist.TorchDistribution, table: Tensor) -> None:
        self.codes, self.table = codes, table
        event_shape = torch.Size([*codes.event_shape, 1 + table.shape[-1]])
        super().__init__(codes.batch_shape, event_shape, validate_args=False)

    @property
    def density(self) -> Density:
        """What the distribution of the codes promises."""
        return density_of(self.codes)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Codes, and real numbers; only the vectors of the table have mass."""
        parts = [constraints.integer_interval(0, len(self.table) - 1), constraints.real]
        return constraints.independent(constraints.cat(parts, -1, [1, self.table.shape[-1]]), self.event_dim)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Embedded":
        """Returns the distribution with a larger batch shape."""
        return Embedded(self.codes.expand(torch.Size(batch_shape)), self.table)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws codes and looks up their vectors."""
        with torch.no_grad():
            return embed(self.codes.sample(torch.Size(sample_shape)), self.table)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(k) in nats; the vectors are taken for what the codes say."""
        return self.codes.log_prob(value[..., 0].detach())

    @property
    def has_enumerate_support(self) -> bool:
        """Whether all codes can be enumerated."""
        return self.codes.has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Returns all codes and their vectors, along a new first dimension."""
        return embed(self.codes.enumerate_support(expand), self.table)


def embed(k: Tensor, table: Tensor, e: Tensor | None = None) -> Tensor:
    """Returns [k, e_k], with shape (*, 1 + d), of codes (*); ``e`` where the vectors are known."""
    e = table.detach()[k.long()] if e is None else e
    return torch.cat([k.to(e.dtype)[..., None], e], -1)
