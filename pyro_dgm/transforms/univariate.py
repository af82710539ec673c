r"""Families of monotone functions of one variable, parametrised by numbers a network can give.

A family maps a number :math:`x` and parameters :math:`\theta` to :math:`y = g(x; \theta)` with
:math:`\log \partial y / \partial x`, and back. Couplings and autoregressive transforms apply one such
function to every feature; which one is their ``univariate`` argument. The families here, and splines, are the identity
at :math:`\theta = 0`, so that a network whose last layer starts at zero starts as the identity.

========================= =============================================== ============
family                    :math:`g(x; \theta)`                             parameters
========================= =============================================== ============
:class:`Shift`            :math:`x + b`                                    1
:class:`Affine`           :math:`x e^{s} + b`, :math:`|s| < a`             2
:mod:`~.spline`           monotone rational-quadratic, K bins              3K - 1
:mod:`~.monotone`         sigmoids, polynomials, mixtures of normals       see there
:class:`Chain`            one of these after another                      their sum
========================= =============================================== ============
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .._config import Configured
from .._shapes import broadcast_shapes

Theta = Tensor | tuple[Tensor, ...]


def rows_first(theta: Tensor) -> Tensor:
    """Returns parameters (*, D, size) as (size, D, *), the order of a network's rows and of memory."""
    return theta.movedim((-1, -2), (0, 1)) if theta.dim() > 1 else theta


def rows_last(rows: Tensor) -> Tensor:
    """Undoes :func:`rows_first`."""
    return rows.movedim((0, 1), (-1, -2)) if rows.dim() > 1 else rows


def whole(theta: Theta) -> Tensor:
    """Returns the parameters of all features, with shape (*, D, size), given those of one run of them after another."""
    if isinstance(theta, Tensor):
        return theta
    batch_shape = broadcast_shapes(*(t.shape[:-2] for t in theta))
    return rows_last(torch.cat([rows_first(t.expand(*batch_shape, *t.shape[-2:])) for t in theta], 1))


def number_first(v: Tensor, theta: Theta) -> tuple[Tensor, list[Tensor]]:
    """Returns v, broadcast to shape (*, D), and each theta, (*, D, size), as (size, D, *)."""
    parts = theta if isinstance(theta, tuple) else (theta,)
    shapes = [t.shape[:-1] if t is theta else (*t.shape[:-2], v.shape[-1]) for t in parts]
    shape = broadcast_shapes(v.shape, *shapes)
    moved = [rows_first(t) for t in parts]
    added = [(1,) * (len(shape) + 1 - t.dim()) for t in moved]
    if any(added):
        moved = [t.reshape(*t.shape[:2], *a, *t.shape[2:]) for t, a in zip(moved, added, strict=True)]
    return v if v.shape == shape else v.expand(shape), moved


def first(t: Tensor, like: Tensor) -> Tensor:
    """Returns a vector along a new first dimension, to broadcast against ``like``."""
    return t.view(-1, *[1] * like.dim())


