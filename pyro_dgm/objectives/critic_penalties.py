r"""Penalties on the slope of a critic, which a game adds to the critic's loss.

.. math::
    \lambda\, E_u\, h(\|\nabla_u D(u)\|_2)

================================ ================================================ =====================
penalty                          points u                                         h(s)
================================ ================================================ =====================
:class:`GradientPenalty`         on segments between data and samples             (s - 1)^2
:class:`GradientPenalty`,        on segments between data and samples             max(0, s - 1)^2
one-sided
:class:`DRAGAN`                  data with noise                                  (s - 1)^2
:class:`R1`                      data                                             s^2 / 2
:class:`R2`                      samples                                          s^2 / 2
================================ ================================================ =====================

The norm is over all that one score depends on: a datum, or a pack of data under :class:`pyro_dgm.nn.Packed`. Points are
constants, gradients flow to the critic alone. A penalty is computed in float32 at least, the critic within it too: near
norm 1, where training holds it, a bfloat16 critic puts the penalty's gradient wrong by a tenth.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn import at_least_float32, leave_autocast, without_autocast

Critic = Callable[[Tensor], Tensor]


class CriticPenalty:
    """A penalty; subclasses say where (``points``) and on what (``cost``).

    Args:
        weight: The weight lambda.
    """

    def __init__(self, weight: float) -> None:
        if not weight >= 0:
            raise ValueError(f"weight: expected at least 0, got {weight}")
        self.weight = weight

    def points(self, real: Tensor, fake: Tensor, event_dim: int) -> Tensor:
        """Returns the points u."""
        raise NotImplementedError(f"{type(self).__name__} lacks points")

    def cost(self, square: Tensor) -> Tensor:
        """Returns h(s), given the square of s."""
        raise NotImplementedError(f"{type(self).__name__} lacks cost")

    def __call__(self, critic: Critic, real: Tensor, fake: Tensor, event_dim: int) -> Tensor:
        """Returns the penalty, a scalar that can be differentiated towards the critic's weights.

        Args:
            critic: Maps (*, *event) to scores: of each, or of packs of neighbours.
            real: Data, with shape batch + event.
            fake: Samples, with the same shape.
            event_dim: Number of event dimensions.
        """
        real, fake = leave_autocast(real.detach()), leave_autocast(fake.detach())
        with torch.enable_grad(), without_autocast(real):
            u = self.points(real, fake, event_dim).requires_grad_()
            scores = critic(u)
            (gradient,) = torch.autograd.grad(scores.sum(), u, create_graph=True)
        pack = u.shape[: u.dim() - event_dim].numel() // scores.numel()
        rows = at_least_float32(gradient).flatten(-event_dim).flatten(0, -2)[: pack * scores.numel()]
        return self.weight * self.cost(rows.reshape(scores.numel(), -1).square().sum(-1)).mean()


def as_tuple(penalty: CriticPenalty | Sequence[CriticPenalty]) -> tuple[CriticPenalty, ...]:
    """Returns a penalty, or several, as a tuple."""
    return (penalty,) if isinstance(penalty, CriticPenalty) else tuple(penalty)


class GradientPenalty(CriticPenalty):
    """The penalty that has the slope be 1 between data and samples, as the best critic of a Wasserstein game has it.

    (Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, Improved Training of Wasserstein GANs, 2017,
    arXiv:1704.00028; one-sided: Petzka, Fischer and Lukovnicov, WGAN-LP, 2017, arXiv:1709.08894.)

    Args:
        weight: The weight lambda.
        target: The slope that is wanted, 1 in the papers.
        one_sided: Whether smaller slopes cost nothing.

    Example:
        >>> x = torch.zeros(5, 2)
        >>> GradientPenalty(10.0)(lambda u: 3 * u[:, 0], x, x + 1, event_dim=1)
        tensor(40.)
    """

    def __init__(self, weight: float = 10.0, target: float = 1.0, one_sided: bool = False) -> None:
        super().__init__(weight)
        self.target, self.one_sided = target, one_sided

    def points(self, real: Tensor, fake: Tensor, event_dim: int) -> Tensor:
        """Points on the segments."""
        t = torch.rand(real.shape[: real.dim() - event_dim], dtype=real.dtype, device=real.device)
        t = t[(...,) + (None,) * event_dim]
        return t * real + (1 - t) * fake

    def cost(self, square: Tensor) -> Tensor:
        """The squared distance from the target."""
        excess = (square + 1e-12).sqrt() - self.target  # the slope of a root at 0 is infinite
        return (F.relu(excess) if self.one_sided else excess).square()


class DRAGAN(CriticPenalty):
    r"""The penalty that has the slope be 1 around data, at :math:`x + \delta`, delta normal.

    (Kodali, Abernethy, Hays and Kira, On Convergence and Stability of GANs, 2017, arXiv:1705.07215.)

    Args:
        weight: The weight lambda.
        scale: The deviation of delta, in units of that of all numbers in the batch.
    """

    def __init__(self, weight: float = 10.0, scale: float = 0.5) -> None:
        super().__init__(weight)
        self.scale = scale

    def points(self, real: Tensor, fake: Tensor, event_dim: int) -> Tensor:
        """Data with noise."""
        return real + self.scale * real.std(correction=0) * torch.randn_like(real)

    def cost(self, square: Tensor) -> Tensor:
        """The squared distance from 1."""
        return ((square + 1e-12).sqrt() - 1).square()


class R1(CriticPenalty):
    """The penalty that has the critic be flat at data (Mescheder, Geiger and Nowozin, 2018, arXiv:1801.04406).

    With it a game of smooth players converges locally, to a critic that is constant on the data.

    Args:
        weight: The weight gamma, 10 in the paper.

    Example:
        >>> x = torch.zeros(5, 2)
        >>> R1(1.0)(lambda u: 3 * u[:, 0], x, x, event_dim=1)
        tensor(4.5000)
    """

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__(weight)

    def points(self, real: Tensor, fake: Tensor, event_dim: int) -> Tensor:
        """The data."""
        return real.clone()

    def cost(self, square: Tensor) -> Tensor:
        """Half the square."""
        return square / 2


class R2(CriticPenalty):
    """The penalty that has the critic be flat at samples (Mescheder, Geiger and Nowozin, 2018, arXiv:1801.04406).

    Args:
        weight: The weight gamma, 10 in the paper.
    """

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__(weight)

    def points(self, real: Tensor, fake: Tensor, event_dim: int) -> Tensor:
        """The samples."""
        return fake.clone()

    def cost(self, square: Tensor) -> Tensor:
        """Half the square."""
        return square / 2
