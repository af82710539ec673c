r"""The distribution of an energy: its density is known but for a constant, and that constant can be estimated.

.. math::
    p(x) = \frac{e^{-F(x)}}{Z}, \qquad Z = \sum_x e^{-F(x)} \;\text{or}\; \int e^{-F(x)}\, dx

:math:`F` is the energy of x in nats, of a machine with hidden units the free energy, in which they are summed out.
What can always be had is :math:`-F(x)`, which tells which of two data is the likelier, and by how much.
"""

from collections.abc import Callable, Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .._shapes import broadcast_shapes
from .promise import Density


class Boltzmann(dist.TorchDistribution):
    r"""The distribution :math:`p(x) \propto e^{-F(x)}`.

    Args:
        energy: Maps x, with shape ``(*) + event_shape``, to F(x) in nats, with shape (*), which the batch shape
            broadcasts to.
        log_partition: Returns log Z in nats, with a shape that broadcasts to the batch shape, or raises an error that
            says how to have it.
        sampler: Maps a shape, that of samples and batch together, to draws of x.
        event_shape: Shape of one x.
        support: Where x lives.
        batch_shape: The batch shape.
        density: Whether log Z is ``"exact"`` or an ``"estimate"``.

    Attributes:
        density: ``"exact"`` or ``"estimate"``.

    Example:
        >>> p = Boltzmann(
        ...     lambda x: x.square().sum(-1) / 2, lambda: torch.tensor(2 * torch.pi).log(),
        ...     lambda shape: torch.randn(*shape, 2), (2,), constraints.real_vector,
        ... )
        >>> p.sample((5,)).shape, round(p.log_prob(torch.zeros(2)).item(), 4), p.unnormalized_log_prob(torch.zeros(2))
        (torch.Size([5, 2]), -1.8379, tensor(-0.))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        energy: Callable[[Tensor], Tensor],
        log_partition: Callable[[], Tensor],
        sampler: Callable[[torch.Size], Tensor],
        event_shape: Sequence[int],
        support: constraints.Constraint,
        batch_shape: Sequence[int] = (),
        density: Density = "estimate",
        validate_args: bool | None = None,
    ) -> None:
        self.energy, self.log_partition, self.sampler = energy, log_partition, sampler
        self.density: Density = density
        self._support = support
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where x lives."""
        return self._support

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Boltzmann":
        """Returns the distribution with a larger batch shape."""
        parts = self.energy, self.log_partition, self.sampler
        validate = self.__dict__.get("_validate_args")
        return Boltzmann(*parts, self.event_shape, self._support, torch.Size(batch_shape), self.density, validate)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples, with shape ``sample_shape + batch_shape + event_shape``, as well as the sampler can."""
        return self.sampler(torch.Size(sample_shape) + self.batch_shape)

    def unnormalized_log_prob(self, value: Tensor) -> Tensor:
        """Returns -F(x) in nats: the log-density but for a constant, which needs no log Z."""
        if self._validate_args:
            self._validate_sample(value)
        energy = self.energy(value)
        return -energy.expand(broadcast_shapes(energy.shape, self.batch_shape)) if self.batch_shape else -energy

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns -F(x) - log Z in nats.

        Raises:
            ValueError: If log Z is neither known nor estimated yet.
        """
        score = self.unnormalized_log_prob(value)
        return score - self.log_partition().to(score.dtype)
