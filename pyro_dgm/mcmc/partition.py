r"""The partition function of an energy-based model by annealed importance sampling, from below and from above.

.. math::
    \hat Z = \frac{1}{K} \sum_k w_k, \quad E\, \hat Z = Z, \qquad
    E \log w \le \log Z \le -E \log \check w

Chains start at exact draws of p_0, which for a Boltzmann machine are the base rates of the data, and walk to the model
through temperatures that lie closer and closer towards the end,

.. math:: \beta_t = 1 - (1 - t / T)^3

where energies change most. Reverse chains, with weights :math:`\check w`, walk back from draws of the model, exact
where states can be enumerated; else the draws are where forward chains stand after many more transitions, and
the bound from above holds as far as those have converged. An estimate is trusted where both bounds meet, and its
standard error is right only then: too few temperatures show as a gap, not as an error. (Salakhutdinov and
Murray, On the Quantitative Analysis of Deep Belief Networks, 2008; Neal, 2001, arXiv:physics/9803008; Grosse,
Ghahramani and Adams, 2015, arXiv:1511.02543.)
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .anneal import anneal
from .weights import Weights


class LogPartition(NamedTuple):
    """An estimate of log Z, in nats.

    Attributes:
        value: The logarithm of the mean weight.
        standard_error: Its standard error, by the spread of the weights.
        effective_sample_size: The number of equal weights that would tell as much, at most that of the chains.
        lower: The mean of the forward chains' log-weights, at most log Z in expectation.
        upper: The negative mean of the reverse chains' log-weights, at least log Z in expectation if the draws they
            start from are the model's; ``None`` if they were not run.
    """

    value: float
    standard_error: float
    effective_sample_size: float
    lower: float
    upper: float | None


class EnergyPath:
    """The path of densities of an energy-based model, as :func:`~pyro_dgm.mcmc.anneal` walks it.

    Args:
        model: The model, with ``energy`` and ``transition``.
        context: One context, or one for each chain.
    """

    def __init__(self, model: Any, context: Tensor | None = None) -> None:
        self.model, self.context = model, context

    def __call__(self, z: Tensor, beta: Tensor) -> Tensor:
        """Returns the unnormalised log-density of states at a temperature, in nats."""
        return -self.model.energy(z, self.context, beta)

    def log_ratio(self, z: Tensor, previous: Tensor, beta: Tensor) -> Tensor:
        """Returns the log-density at one temperature less that at another, from one pass over the states."""
        betas = torch.stack([previous, beta]).reshape(2, *(1,) * (z.dim() - len(self.model.event_shape)))
        before, after = self.model.energy(z, self.context, betas)
        return before - after

    def transition(self, z: Tensor, beta: Tensor) -> Tensor:
        """Returns the next states at a temperature."""
        return self.model.transition(z, self.context, beta)


def energy_schedule(steps: int, like: Tensor, power: float = 3.0) -> Tensor:
    r"""Returns the temperatures :math:`1 - (1 - t / T)^p` from 0 to 1, closer and closer.

    Args:
        steps: Number T of steps.
        like: A tensor whose dtype and device the T + 1 temperatures have.
        power: The power p; at 1 they are even.

    Example:
        >>> energy_schedule(4, torch.zeros(()))
        tensor([0.0000, 0.5781, 0.8750, 0.9844, 1.0000])
    """
    if steps < 1:
        raise ValueError(f"num_temperatures: expected at least 1, got {steps}")
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=like.device)
    return (1 - t**power).to(like.dtype)


@torch.no_grad()
def estimate_log_partition(
    model: Any,
    num_chains: int = 100,
    num_temperatures: int = 10_000,
    context: Tensor | None = None,
    *,
    betas: Tensor | None = None,
    reverse: bool = True,
    draws: Tensor | None = None,
    sweeps: int = 1000,
) -> LogPartition:
    """Estimates log Z of an energy-based model.

    Args:
        model: The model, with ``energy``, ``transition`` and ``initial``.
        num_chains: Number K of chains, in either direction, all moved at once.
        num_temperatures: Number T of steps.
        context: One context, with shape (context,).
        betas: Temperatures of your own, from 0 to 1, with shape (T + 1,).
        reverse: Whether to run chains back, for the bound from above, which takes as long again.
        draws: Exact draws of the model for them to start from, with shape ``(K,) + event_shape``.
        sweeps: Transitions that the forward chains make to become such draws, where there are none.

    Raises:
        ValueError: If a number does not fit.

    Example:
        >>> from pyro_dgm.models import RBM
        >>> rbm = RBM(6, 4)
        >>> found = estimate_log_partition(rbm, 100, 200)
        >>> abs(found.value - rbm.exact_log_partition().item()) < 5 * found.standard_error + 1e-4
        True
    """
    if num_chains < 2:
        raise ValueError(f"num_chains: expected at least 2, which an error takes, got {num_chains}")
    path = EnergyPath(model, context)
    start = model.initial((num_chains,), context)
    if betas is None:
        betas = energy_schedule(num_temperatures, next(model.parameters()))
    last, log_w = anneal(start, path, path.transition, betas)
    weights = Weights().add(log_w)
    upper = None
    if reverse:
        if draws is None and model.enumerable:
            draws = model.exact_sample((num_chains,), context)
        elif draws is None:
            draws = last
            for _ in range(sweeps):
                draws = path.transition(draws, betas[-1])
        upper = -anneal(draws, path, path.transition, betas.flip(0))[1].double().mean().item()
    numbers = weights.log_mean, weights.error, weights.effective_size, log_w.double().mean()
    return LogPartition(*(n.item() for n in numbers), upper)
