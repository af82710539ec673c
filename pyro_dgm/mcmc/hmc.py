r"""Hamiltonian Monte Carlo along a path of densities: many chains at once, a step size for each datum.

With momentum :math:`v \sim N(0, I)`, L leapfrog steps of size :math:`\epsilon` of

.. math::
    \dot z = v, \qquad \dot v = \nabla_z \log f_\beta(z)

lead to (z', v'), accepted with probability :math:`\min(1, e^{H(z, v) - H(z', v')})`, :math:`H = -\log f_\beta(z) +
|v|^2 / 2`. That leaves :math:`f_\beta` invariant, and is reversible, for any step size that does not depend on z.
(Neal, MCMC using Hamiltonian dynamics, 2011, arXiv:1206.1901.)

A good step size accepts about 65 % of proposals, and differs between data and temperatures. :meth:`HMC.tune` finds it
in a pilot run, whose states are thrown away: :math:`\log \epsilon` rises by :math:`r (a - 0.65)` where the share a
of the chains accepts. What comes after keeps the step sizes found, so that importance weights stay unbiased; adapting
within the run itself would trade that for half the time. (Wu, Burda, Salakhutdinov and Grosse, On the quantitative
analysis of decoder-based generative models, 2017, arXiv:1611.04273.)
"""

import torch
from torch import Tensor

from .anneal import Path


class HMC:
    """A transition of Hamiltonian Monte Carlo, at any temperature of a path.

    States have shape ``(chains,) + batch_shape + event_shape``, and the path's log-densities ``(chains,) +
    batch_shape``; all are moved at once, each accepted by itself.

    Args:
        path: The densities; their gradients are those of autograd.
        step_size: The step size, or the first one of :meth:`tune`.
        leapfrog_steps: Number L of gradients per transition.
        jitter: Relative width of a random factor of the step size, without which trajectories could be periodic.

    Attributes:
        acceptance: Mean probability of acceptance at the latest transition, with shape ``batch_shape``.
    """

    def __init__(self, path: Path, step_size: float = 0.1, leapfrog_steps: int = 10, jitter: float = 0.1) -> None:
        if leapfrog_steps < 1:
            raise ValueError(f"leapfrog_steps: expected at least 1, got {leapfrog_steps}")
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, got {step_size}")
        self.path, self.step_size, self.leapfrog_steps, self.jitter = path, step_size, leapfrog_steps, jitter
        self.acceptance: Tensor | None = None
        self._betas: Tensor | None = None
        self._step_sizes: Tensor | None = None

    def tune(self, z: Tensor, betas: Tensor, warmup: int = 30, target: float = 0.65, rate: float = 0.25) -> Tensor:
        """Finds step sizes in a pilot run along the path; returns its last states, which may not be used further.

        Args:
            z: States at the first temperature.
            betas: Temperatures of the pilot, rising, with shape (T,); a transition takes the step size of the first
                one of them that is not below its own.
            warmup: Number of transitions before, at the first of them.
            target: Wanted probability of acceptance.
            rate: Number r, by how much the logarithm of a step size follows the acceptance.
        """
        log_step, found = None, []
        for beta in [*[betas[0]] * warmup, *betas]:
            step = self.step_size if log_step is None else log_step.exp()
            z = self._move(z, beta, step)
            if log_step is None:
                log_step = torch.full_like(self.acceptance, self.step_size).log()
            log_step = log_step + rate * (self.acceptance - target)
            found.append(log_step)
        self._betas, self._step_sizes = betas.contiguous(), torch.stack(found[warmup:]).exp()
        return z

    def __call__(self, z: Tensor, beta: Tensor) -> Tensor:
        """Returns the next states at a temperature."""
        if self._step_sizes is None:
            return self._move(z, beta, self.step_size)
        index = torch.searchsorted(self._betas, beta).clamp(max=len(self._betas) - 1)
        return self._move(z, beta, self._step_sizes.index_select(0, index.reshape(1))[0])

    @torch.no_grad()
    def _move(self, z: Tensor, beta: Tensor, step_size: Tensor | float) -> Tensor:
        log_f, slope = self._gradient(z, beta)
        event_dim = z.dim() - log_f.dim()
        step = step_size * (1 + self.jitter * (2 * torch.rand_like(log_f) - 1))
        step = step.reshape(step.shape + (1,) * event_dim)
        v = torch.randn_like(z)
        energy = _half_square(v, event_dim) - log_f
        place, v = z, v + 0.5 * step * slope
        for i in range(self.leapfrog_steps):
            place = place + step * v
            log_f, slope = self._gradient(place, beta)
            v = v + (step if i + 1 < self.leapfrog_steps else 0.5 * step) * slope
        accept = (energy - _half_square(v, event_dim) + log_f).clamp(max=0).exp().nan_to_num(0.0)
        self.acceptance = accept.mean(0)
        taken = torch.rand_like(accept) < accept
        return torch.where(taken.reshape(taken.shape + (1,) * event_dim), place, z)

    def _gradient(self, z: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_f = self.path(z, beta)
            (slope,) = torch.autograd.grad(log_f.sum(), z)
        return log_f.detach(), slope


def _half_square(v: Tensor, event_dim: int) -> Tensor:
    return 0.5 * v.square().sum(list(range(-event_dim, 0))) if event_dim else 0.5 * v.square()
