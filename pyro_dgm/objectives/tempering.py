r"""Parallel tempering: persistent chains at several temperatures, which swap their states.

.. math::
    1 = \beta_1 > \dots > \beta_K = 0, \qquad
    P(x_k \leftrightarrow x_{k+1}) = \min\Bigl(1, \exp\bigl(
        F_{\beta_k}(x_k) + F_{\beta_{k+1}}(x_{k+1}) - F_{\beta_k}(x_{k+1}) - F_{\beta_{k+1}}(x_k)\bigr)\Bigr)

A hot chain crosses barriers between the model's modes, and swaps bring what it found to :math:`\beta = 1`, whose states
are the samples of :mod:`~pyro_dgm.objectives.contrastive_divergence`. At :math:`\beta = 0` every step may be an
independent draw. (Desjardins, Courville, Bengio, Vincent and Delalleau, Tempered Markov Chain Monte Carlo for training
of Restricted Boltzmann Machines, 2010; Cho, Raiko and Ilin, Parallel Tempering is Efficient for Learning Restricted
Boltzmann Machines, 2010.)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import at_least_one
from .contrastive_divergence import Chains, Contrast, Penalty, chain_of, energy_based, refuse_context


class ParallelTempering(Contrast):
    """Contrastive divergence with samples from parallel tempering; costs as much as K persistent chains.

    Args:
        chains: Number of chains at each temperature.
        temperatures: Number K of inverse temperatures, evenly spaced from 1 to 0, or the temperatures themselves,
            falling from 1.
        steps: Number of transitions of every chain at each update, each followed by swaps.
        penalty: See :class:`~pyro_dgm.objectives.Contrast`.

    Raises:
        ValueError: If a number does not fit, the model has no energy, or there is a context.

    Example:
        >>> from pyro_dgm.models import RBM
        >>> loss = ParallelTempering(chains=20, temperatures=5)(RBM(6, 4))
        >>> loss(torch.bernoulli(torch.full((10, 6), 0.5))).shape, loss.chains.states.shape
        (torch.Size([]), torch.Size([5, 20, 6]))
    """

    def __init__(
        self,
        chains: int = 100,
        temperatures: int | Sequence[float] = 10,
        steps: int = 1,
        penalty: Penalty | None = None,
    ) -> None:
        super().__init__(penalty)
        self.num_chains, self.steps = at_least_one("chains", chains), at_least_one("steps", steps)
        if isinstance(temperatures, int):
            temperatures = [1 - k / (temperatures - 1) for k in range(temperatures)] if temperatures > 1 else []
        self.betas = [float(beta) for beta in temperatures]
        falling = all(a > b >= 0 for a, b in zip(self.betas, self.betas[1:], strict=False))
        if len(self.betas) < 2 or self.betas[0] != 1 or not falling:
            raise ValueError(f"temperatures: expected at least 2, falling from 1, got {temperatures}")

    def prepare(self, model: Any) -> None:
        """Starts the chains."""
        self.chains = Chains(chain_of(energy_based(model)), (len(self.betas), self.num_chains))

    def negative(self, model: Any, x: Tensor, context: Tensor | None) -> Tensor:
        """Returns where the chains at temperature 1 arrive."""
        refuse_context(self, context)
        if self.chains is None:  # SVI binds nothing
            self.prepare(model)
        states = self.chains.window(len(self.betas))
        betas = torch.tensor(self.betas, dtype=next(model.parameters()).dtype, device=states.device)
        for _ in range(self.steps):
            states = swap(model, model.transition(states, None, betas[:, None]), betas)
        self.chains.advance(states)
        return states[0]


def swap(model: Any, states: Tensor, betas: Tensor) -> Tensor:
    """Proposes to swap the states of neighbouring temperatures, first, third, ..., then second, fourth, ... pair.

    Args:
        model: The energy-based model.
        states: States, with shape ``(K, n) + event_shape``.
        betas: The K temperatures.
    """
    for first in (0, 1):
        partner = [k + 1 if (k - first) % 2 == 0 else k - 1 for k in range(len(betas))]
        partner = [j if 0 <= j < len(betas) and min(j, k) >= first else k for k, j in enumerate(partner)]
        other = torch.tensor(partner, device=states.device)
        here, there = model.energy(states, None, torch.stack([betas, betas[other]])[..., None])
        gain = here - there
        lower = torch.minimum(other, torch.arange(len(betas), device=states.device))
        u = torch.rand_like(gain)[lower]  # one number for both of a pair
        accept = u.log() < gain + gain[other]
        states = torch.where(accept.reshape(accept.shape + (1,) * (states.dim() - 2)), states[other], states)
    return states
