r"""Annealed importance sampling of the likelihood of a latent variable model, and its reverse.

.. math::
    f_0(z) = p(z) \text{ or } q(z | x), \qquad f_1(z) = p(x | z)\, p(z), \qquad Z = \int f_1(z)\, dz = p(x)

Chains of Hamiltonian Monte Carlo carry z from the prior (or from the approximate posterior, which is faster where it
is good, and can be trapped where it is not) to the posterior; see :mod:`pyro_dgm.mcmc.anneal` for the weights. A
reverse chain starts from an exact draw of the posterior, which there is for simulated data alone: of (z, x) drawn from
the model, z is one. (Wu, Burda, Salakhutdinov and Grosse, On the quantitative analysis of decoder-based generative
models, 2017, arXiv:1611.04273.)
"""

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..distributions import Marginal
from ..distributions.marginal import log_probs
from ..nn import at_least_float32
from .anneal import Geometric, anneal, sigmoid_schedule
from .hmc import HMC

PILOT = 50  # temperatures of the pilot run that finds the step sizes

Initial = Literal["prior", "posterior"]


class PosteriorAnnealing:
    """Annealing between prior or proposal and the posterior, in either direction, its step sizes found by a pilot run.

    Args:
        p: The distribution of a model with continuous, unconstrained latents, made under
            ``pyro.validation_enabled(False)``: a trajectory may diverge, and is then rejected.
        x: Data, with shape ``(n,) + event_shape``.
        num_chains: Number of chains per datum.
        num_temperatures: Number T of steps along the path.
        leapfrog_steps: Gradients per step.
        initial: The other end of the path: the ``"prior"``, or the ``"posterior"`` q(z | x).

    Attributes:
        path: The densities.
        betas: The T + 1 temperatures.
        transition: Hamiltonian Monte Carlo.

    Raises:
        ValueError: If latents are discrete, constrained, or several, or numbers do not fit.
    """

    @torch.no_grad()
    def __init__(
        self,
        p: Marginal,
        x: Tensor,
        num_chains: int = 16,
        num_temperatures: int = 500,
        leapfrog_steps: int = 10,
        initial: Initial = "prior",
    ) -> None:
        if num_chains < 1:
            raise ValueError(f"num_chains: expected at least 1, got {num_chains}")
        if initial not in ("prior", "posterior"):
            raise ValueError(f"initial: expected 'prior' or 'posterior', got {initial!r}")
        q = p.proposal(x)
        self.initial, self.num_chains = p.prior.expand(q.batch_shape) if initial == "prior" else q, num_chains

        def joint(z: Tensor) -> Tensor:
            return _log_prob(p.prior, z) + at_least_float32(p.likelihood(z).log_prob(x))

        self.path = Geometric(lambda z: _log_prob(self.initial, z), joint)
        z = self._start()
        self.betas = sigmoid_schedule(num_temperatures, z)
        self.transition = HMC(self.path, step_size=0.5, leapfrog_steps=leapfrog_steps)
        every = max(1, num_temperatures // PILOT)
        self.transition.tune(z, self.betas[1:].flip(0)[::every].flip(0))

    @torch.no_grad()
    def forward(self) -> tuple[Tensor, Tensor]:
        """Anneals from prior or proposal to the posterior.

        Returns:
            Draws from near the posterior, with shape ``(num_chains, n) + latent shape``, and log-weights in nats, whose
            exponentials have p(x) as expectation, with shape (num_chains, n).
        """
        return anneal(self._start(), self.path, self.transition, self.betas)

    @torch.no_grad()
    def backward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Anneals from exact draws of the posterior to prior or proposal.

        Args:
            z: The latents, with shape ``(n,) + latent shape``, that the data were drawn from; all chains of a datum
                start there.

        Returns:
            The last states, and log-weights in nats whose exponentials have 1 / p(x) as expectation.
        """
        # A transition at the posterior leaves them exact, and sets the chains apart
        exact = self.transition(z.expand(self.num_chains, *z.shape), self.betas[-1])
        return anneal(exact, self.path, self.transition, self.betas.flip(0))

    def _start(self) -> Tensor:
        z = self.initial.sample((self.num_chains,))
        if not isinstance(z, Tensor) or not _unconstrained(self.initial.support):
            raise ValueError(
                "model: Hamiltonian dynamics needs one latent without constraints (support real), got "
                f"{self.initial.support if isinstance(z, Tensor) else type(z).__name__}; use importance_weighted"
            )
        return z


def _log_prob(p: Distribution, z: Tensor) -> Tensor:
    return at_least_float32(sum(log_probs(p, z).values()))


def _unconstrained(support: constraints.Constraint) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector)
