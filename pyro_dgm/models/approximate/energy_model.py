r"""Deep energy-based models: any network as the energy, any data of real numbers, samples by Langevin dynamics.

.. math::
    p(x | c) = \frac{1}{Z(c)}\, e^{-f(x, c)}\, p_0(x), \qquad F_\beta(x, c) = \beta f(x, c) - \log p_0(x)

:math:`p_0` is a normal distribution with the mean and deviation of the data, which the network tilts: whatever bounded
function it is, the density can be normalised, and annealing has where to start. A step of Langevin dynamics is

.. math::
    x' = x - \tfrac{1}{2} (\epsilon s)^2\, \nabla F(x) + \epsilon s\, \xi, \qquad \xi \sim N(0, I)

in units of the deviation s of p_0. Unadjusted, it draws from a distribution that is near the model for small
:math:`\epsilon` only: of a normal distribution with deviation :math:`\sigma` it finds the variance
:math:`\sigma^2 / (1 - \epsilon^2 s^2 / 4 \sigma^2)`, too large. With ``metropolis`` the step is a proposal, accepted
with probability

.. math::
    \min\Bigl(1, \frac{e^{-F(x')}\, q(x | x')}{e^{-F(x)}\, q(x' | x)}\Bigr), \qquad
    q(x' | x) = N\bigl(x - \tfrac{1}{2} (\epsilon s)^2 \nabla F(x), (\epsilon s)^2\bigr)

which leaves the model invariant at any step size, and is reversible. (Xie, Lu, Zhu and Wu, A Theory of Generative
ConvNet, 2016, arXiv:1602.03264, for the tilted normal; Du and Mordatch, Implicit Generation and Modeling with
Energy-Based Models, 2019, arXiv:1903.08689, for the replay buffer; Roberts and Tweedie, Exponential convergence of
Langevin distributions and their discrete approximations, 1996; Nijkamp, Hill, Han, Zhu and Wu, On the Anatomy of
MCMC-Based Maximum Likelihood Learning of Energy-Based Models, 2019, arXiv:1903.12370.)
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...nn import Potential, at_least_float32, without_autocast
from ...nn.critics import scores
from .energy_based import EnergyBasedModel, chosen

if TYPE_CHECKING:
    from ...objectives import Objective

REACH, POINTS = 8.0, {1: 2000, 2: 100}  # of the grid: deviations of p_0, points along each axis


class EnergyModel(EnergyBasedModel):
    r"""A deep energy-based model.

    Trained by persistent contrastive divergence with a replay buffer of 1000 chains; with a context by contrastive
    divergence. The most flexible of densities, and the most laborious: training runs a chain at every step. Of one or
    two numbers log Z is exact, by a grid over 8 deviations of p_0 either way, and samples are, but for the width of
    its cells; of more numbers it is an estimate, after ``estimate_log_partition()``, which is right only with
    ``metropolis``.

    Args:
        event_shape: Shape of one x, or a number of features.
        context: Width of the context c, 0 for none.
        hidden_features: Hidden widths of the default network.
        activation: Class of its activation; smooth, since the chain follows its slope.
        network: A module of your own, called as f(x) or f(x, c), from (*, *event_shape) to (*, 1) or (*). It runs in
            full precision also under autocast, since what counts are differences of energies.
        step_size: The step :math:`\epsilon`, in deviations of the data.
        metropolis: Whether steps are accepted or rejected, so that the chain has no bias.
        sweeps: Number of steps behind a sample.

    Attributes:
        loc: Mean of p_0, with the shape of an event; a buffer, that of the data once these are known.
        scale: Deviation of p_0, likewise.

    Raises:
        ValueError: If the step size is not positive.

    Example:
        >>> ebm = EnergyModel(2, hidden_features=(16,))
        >>> ebm().log_prob(torch.zeros(5, 2)).shape, ebm().sample((3,)).shape, ebm().density
        (torch.Size([5]), torch.Size([3, 2]), 'exact')
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context: int = 0,
        hidden_features: Sequence[int] = (128, 128),
        activation: type[nn.Module] = nn.SiLU,
        *,
        network: nn.Module | None = None,
        step_size: float = 0.1,
        metropolis: bool = True,
        sweeps: int = 1000,
    ) -> None:
        size = math.prod([event_shape] if isinstance(event_shape, int) else event_shape)
        super().__init__(event_shape, context, enumerable=size in POINTS, sweeps=sweeps)
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, got {step_size}")
        self.step_size, self.metropolis = step_size, metropolis
        self.network = network or Potential(self.event_shape, hidden_features, context, activation)
        self.register_buffer("loc", torch.zeros(self.event_shape))
        self.register_buffer("scale", torch.ones(self.event_shape))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Gives p_0 the mean and the deviation of the data; a feature that is constant has deviation 1."""
        scale = x.std(0, correction=0)
        self.loc.copy_(x.mean(0))
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))
        self.initialized.fill_(True)

    def energy(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the energy f(x, c) - log p_0(x) in nats."""
        with without_autocast(x):
            f = scores(self.network, self._batch_dim(x, context), x, context)
        dims = [*range(-len(self.event_shape), 0)]
        z = at_least_float32((x - self.loc) / self.scale)
        cold = (0.5 * z.square() + self.scale.log() + 0.5 * math.log(2 * math.pi)).sum(dims)
        return beta * f + cold

    @torch.no_grad()
    def transition(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the states after a step of Langevin dynamics."""
        step, dims = self.step_size * self.scale, [*range(-len(self.event_shape), 0)]
        energy, slope = self._slope(x, context, beta)
        noise = torch.randn_like(x)
        proposal = x - 0.5 * step.square() * slope + step * noise
        if not self.metropolis:
            return proposal
        after, slope = self._slope(proposal, context, beta)
        back = (x - proposal) / step + 0.5 * step * slope
        log_ratio = energy - after + 0.5 * (noise.square().sum(dims) - back.square().sum(dims))
        accept = torch.rand_like(log_ratio).log() < log_ratio
        return torch.where(accept.reshape(accept.shape + (1,) * len(dims)), proposal, x)

    @torch.no_grad()
    def initial(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns draws of p_0."""
        loc = self.loc.expand(*shape, *self.event_shape)
        return loc + self.scale * torch.randn_like(loc)

    def exact_log_partition(self, context: Tensor | None = None) -> Tensor:
        """Returns log Z in nats by a grid, with the batch shape of the context, differentiable.

        Raises:
            ValueError: If x has more than two numbers.
        """
        x, cell = self._grid(context)
        return (-self.energy(x, context)).logsumexp(0) + cell

    @torch.no_grad()
    def exact_sample(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent draws: a cell of the grid, and any place within it.

        Raises:
            ValueError: If x has more than two numbers.
        """
        x, _ = self._grid(context)
        draws = x.reshape(len(x), *self.event_shape)[chosen(-self.energy(x, context), shape)]
        width = 2 * REACH * self.scale / POINTS[self.event_shape.numel()]
        return draws + width * (torch.rand_like(draws) - 0.5)

    def objective(self) -> "Objective":
        """Returns persistent contrastive divergence with a replay buffer; contrastive divergence with a context."""
        from ...objectives import ContrastiveDivergence, PersistentContrastiveDivergence

        if self.context:
            return ContrastiveDivergence(steps=20)
        return PersistentContrastiveDivergence(chains=1000, active=100, steps=20, restart=0.02)

    def _slope(self, x: Tensor, context: Tensor | None, beta: Tensor | float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(x, context, beta)
            (slope,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), slope

    def _grid(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the grid, with shape ``(points,) + (1, ...) + event_shape``, and a cell's log-volume."""
        size = self.event_shape.numel()
        if size not in POINTS:
            raise ValueError(
                f"exact_log_partition: a grid is for at most two numbers, got {size}; use estimate_log_partition"
            )
        n = POINTS[size]
        axis = 2 * REACH * (torch.arange(n, dtype=self.loc.dtype, device=self.loc.device) + 0.5) / n - REACH
        z = torch.cartesian_prod(*[axis] * size).reshape(-1, *self.event_shape)
        batch_dim = 0 if context is None else context.dim() - 1
        x = (self.loc + self.scale * z).reshape(len(z), *(1,) * batch_dim, *self.event_shape)
        return x, self.scale.log().sum() + size * math.log(2 * REACH / n)

    def _batch_dim(self, x: Tensor, context: Tensor | None) -> int:
        own = x.dim() - len(self.event_shape)
        return own if context is None else max(own, context.dim() - 1)
