r"""Schedules of a weight: modules that, called, return it, and count a step while training.

.. math::
    \beta_t = \min(1, t / T) \quad \text{(warm-up)}, \qquad
    \beta_t = \min(1, \tau_t / R), \quad
    \tau_t = \frac{(t - 1) \bmod \lceil T / M \rceil}{T / M} \quad \text{(M cycles)}

With the divergence weighed little at first, a decoder learns to use its latents before it has to pay for them; restarts
let it begin again from better ones. The step is a buffer, so that replayed graphs count it and checkpoints carry it. In
evaluation mode a weight is its final one. (Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio, 2015,
arXiv:1511.06349; Fu, Li, Liu, Gao, Celikyilmaz and Carin, Cyclical Annealing Schedule, 2019, arXiv:1903.10145.)
"""

import math

import torch
from torch import Tensor, nn


class Counted(nn.Module):
    """What counts training steps, in a buffer; ``fit(accumulate=...)`` has the parts of a batch count as one."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros(()))


class LinearWarmup(Counted):
    r"""A weight that rises linearly from 1/steps to ``final`` over the first training steps; ``final`` in evaluation.

    Args:
        steps: Number of training steps of the rise.
        final: The weight after it.
    """

    def __init__(self, steps: int, final: float = 1.0) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        self.steps, self.final = steps, final

    def forward(self) -> Tensor | float:
        """Returns the weight, and counts a step while training."""
        if not self.training:
            return self.final
        self.step += 1
        return self.final * (self.step / self.steps).clamp(max=1.0)


class CyclicalAnnealing(Counted):
    r"""A weight that rises from 0 to ``final`` several times over, and stays there; ``final`` in evaluation.

    Args:
        steps: Number T of training steps of all cycles together.
        cycles: Number M of cycles.
        ramp: The share R of a cycle in which the weight rises.
        final: The weight at the end of each.

    Example:
        >>> beta = CyclicalAnnealing(steps=8, cycles=2, ramp=0.5)
        >>> [round(float(beta()), 2) for _ in range(10)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, steps: int, cycles: int = 4, ramp: float = 0.5, final: float = 1.0) -> None:
        super().__init__()
        if not 1 <= cycles <= steps:
            raise ValueError(f"steps, cycles: expected at least one step per cycle, got {steps} and {cycles}")
        if not 0 < ramp <= 1:
            raise ValueError(f"ramp: expected a share of a cycle in (0, 1], got {ramp}")
        self.steps, self.cycles, self.ramp, self.final = steps, cycles, ramp, final

    def forward(self) -> Tensor | float:
        """Returns the weight, and counts a step while training."""
        if not self.training:
            return self.final
        tau = self.step.remainder(math.ceil(self.steps / self.cycles)) / (self.steps / self.cycles)
        weight = torch.where(self.step < self.steps, (tau / self.ramp).clamp(max=1.0), 1.0)
        self.step += 1
        return self.final * weight
