r"""Continuous transforms: a point is carried along by a velocity field, and its log-density with it.

.. math::
    \frac{dx}{dt} = f(x, t, c), \qquad
    \frac{d\ell}{dt} = \mathrm{tr}\, \frac{\partial f}{\partial x}, \qquad x(0) = x,\; y = x(1),\;
    \log\Bigl|\det \frac{\partial y}{\partial x}\Bigr| = \ell(1) - \ell(0)

Any smooth :math:`f` will do: its flow is invertible by running time backwards, at the same cost. One solve gives value
and log-determinant, and while training also the regularisers

.. math::
    \int_0^1 |f|^2\, dt \quad \text{(kinetic)}, \qquad
    \int_0^1 \Bigl|\frac{\partial f}{\partial x}\Bigr|_F^2\, dt \quad \text{(jacobian)}

whose mean over the data, weighted, joins the loss: paths become straight and fields smooth, so that few steps suffice.
(Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud, FFJORD, 2018, arXiv:1810.01367; Finlay, Jacobsen, Nurbekyan and
Oberman, How to Train Your Neural ODE, 2020, arXiv:2002.02798.)
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .._shapes import broadcast_shapes
from ..nn import AutogradField, MLPField, add_penalty, leave_autocast, penalties_wanted, without_autocast
from ..nn.field import Differentiated, Perceptron
from ..nn.ode import ADAPTIVE, FIXED, Derivative, adaptive_steps, fixed_steps
from .base import Pass, Transform, check_width

Trace = Literal["exact", "hutchinson"]
Probe = Literal["rademacher", "gaussian"]


class Continuous(Transform):
    r"""The flow of a velocity field :math:`f(x, t, c)` from time 0 to 1.

    Free-form where couplings and autoregressions constrain: one smooth map instead of a stack of masks. It costs an
    evaluation of the field (and of its divergence) per stage of a solver, tens to hundreds in all, and the value
    is as exact as the solver is. Fields that training has made stiff are slow, then refused; the regularisers
    prevent it.

    The trace is exact in evaluation mode, always, and in training mode unless ``trace="hutchinson"``. Exact is the
    default since for the field built here it costs one matrix product per evaluation with up to two hidden layers,
    whatever the number of features; with more layers, or a field of your own, it costs a pass per feature: from about
    16 features on prefer Hutchinson's estimate in training.

    Networks run in full precision under autocast: their noise would pass for stiffness.

    Args:
        features: Number of features D.
        hidden_features: Widths of the hidden layers of the field.
        context: Width of the context c, 0 for none.
        activation: Class of the field's activation, a smooth one; see :class:`~pyro_dgm.nn.MLPField`.
        field: A network of your own in place of all that, a module that maps x, a scalar t and a context or ``None``
            to a velocity; see :class:`~pyro_dgm.nn.AutogradField`.
        solver: Adaptive ``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"fehlberg2"`` or ``"adaptive_heun"``; of fixed steps
            ``"rk4"``, ``"midpoint"`` or ``"euler"``, which alone can be traced and compiled.
        steps: Number of steps of a fixed-step solver.
        rtol: Relative tolerance of an adaptive solver, per datum and step; 1e-8 needs float64.
        atol: Absolute tolerance.
        max_num_steps: Most steps an adaptive solver may take.
        min_step: Its smallest step, in units of time; steps that small are taken whatever their error.
        adjoint: Whether gradients come from the adjoint equation, in constant memory and of the solver's accuracy,
            instead of from the solver's own operations.
        trace: How the trace is found in training mode, ``"exact"`` or ``"hutchinson"``.
        probe: Entries of Hutchinson's v, drawn once per solve: ``"rademacher"`` (signs, least variance) or
            ``"gaussian"``.
        kinetic: Weight of the kinetic regulariser in objectives of this package, in nats.
        jacobian: Weight of the Jacobian regulariser, estimated with the probe by :math:`|J v|^2`.

    Attributes:
        nfe: Number of evaluations of the field in the latest solve (backward passes not counted).

    Raises:
        ValueError: If a setting is none of those above.
        StiffnessError: In a solve, if an adaptive solver cannot keep to the tolerance; see :mod:`pyro_dgm.nn.ode`.

    Example:
        >>> t = Continuous(3, context=2, solver="rk4", steps=4)
        >>> y, ladj = t.forward_and_ladj(torch.zeros(10, 3), torch.zeros(10, 2))
        >>> t.nfe
        16
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (64, 64),
        context: int = 0,
        activation: type[nn.Module] = nn.Tanh,
        *,
        field: nn.Module | None = None,
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
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("solver", solver, (*ADAPTIVE, *FIXED)),
            ("trace", trace, ("exact", "hutchinson")),
            ("probe", probe, ("rademacher", "gaussian")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if steps < 1 or max_num_steps < 1:
            raise ValueError(f"steps, max_num_steps: expected at least 1, got {steps}, {max_num_steps}")
        if not (rtol > 0 and atol > 0 and min(min_step, kinetic, jacobian) >= 0):
            raise ValueError(
                "rtol, atol, min_step, kinetic, jacobian: expected positive tolerances and the others at least 0, got "
                f"{rtol}, {atol}, {min_step}, {kinetic}, {jacobian}"
            )
        if adjoint and solver in FIXED:
            raise ValueError(f"adjoint: expected an adaptive solver, of {', '.join(ADAPTIVE)}, got {solver!r}")
        self.features = features
        self.field = MLPField(features, hidden_features, context, activation) if field is None else AutogradField(field)
        self.solver, self.steps, self.adjoint = solver, steps, adjoint
        self.rtol, self.atol, self.max_num_steps, self.min_step = rtol, atol, max_num_steps, min_step
        self.trace, self.probe, self.kinetic, self.jacobian = trace, probe, kinetic, jacobian
        self.nfe = 0

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Follows the field from time 0 to 1."""
        return self._flow(x, context, 0.0, 1.0)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Follows the field from time 1 back to 0."""
        return self._flow(y, context, 1.0, 0.0)

    def forward_value(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Follows the field from time 0 to 1, without its trace."""
        return self._path(x, context, 0.0, 1.0)

    def inverse_value(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Follows the field from time 1 back to 0, without its trace."""
        return self._path(y, context, 1.0, 0.0)

    def _checked(
        self, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Perceptron | Differentiated | None]:
        """Returns x, broadcast against the context, both out of autocast, and the field there.

        There is none yet where the adjoint equation asks for gradients of each of its evaluations.
        """
        check_width("Continuous", x, self.features)
        if self.adjoint and any(vars(module).get("_pyro_samples") for module in self.field.modules()):
            raise ValueError(
                "adjoint: expected a field whose weights have no prior, since the backward solve would draw them anew; "
                "construct the flow with adjoint=False"
            )
        x, context = leave_autocast(x), None if context is None else leave_autocast(context)
        if context is not None:
            x = x.expand(*broadcast_shapes(x.shape[:-1], context.shape[:-1]), -1)
        with without_autocast(x):
            return x, context, None if self.adjoint else self.field.at(context)

    def _path(self, x: Tensor, context: Tensor | None, t0: float, t1: float) -> Tensor:
        x, context, field = self._checked(x, context)
        with without_autocast(x):
            return self._solve(lambda t, x: (field or self.field.at(context))(x, t), x, t0, t1, context)

    def _flow(self, x: Tensor, context: Tensor | None, t0: float, t1: float) -> Pass:
        x, context, field = self._checked(x, context)
        penalised = self.training and penalties_wanted()
        kinetic, jacobian = penalised and self.kinetic > 0, penalised and self.jacobian > 0
        estimated = self.training and self.trace == "hutchinson"
        v = self._draw(x) if estimated or jacobian else None

        def derivative(t: Tensor, state: Tensor) -> Tensor:
            with without_autocast(state):
                x, at = state[..., : self.features], field or self.field.at(context)
                f, pushed = (None, None) if v is None else at.push(v, x, t)
                if estimated:
                    trace = (v * pushed).sum(-1)
                else:
                    f, trace = at.divergence(x, t)
                rates = [trace]
                rates += [f.square().sum(-1)] if kinetic else []
                rates += [pushed.square().sum(-1)] if jacobian else []
                return torch.cat([f, torch.stack(rates, -1)], -1)

        extra = 1 + kinetic + jacobian
        state = torch.cat([x, x.new_zeros(*x.shape[:-1], extra)], -1)
        state = self._solve(derivative, state, t0, t1, context)
        x, ladj, *integrals = state.split([self.features, *[1] * extra], -1)
        for weight, integral in zip([self.kinetic] * kinetic + [self.jacobian] * jacobian, integrals, strict=True):
            add_penalty(weight * (t1 - t0) * integral.mean())
        return x, ladj.squeeze(-1)

    def _solve(self, derivative: Derivative, state: Tensor, t0: float, t1: float, context: Tensor | None) -> Tensor:
        if self.solver in FIXED:
            state, self.nfe = fixed_steps(derivative, state, t0, t1, self.solver, self.steps)
            return state
        others = [t for t in (context, *self.field.parameters()) if t is not None] if self.adjoint else None
        state, self.nfe = adaptive_steps(
            derivative, state, t0, t1, self.solver, self.rtol, self.atol, others,
            max_num_steps=self.max_num_steps, min_step=self.min_step,
        )  # fmt: skip
        return state

    def _draw(self, x: Tensor) -> Tensor:
        if self.probe == "gaussian":
            return torch.randn_like(x)
        return 2 * torch.randint_like(x, 2) - 1
