r"""Constrained data: from all reals to the set where the data live, with the exact log-determinant.

For a constraint with set :math:`S`, :math:`y = b_S(x)` is Pyro's bijection ``biject_to(S)`` (exp for
the positive numbers, a sigmoid for an interval, stick-breaking for the simplex ...). Data on the very edge of
:math:`S` would map to infinity; they are scored as if they lay within it by the least representable amount, so that
densities and gradients stay finite, and samples always satisfy ``S.check``.
"""

import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.nn import functional as F

from .base import Pass, Transform
from .compose import Compose, Foreign


class Support(Transform):
    r"""The bijection from :math:`R^D` to a set, acting on vectors.

    Args:
        constraint: The set, a constraint of ``torch.distributions.constraints``, element-wise or of vectors.

    Raises:
        ValueError: If no bijection onto the set is known (a discrete set, say).

    Example:
        >>> y, ladj = Support(constraints.positive).forward_and_ladj(torch.zeros(5, 2))
        >>> y.shape, ladj.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, constraint: constraints.Constraint) -> None:
        super().__init__()
        if isinstance(constraint, constraints.stack):
            raise ValueError("constraint: constraints.stack has no joint bijection; expected constraints.cat")
        if isinstance(constraint, constraints.cat) and any(part.event_dim for part in constraint.cseq):
            raise ValueError("constraint: expected constraints.cat of element-wise sets, got one of sets of vectors")
        try:
            bijection = biject_to(constraint)
        except NotImplementedError as error:
            raise ValueError(
                f"constraint: expected a continuous set with a bijection from the reals, got {constraint}; "
                "for discrete data choose a discrete model"
            ) from error
        self.bijection = Foreign(bijection)
        if any(_tensors(constraint)):  # which move with this module, the caller's staying where they are
            constraint = copy.deepcopy(constraint)
        if constraint.event_dim < bijection.codomain.event_dim:  # Pyro's positive_ordered_vector
            constraint = copy.copy(constraint)
            constraint.event_dim = bijection.codomain.event_dim
        self.constraint = constraint
        extra = 1 - bijection.codomain.event_dim
        self.codomain = constraints.independent(constraint, extra) if extra > 0 else constraint

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Support":
        for holder, name in _tensors(self.constraint):
            setattr(holder, name, fn(getattr(holder, name)))
        return super()._apply(fn, recurse)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Maps reals into the set."""
        y, ladj = self.bijection.forward_and_ladj(x)
        return _inside(y, self.constraint), self._sum(ladj)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Maps the set to reals, its edge to a large number instead of infinity."""
        edge = -math.log(torch.finfo(y.dtype).tiny)
        x = self.bijection.inverse_and_ladj(_inside(y, self.constraint))[0]
        x = torch.nan_to_num(x, nan=math.nan, posinf=edge, neginf=-edge)
        return x, -self._sum(self.bijection.forward_and_ladj(x)[1])

    def _sum(self, ladj: Tensor) -> Tensor:
        return ladj.sum(-1) if self.bijection.domain.event_dim == 0 else ladj

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x: the simplex has one feature more than its reals."""
        return self.bijection.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        return self.bijection.inverse_shape(shape)


def _inside(y: Tensor, constraint: constraints.Constraint) -> Tensor:
    """Moves values that rounding put on the edge of an element-wise set, or of the simplex, inside."""
    info, inner = torch.finfo(y.dtype), elementwise(constraint)
    if isinstance(inner, constraints.cat):
        parts = zip(y.split(inner.lengths, inner.dim), inner.cseq, strict=True)
        return torch.cat([_inside(part, each) for part, each in parts], inner.dim)
    if isinstance(inner, type(constraints.simplex)):
        y = y.clamp_min(info.eps)
        return y / y.sum(-1, keepdim=True)
    lower, upper = getattr(inner, "lower_bound", None), getattr(inner, "upper_bound", None)
    if lower is not None:
        y = y.clamp_min(lower + info.eps * abs(lower) + info.tiny)
    if upper is not None:
        y = y.clamp_max(upper - info.eps * abs(upper) - info.tiny)
    return y


def _tensors(constraint: constraints.Constraint) -> Iterator[tuple[constraints.Constraint, str]]:
    """Yields the tensors within a constraint: who holds each, and by which name."""
    for name, value in vars(constraint).items():
        if isinstance(value, Tensor):
            yield constraint, name
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, constraints.Constraint):
                yield from _tensors(part)


class Logit(Transform):
    r"""The preprocessing of images by a logit, seen from the latent: data in [0, 1], unconstrained numbers before.

    .. math::
        x = \operatorname{logit}\bigl(\alpha + (1 - 2 \alpha) y\bigr), \qquad
        \log \frac{dx}{dy} = \log(1 - 2 \alpha) - \log u - \log(1 - u), \quad u = \alpha + (1 - 2 \alpha) y

    Black and white stay finite: x lies within :math:`\pm \operatorname{logit} \alpha`. The codomain is what all reals
    map to, :math:`[-\beta, 1 + \beta]` with :math:`\beta = \alpha / (1 - 2 \alpha)`, and a little wider than [0, 1].
    It acts element by element, on events of any shape. (Dinh, Sohl-Dickstein and Bengio, Density estimation using
    Real NVP, 2016, arXiv:1605.08803.)

    Args:
        alpha: The margin, between 0 and 1/2: 0.05 is usual for images, 1e-6 for tables.

    Raises:
        ValueError: If alpha lies outside.

    Example:
        >>> x, ladj = Logit(0.05).inverse_and_ladj(torch.tensor([0.0, 0.5, 1.0]))
        >>> x
        tensor([-2.9444,  0.0000,  2.9444])
    """

    domain = constraints.real

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha: expected a number between 0 and 1/2, got {alpha}")
        self.alpha, self.slope = alpha, 1 - 2 * alpha
        beta = alpha / self.slope
        self.codomain = constraints.interval(-beta, 1 + beta)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Maps reals to data."""
        y = (x.sigmoid() - self.alpha) / self.slope
        ladj = F.logsigmoid(x) + F.logsigmoid(-x) - math.log(self.slope)
        return y.clamp(self.codomain.lower_bound, self.codomain.upper_bound), ladj

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Maps data to reals; u and 1 - u are each computed without cancellation."""
        tiny = torch.finfo(y.dtype).tiny
        log_u, log_v = ((self.alpha + self.slope * t).clamp_min(tiny).log() for t in (y, 1 - y))
        return log_u - log_v, math.log(self.slope) - log_u - log_v


def elementwise(constraint: constraints.Constraint) -> constraints.Constraint:
    """Returns the constraint of the elements where one is declared for whole events."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def is_real(constraint: constraints.Constraint) -> bool:
    """Whether the elements are any real numbers."""
    return isinstance(elementwise(constraint), type(constraints.real))


def with_support(transform: Transform, constraint: constraints.Constraint) -> Compose:
    """Returns ``transform`` followed by the bijection onto a set.

    Args:
        transform: A transform whose output is unconstrained.
        constraint: The set.

    Example:
        >>> from pyro_dgm.transforms import LULinear
        >>> with_support(LULinear(2), constraints.positive).codomain.event_dim
        1
    """
    return Compose([transform, Support(constraint)])