class Univariate(Configured):
    """A family of monotone functions; subclasses define ``size`` and the two passes.

    Attributes:
        size: Number of parameters.
        gains: What the numbers of a network are multiplied by to be the parameters, in :class:`Coupling` and
            :class:`MaskedAutoregressive`; nothing when ``None``. The less it is, the less a step of Adam changes them,
            whose size is the learning rate whatever is learnt.
    """

    size: int
    gains: list[float] | None = None

    def forward_and_ladj(self, x: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Maps ``x`` with shape (*) and ``theta`` with shape (*, size) to y and log dy/dx, with shape (*).

        For ``x`` with shape (*, D), ``theta`` may also be several tensors, for one run of features after another.
        """
        raise NotImplementedError

    def inverse_and_ladj(self, y: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to x and log dx/dy."""
        raise NotImplementedError

    def inverse_value(self, y: Tensor, theta: Theta) -> Tensor:
        """Maps ``y`` to x alone, at less cost where the slope is work of its own."""
        return self.inverse_and_ladj(y, theta)[0]


class Shift(Univariate):
    """y = x + b: volume-preserving (Dinh, Krueger and Bengio, NICE, 2014, arXiv:1410.8516)."""

    size = 1

    def forward_and_ladj(self, x: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Adds b."""
        y = x + whole(theta)[..., 0]
        return y, torch.zeros_like(y)

    def inverse_and_ladj(self, y: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Subtracts b."""
        x = y - whole(theta)[..., 0]
        return x, torch.zeros_like(x)


class Affine(Univariate):
    r"""y = x exp(s) + b with the log-scale bounded softly, :math:`s = a \tanh(s_0 / a)`.

    The bound keeps deep stacks finite in float32: one layer stretches by at most :math:`e^{a}`.
    (Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803.)

    Args:
        bound: The bound a on the absolute log-scale.
        gain: What a network's numbers are multiplied by, see :class:`Univariate`.
    """

    size = 2

    def __init__(self, bound: float = 3.0, gain: float = 1.0) -> None:
        self.bound = bound
        self.gains = None if gain == 1 else [gain] * self.size

    def _parameters(self, theta: Theta, bound: float) -> tuple[Tensor, Tensor]:
        theta = whole(theta)
        b, s_0 = theta.mT.unbind(-2) if theta.dim() > 1 else theta  # gradients meet in the order of the network's rows
        sigma = torch.sigmoid(s_0 * (2 / self.bound))
        return b, torch.rsub(sigma, -bound, alpha=-2 * bound)  # a (2 sigma - 1) = a tanh, at half its cost

    def forward_and_ladj(self, x: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Scales and shifts."""
        b, s = self._parameters(theta, self.bound)
        return torch.addcmul(b, x, s.exp()), s

    def inverse_and_ladj(self, y: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Undoes the shift, then the scale."""
        b, minus_s = self._parameters(theta, -self.bound)
        return (y - b) * minus_s.exp(), minus_s


class Chain(Univariate):
    r"""Families one after another, :math:`y = g_n(\dots g_1(x; \theta_1) \dots; \theta_n)`.

    An affine map before a spline, for instance, moves a feature, as others let one expect it, to the middle of the
    spline's interval; and what lies outside is scaled and shifted, where a spline alone would leave it as it is.

    Args:
        families: The families, the one that is applied to x first.

    Raises:
        ValueError: If there is none.

    Example:
        >>> from pyro_dgm.transforms import Spline
        >>> g = Chain([Affine(), Spline(8)])
        >>> y, ladj = g.forward_and_ladj(torch.zeros(5), torch.randn(5, g.size))
    """

    def __init__(self, families: Sequence[Univariate]) -> None:
        if not families:
            raise ValueError("families: expected at least one, got none")
        self.families = list(families)
        self.size = sum(g.size for g in families)
        if any(g.gains for g in families):
            self.gains = [gain for g in families for gain in g.gains or [1.0] * g.size]

    def forward_and_ladj(self, x: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Applies the families in turn."""
        total = 0.0
        for g, part in self._parts(theta):
            x, ladj = g.forward_and_ladj(x, part)
            total = ladj + total
        return x, total

    def inverse_and_ladj(self, y: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Undoes the families, the last one first."""
        total = 0.0
        for g, part in reversed([*self._parts(theta)]):
            y, ladj = g.inverse_and_ladj(y, part)
            total = ladj + total
        return y, total

    def inverse_value(self, y: Tensor, theta: Theta) -> Tensor:
        """Undoes the families, the last one first."""
        for g, part in reversed([*self._parts(theta)]):
            y = g.inverse_value(y, part)
        return y

    def _parts(self, theta: Theta) -> Iterator[tuple[Univariate, Theta]]:
        if isinstance(theta, Tensor):
            return zip(self.families, self._split(theta), strict=True)
        return zip(self.families, zip(*(self._split(t) for t in theta), strict=True), strict=True)

    def _split(self, theta: Tensor) -> list[Tensor]:
        """Returns each family's part; their gradients meet in the order of the network's rows."""
        return [rows_last(rows) for rows in rows_first(theta).split([g.size for g in self.families])]
