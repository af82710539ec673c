r"""Annealed importance sampling: from a distribution that can be sampled, step by step, to one that cannot.

A path of unnormalised densities :math:`f_\beta`, :math:`0 \le \beta \le 1`, starts at a normalised :math:`f_0` and
ends at the target, whose normaliser :math:`Z = \int f_1` is wanted. With temperatures :math:`0 = \beta_0 < \dots <
\beta_T = 1`, and transitions that leave the normalised :math:`f_{\beta_t}` invariant,

.. math::
    z_0 \sim f_0, \qquad z_t \sim T_{\beta_t}(\cdot | z_{t-1}), \qquad
    \log w = \sum_{t=1}^T \log f_{\beta_t}(z_{t-1}) - \log f_{\beta_{t-1}}(z_{t-1}), \qquad E\, w = Z

for any number of temperatures and transitions of any quality; what they decide is the variance of w. By Jensen's
inequality :math:`E \log w \le \log Z`. (Neal, Annealed importance sampling, 2001, arXiv:physics/9803008.)

Run backwards, from an exact draw of the target, with reversible transitions, the same sum has :math:`E\, w = 1 / Z`, so
that :math:`-E \log w \ge \log Z`: an upper bound, which together with the lower one says how far either can be off.
(Grosse, Ghahramani and Adams, Sandwiching the marginal likelihood using bidirectional Monte Carlo, 2015,
arXiv:1511.02543.)

Nothing here knows what z is: a latent variable under Hamiltonian dynamics, or the units of a Boltzmann machine under
Gibbs sampling, whose path is one of its own.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Transition = Callable[[Any, Tensor], Any]


class Path(Protocol):
    """Unnormalised densities from one that can be sampled (beta = 0) to the target (beta = 1)."""

    def __call__(self, z: Any, beta: Tensor) -> Tensor:
        """Returns the log-density of states at a temperature, in nats, with shape ``batch_shape``."""

    def log_ratio(self, z: Any, previous: Tensor, beta: Tensor) -> Tensor:
        """Returns the log-density at one temperature less that at another, with shape ``batch_shape``."""


class Geometric:
    r"""The path :math:`f_\beta = f_0^{1 - \beta} f_1^\beta`.

    Args:
        initial: Maps states to :math:`\log f_0`.
        target: Maps states to :math:`\log f_1`.
    """

    def __init__(self, initial: Callable[[Any], Tensor], target: Callable[[Any], Tensor]) -> None:
        self.initial, self.target = initial, target

    def __call__(self, z: Any, beta: Tensor) -> Tensor:
        """Returns the log-density of states at a temperature, in nats."""
        return (1 - beta) * self.initial(z) + beta * self.target(z)

    def log_ratio(self, z: Any, previous: Tensor, beta: Tensor) -> Tensor:
        """Returns the log-density at one temperature less that at another, in one evaluation."""
        return (beta - previous) * (self.target(z) - self.initial(z))


def anneal(z: Any, path: Path, transition: Transition, betas: Tensor) -> tuple[Any, Tensor]:
    """Carries states along a path, from the first temperature to the last, and weighs them.

    Args:
        z: Exact draws at the first temperature, of any number of chains: a tensor, or whatever path and transition
            understand.
        path: The unnormalised densities.
        transition: Maps z and a temperature to the next z; it leaves the density at that temperature invariant, and is
            reversible if the path is walked backwards.
        betas: The temperatures, with shape (T + 1,): from 0 to 1, or from 1 to 0 for a reverse chain.

    Returns:
        The last states, near the last density, and the log-weights, in nats, with shape ``batch_shape``; the
        expectation of their exponentials is the ratio of the last normaliser to the first.

    Raises:
        ValueError: If there are fewer than two temperatures.

    Example:
        >>> from pyro_dgm.mcmc import HMC
        >>> path = Geometric(lambda z: -z.square().sum(-1) / 2, lambda z: -2 * z.square().sum(-1))
        >>> _, log_w = anneal(torch.randn(100, 1), path, HMC(path, 0.5), torch.linspace(0, 1, 50))
        >>> abs(log_w.exp().mean().item() - 0.5) < 0.1
        True
    """
    if betas.dim() != 1 or len(betas) < 2:
        raise ValueError(f"betas: expected at least two temperatures, shape (T + 1,), got {tuple(betas.shape)}")
    previous, *others = betas.unbind()
    log_w: Any = 0.0
    for beta in others:
        log_w = log_w + path.log_ratio(z, previous, beta)
        z, previous = transition(z, beta), beta
    return z, log_w


def sigmoid_schedule(steps: int, like: Tensor, steepness: float = 4.0) -> Tensor:
    r"""Returns temperatures from 0 to 1 that lie closer at both ends, where a path from prior to posterior bends most.

    .. math:: \tilde\beta_t = \sigma\bigl(\delta (2 t / T - 1)\bigr), \qquad
        \beta_t = (\tilde\beta_t - \tilde\beta_0) / (\tilde\beta_T - \tilde\beta_0)

    (Grosse, Ghahramani and Adams, 2015.)

    Args:
        steps: Number T of steps.
        like: A tensor whose dtype and device the T + 1 temperatures have.
        steepness: The number delta; near 0 they are even.

    Example:
        >>> sigmoid_schedule(4, torch.zeros(()))
        tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000])
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    t = torch.linspace(-steepness, steepness, steps + 1, dtype=torch.float64, device=like.device).sigmoid()
    return ((t - t[0]) / (t[-1] - t[0])).to(like.dtype)
