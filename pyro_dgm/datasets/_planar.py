r"""The parts that :mod:`~pyro_dgm.datasets.toy` is built from: laws and maps of the plane.

A density stays *known* under a bijection :math:`f` whose Jacobian is known,

.. math:: \log p_x(x) = \log p_u(f^{-1}(x)) - \log |\det \partial f / \partial u|,

so two laws that Pyro lacks (independent polar coordinates, the squares of a chess board) and two maps
(a rotation whose angle grows with the radius, a shear with an exponential stretch) turn Pyro's own
distributions into moons, rings, spirals, pinwheels, bananas and funnels, none of which has to be normalised
numerically. Here :math:`x = (x_1, x_2)` is a point and :math:`(r, \theta)` its polar coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import Transform

from .._shapes import broadcast_shapes


class Polar(dist.TorchDistribution):
    r"""The law of a point whose polar coordinates are independent.

    .. math:: p(x) = p(r) \, p(\theta) / r, \quad x = (r \cos \theta, r \sin \theta).

    The factor :math:`1/r` is the Jacobian. :math:`p(\theta)` must be a density on the circle.

    Args:
        radius: The law of :math:`r > 0`, with shape ``batch_shape``.
        angle: The law of :math:`\theta`, of period :math:`2\pi` (``VonMises``), with shape ``batch_shape``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (the signature of torch)
    support = constraints.real_vector

    def __init__(self, radius: TorchDistributionMixin, angle: TorchDistributionMixin) -> None:
        batch_shape = broadcast_shapes(radius.batch_shape, angle.batch_shape)
        self.radius, self.angle = radius.expand(batch_shape), angle.expand(batch_shape)
        super().__init__(batch_shape, Size((2,)))

    def expand(self, batch_shape: Sequence[int], _instance: Polar | None = None) -> Polar:
        """Returns the same law with another ``batch_shape``."""
        return Polar(self.radius.expand(batch_shape), self.angle.expand(batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws points, with shape ``sample_shape + batch_shape + (2,)``."""
        r, theta = self.radius.sample(Size(sample_shape)), self.angle.sample(Size(sample_shape))
        return r.unsqueeze(-1) * torch.stack((theta.cos(), theta.sin()), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density in nats, with shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        r = torch.linalg.vector_norm(value, dim=-1).clamp_min(torch.finfo(value.dtype).tiny)
        theta = torch.atan2(value[..., 1], value[..., 0])
        return self.radius.log_prob(r) + self.angle.log_prob(theta) - r.log()


class Board(dist.TorchDistribution):
    r"""The uniform law on the black unit squares of a board :math:`[0, n)^2`, n even.

    .. math:: p(x) = 2 / n^2 \text{ where } \lfloor x_1 \rfloor + \lfloor x_2 \rfloor \text{ is even,}
        \text{ else } 0.

    A point elsewhere in the plane has log-density minus infinity and is no error, so that a model's samples
    may be scored. Samples keep a millionth of a square away from the edges, where rounding could turn black
    into white.

    Args:
        cells: The number :math:`n` of squares along each side.
        corners: The lower corners of the black squares, with shape ``(cells**2 / 2, 2)``.
        batch_shape: The batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (the signature of torch)
    support = constraints.real_vector

    def __init__(self, cells: int, corners: Tensor, batch_shape: Sequence[int] = ()) -> None:
        self.cells, self.corners = cells, corners
        super().__init__(Size(batch_shape), Size((2,)))

    def expand(self, batch_shape: Sequence[int], _instance: Board | None = None) -> Board:
        """Returns the same law with another ``batch_shape``."""
        return Board(self.cells, self.corners, batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws points, with shape ``sample_shape + batch_shape + (2,)``."""
        shape = Size(sample_shape) + self.batch_shape
        square = torch.randint(len(self.corners), shape, device=self.corners.device)
        inside = torch.rand((*shape, 2), dtype=self.corners.dtype, device=self.corners.device)
        margin = max(1e-6, 4 * self.cells * torch.finfo(self.corners.dtype).eps)
        return self.corners[square] + inside.clamp(margin, 1 - margin)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density in nats, with shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        on_board = ((value >= 0) & (value < self.cells)).all(-1)
        black = on_board & (value.floor().sum(-1) % 2 == 0)
        shape = broadcast_shapes(black.shape, self.batch_shape)
        log_density = value.new_full((), math.log(2 / self.cells**2))
        return torch.where(black, log_density, -torch.inf).expand(shape)


def equal_mixture(components: TorchDistributionMixin, device: torch.device | str | None) -> dist.MixtureSameFamily:
    """The equal mixture over the last batch axis of ``components``, which live on ``device``."""
    weights = torch.zeros(components.batch_shape, device=device)
    return dist.MixtureSameFamily(dist.Categorical(logits=weights), components)


class Swirl(Transform):
    r"""The rotation whose angle grows with the radius, :math:`(r, \theta) \mapsto (r, \theta + \omega r)`.

    It moves points along circles only and so preserves area: its log-determinant is 0.

    Args:
        rate: The speed :math:`\omega` in radians per unit of length.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def _call(self, x: Tensor) -> Tensor:
        return _rotate(x, self.rate * torch.linalg.vector_norm(x, dim=-1))

    def _inverse(self, y: Tensor) -> Tensor:
        return _rotate(y, -self.rate * torch.linalg.vector_norm(y, dim=-1))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero, with shape ``x.shape[:-1]``."""
        return torch.zeros_like(x[..., 0])


class Bend(Transform):
    r"""The triangular map :math:`(x_1, x_2) \mapsto (x_1, \; x_2 e^{a x_1} + b x_1^2)`.

    Its Jacobian is triangular, with log-determinant :math:`a x_1`.

    Args:
        growth: The exponent :math:`a`.
        curvature: The curvature :math:`b`.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, growth: float = 0.0, curvature: float = 0.0) -> None:
        super().__init__()
        self.growth, self.curvature = growth, curvature

    def _call(self, x: Tensor) -> Tensor:
        x1, x2 = x.unbind(-1)
        return torch.stack((x1, x2 * (self.growth * x1).exp() + self.curvature * x1**2), -1)

    def _inverse(self, y: Tensor) -> Tensor:
        y1, y2 = y.unbind(-1)
        return torch.stack((y1, (y2 - self.curvature * y1**2) * (-self.growth * y1).exp()), -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-determinant, with shape ``x.shape[:-1]``."""
        return self.growth * x[..., 0]


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotates points with shape ``(..., 2)`` by angles with shape ``(...)``."""
    cos, sin = angle.cos(), angle.sin()
    x1, x2 = x.unbind(-1)
    return torch.stack((x1 * cos - x2 * sin, x1 * sin + x2 * cos), -1)
