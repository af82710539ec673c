r"""Continuous normalizing flows: the density follows an ordinary differential equation.

.. math::
    \frac{dx}{dt} = f(x, t, c), \qquad \log p(x(1) | c) = \log N(x(0); 0, I) - \int_0^1 \mathrm{tr}\,
    \frac{\partial f}{\partial x}(x(t), t, c)\, dt

The latent :math:`z = x(0)` is standard normal; the data are where the field :math:`f` carries it. Density and samples
cost the same, one solve; :mod:`pyro_dgm.transforms.continuous` tells how.
"""

from collections.abc import Sequence

from torch import nn
from torch.distributions import constraints

from ....transforms import Continuous
from ....transforms.continuous import Probe, Trace
from .base import FlowModel


class FFJORD(FlowModel):
    r"""Free-form continuous flow: one smooth field instead of a stack of constrained layers.

    .. math::
        \log p(x | c) = \log N(z; 0, I) - \int_0^1 \mathrm{tr}\, \frac{\partial f}{\partial x}\, dt

    Smooth densities with few parameters, both directions at one price, no masks and no order of the features. Slow
    to train beside :class:`~pyro_dgm.models.NSF`, since every step solves an equation, and the slower the longer
    one trains without ``kinetic`` and ``jacobian`` (0.01 each is a start). An adaptive solver's density is good to its
    tolerance, and one datum's depends in that measure on those scored with it; ``solver="rk4"`` has neither
    property, and can be compiled by ``fit``. For a field of your own, or several in turn, give
    :class:`~pyro_dgm.transforms.Continuous` to :class:`~pyro_dgm.models.NormalizingFlow`. (Grathwohl, Chen,
    Bettencourt, Sutskever and Duvenaud, FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative
    Models, 2018, arXiv:1810.01367; regularisers of Finlay, Jacobsen, Nurbekyan and Oberman, How to Train Your Neural
    ODE, 2020, arXiv:2002.02798.)

    Args:
        features: Number of features of the data.
        context: Width of the context, 0 for none.
        hidden_features: Widths of the hidden layers of the field, at least one.
        activation: Class of the field's activation: ``Tanh``, ``Softplus``, ``SiLU`` or ``Sigmoid``.
        solver: Adaptive ``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"fehlberg2"`` or ``"adaptive_heun"``; of fixed steps
            ``"rk4"``, ``"midpoint"`` or ``"euler"``.
        steps: Number of steps of a fixed-step solver.
        rtol: Relative tolerance of an adaptive solver, per datum and step; 1e-8 needs float64.
        atol: Absolute tolerance.
        max_num_steps: Most steps an adaptive solver may take.
        min_step: Its smallest step, in units of time from 0 to 1.
        adjoint: Whether gradients come from the adjoint equation, in constant memory.
        trace: ``"exact"``, or ``"hutchinson"`` to estimate the trace in training mode.
        probe: Entries of Hutchinson's vector, ``"rademacher"`` or ``"gaussian"``.
        kinetic: Weight, in nats, of the mean of :math:`\int |f|^2 dt` in the training loss.
        jacobian: Weight, in nats, of the mean of :math:`\int |\partial f / \partial x|_F^2 dt` in the training loss.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Raises:
        ValueError: If a setting is none of those above.
        StiffnessError: When scored or sampled, if an adaptive solver cannot keep to the tolerance.

    Example:
        >>> flow = FFJORD(2, solver="rk4", steps=5)
        >>> flow().sample((3,)).shape, flow.nfe
        (torch.Size([3, 2]), 20)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        solver: str = "dopri5",
        steps: int = 20,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_num_steps: int = 10_000,
        min_step: float = 0.0,
        adjoint: bool = False,
        trace: Trace = "exact",
        probe: Probe = "rademacher",
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        settings = {
            "solver": solver, "steps": steps, "rtol": rtol, "atol": atol, "max_num_steps": max_num_steps,
            "min_step": min_step, "adjoint": adjoint, "trace": trace, "probe": probe, "kinetic": kinetic,
            "jacobian": jacobian,
        }  # fmt: skip
        super().__init__(
            features,
            context,
            lambda d: [Continuous(d, hidden_features, context, activation, **settings)],
            support,
            standardize,
        )

    @property
    def nfe(self) -> int:
        """Number of evaluations of the field in the latest solve, of either direction."""
        return self.transform.transforms[0].nfe
