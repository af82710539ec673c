r"""Initial value problems: :math:`dy/dt = f(t, y)` from :math:`t_0` to :math:`t_1`, in either direction of time.

Fixed steps are explicit Runge-Kutta methods, a table of numbers each:

.. math::
    k_i = f\Bigl(t + h \sum_j a_{ij},\; y + h \sum_{j < i} a_{ij} k_j\Bigr), \qquad y \leftarrow y + h \sum_i b_i k_i

Their error falls as :math:`h^p` (p = 1, 2, 4 for ``euler``, ``midpoint``, ``rk4``), their operations are the same at
every call, so they can be traced, and nobody tells how wrong they are. Adaptive methods (``dopri5``, ``dopri8``,
``bosh3``, ``fehlberg2``, ``adaptive_heun``, of ``torchdiffeq``) choose steps that keep the estimated error of each
below :math:`\mathrm{atol} + \mathrm{rtol}\, |y|` in every entry of the state.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Derivative = Callable[[Tensor, Tensor], Tensor]

FIXED = {  # the rows of a below the first, and b
    "euler": ((), (1.0,)),
    "midpoint": (((1 / 2,),), (0.0, 1.0)),
    "rk4": (((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


class StiffnessError(RuntimeError):
    """An explicit solver that chooses its steps found none small enough."""


def fixed_steps(f: Derivative, y: Tensor, t0: float, t1: float, solver: str, steps: int) -> tuple[Tensor, int]:
    """Solves with steps of one size.

    Args:
        f: The right-hand side.
        y: The state at t0.
        t0: Start.
        t1: End, on either side of t0.
        solver: One of :data:`FIXED`.
        steps: Number of steps.

    Returns:
        The state at t1, and the number of evaluations of f.
    """
    a, b = FIXED[solver]
    h = (t1 - t0) / steps
    for n in range(steps):
        k: list[Tensor] = []
        for row in ((), *a):
            t = y.new_full((), t0 + (n + sum(row)) * h)
            k.append(f(t, _advance(y, h, row, k)))
        y = _advance(y, h, b, k)
    return y, steps * len(b)


def _advance(y: Tensor, h: float, weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    for weight, slope in zip(weights, k, strict=True):
        y = torch.add(y, slope, alpha=h * weight) if weight else y
    return y


def adaptive_steps(
    f: Derivative,
    y: Tensor,
    t0: float,
    t1: float,
    solver: str,
    rtol: float,
    atol: float,
    adjoint: Sequence[Tensor] | None = None,
    **options: float,
) -> tuple[Tensor, int]:
    """Solves with steps that keep to a tolerance, the last of which ends at t1.

    Tolerances below 16 units in the last place of y could never be met and are raised to that.

    Args:
        f: The right-hand side.
        y: The state at t0.
        t0: Start.
        t1: End, on either side of t0.
        solver: One of :data:`ADAPTIVE`.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        adjoint: All tensors other than y that f depends on, to have gradients from the adjoint equation, solved
            backwards in constant memory; ``None`` to have them from the solver's own operations.
        options: Further settings of ``torchdiffeq``'s solver, e.g. ``min_step``.

    Returns:
        The state at t1, and the number of evaluations of f; NaN if f is not finite at the start.

    Raises:
        StiffnessError: If steps become too small or too many.
    """
    if not y.numel():
        return y, 0
    with torch.device("cpu"):  # where the tables that it makes when imported belong
        from torchdiffeq import odeint, odeint_adjoint

    count = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return f(t, y)

    t, least = y.new_tensor([t0, t1]), 16 * torch.finfo(y.dtype).eps
    settings = {"rtol": max(rtol, least), "atol": max(atol, least), "method": solver}
    settings["options"] = {**options, "norm": _largest, "step_t": t[1:]}
    try:
        if adjoint is None:
            return odeint(counted, y, t, **settings)[-1], count
        back = {**options, "step_t": t[:1]}
        return odeint_adjoint(counted, y, t, adjoint_params=(*adjoint,), adjoint_options=back, **settings)[-1], count
    except AssertionError as error:
        start = f(t[0], y)
        if not bool(start.isfinite().all() & y.isfinite().all()):
            return y + start * torch.nan, count  # no matter of step sizes: it passes on as through any other layer
        raise StiffnessError(
            f"{solver} gave up after {count} evaluations ({str(error).split(':')[0]}): the field is too stiff for an "
            "explicit solver at this tolerance. While training: smooth activations, the regularisers kinetic= and "
            "jacobian=, weight decay, a lower learning rate. For a given field: larger rtol and atol, a min_step, more "
            "max_num_steps, or fixed steps (solver='rk4', steps=...), whose error you then have to watch yourself"
        ) from error


def _largest(error: Tensor) -> Tensor:
    """The norm by which every datum, not their average, obeys the tolerance."""
    return error.abs().max()
