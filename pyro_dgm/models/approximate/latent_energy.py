r"""Energy-based models with hidden variables that cannot be summed out: a bound on the free energy, and a joint chain.

.. math::
    p(x) = \frac{1}{Z} \sum_h e^{-E(x, h)}, \qquad
    -\log \sum_h e^{-E(x, h)} \;\le\; \tilde F(x) = E_{q(h | x)} E(x, h) - H[q(h | x)]

for any distribution q, and so :math:`\log p(x) \ge -\tilde F(x) - \log Z`. Two parts therefore make such a model: the
*variational free energy* :math:`\tilde F` of data, and the *joint*, an energy-based model of states s from which x is
read off. The joint has the partition function, its estimate, and the chain. Its gradient is what any energy's is,

.. math::
    -\nabla \log p(x) \approx \nabla \tilde F(x) - E_{p(s)} \nabla F(s)

so that persistent contrastive divergence trains it, its chains those of the joint: for the deep Boltzmann machine the
mean-field variational algorithm of Salakhutdinov and Hinton (Deep Boltzmann Machines, 2009).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...distributions import Boltzmann
from ..base import ApproximateModel, OneSite
from .energy_based import EnergyBasedModel, as_drawn

if TYPE_CHECKING:
    from ...mcmc import LogPartition
    from ...objectives import Objective


class LatentEnergyModel(OneSite, ApproximateModel):
    """What these models share; subclasses set ``joint`` and implement ``energy`` and ``observe``.

    Attributes:
        joint: The energy-based model of states s, whose log Z is the model's.
        exact: Whether the energy is the free energy itself, since the chain leaves nothing to bound.
    """

    joint: EnergyBasedModel
    exact: bool = False

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the variational free energy in nats, with shape (*), for x with shape ``(*) + event_shape``.

        It is at least the free energy, in expectation where it is random; its gradient at a given q is that of the
        bound.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks energy")

    def observe(self, s: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the data x, read off or drawn given states s of the joint."""
        raise NotImplementedError(f"{type(self).__name__} lacks observe")

    def estimate_log_partition(
        self, num_chains: int = 100, num_temperatures: int = 10_000, **settings: Any
    ) -> "LogPartition":
        """Estimates the joint's log Z; see :meth:`EnergyBasedModel.estimate_log_partition`."""
        return self.joint.estimate_log_partition(num_chains, num_temperatures, **settings)

    def _distribution(self, context: Tensor | None) -> Boltzmann:
        p, drawn = self.joint(context), as_drawn(self)

        def sample(shape: Sequence[int]) -> Tensor:
            return self.observe(p.sampler(shape), context)

        density = p.density if self.exact or p.density != "exact" else "lower_bound"
        energy, shapes = drawn(lambda x: self.energy(x, context)), (self.event_shape, self.support, p.batch_shape)
        return Boltzmann(energy, p.log_partition, sample, *shapes, density)

    def objective(self) -> "Objective":
        """Returns persistent contrastive divergence."""
        from ...objectives import PersistentContrastiveDivergence

        return PersistentContrastiveDivergence()
