r"""Chains of an energy-based model: as a kernel of ``pyro.infer.MCMC``, and many at once on the device.

.. math::
    x_{t+1} \sim T(\cdot | x_t), \qquad \sum_x p(x)\, T(x' | x) = p(x')

The transition T is the model's own: for a Boltzmann machine a sweep of block Gibbs sampling, every layer drawn as a
whole. Pyro runs one chain in a process; :func:`run_chains` moves thousands in one pass, which is how samples of a
model in ``R-hat`` and effective sample sizes, or averages over a model, are best made. (Geman and Geman, Stochastic
relaxation, Gibbs distributions, and the Bayesian restoration of images, 1984.)
"""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from ..distributions import MarkovChain
from .anneal import anneal
from .partition import EnergyPath, energy_schedule


class BlockGibbs(MCMCKernel):
    """The transition of an energy-based model as a kernel of ``pyro.infer.MCMC``, its site ``"x"``.

    Args:
        model: The model, with ``initial`` and ``transition``.
        context: A context, with shape ``shape + (context,)``.
        shape: Shape of a set of chains that are moved at once, and all handed out as one draw.
        thin: Number of transitions between two draws.

    Raises:
        ValueError: If ``thin`` is below 1.

    Example:
        >>> from pyro.infer import MCMC
        >>> from pyro_dgm.models import RBM
        >>> mcmc = MCMC(BlockGibbs(RBM(6, 4)), num_samples=10, warmup_steps=5, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10, 6])
    """

    def __init__(self, model: Any, context: Tensor | None = None, shape: Sequence[int] = (), thin: int = 1) -> None:
        if thin < 1:
            raise ValueError(f"thin: expected at least 1, got {thin}")
        super().__init__()
        self.energy_model, self.context, self.shape, self.thin = model, context, tuple(shape), thin
        self.transforms: dict[str, Any] = {}
        self._initial: dict[str, Tensor] | None = None

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Where the chains start: draws of p_0 unless set."""
        return self._initial or {"x": self.energy_model.initial(self.shape, self.context)}

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial = params

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the next states."""
        x = params["x"]
        for _ in range(self.thin):
            x = self.energy_model.transition(x, self.context)
        return {"x": x}


class AnnealedImportance(MCMCKernel):
    """Annealed importance sampling as a kernel: independent draws ``"x"`` with their ``"log_weight"``, in nats.

    The mean of the weights estimates Z, and their weighted averages those over the model, without a bias from burn-in.
    It has nothing to warm up: ``warmup_steps=0``.

    Args:
        model: The model, with ``energy``, ``initial`` and ``transition``.
        num_temperatures: Number of steps of each draw.
        context: One context, with shape (context,).
        num_chains: Number of draws that are made at once and handed out as one; 0 for a single one.

    Example:
        >>> from pyro.infer import MCMC
        >>> from pyro_dgm.models import RBM
        >>> mcmc = MCMC(AnnealedImportance(RBM(6, 4), 50), num_samples=10, warmup_steps=0, disable_progbar=True)
        >>> mcmc.run()
        >>> {name: tuple(t.shape) for name, t in mcmc.get_samples().items()}
        {'log_weight': (10,), 'x': (10, 6)}
    """

    def __init__(
        self, model: Any, num_temperatures: int = 1000, context: Tensor | None = None, num_chains: int = 0
    ) -> None:
        super().__init__()
        self.path = EnergyPath(model, context)
        self.betas = energy_schedule(num_temperatures, next(model.parameters()))
        self.shape = (num_chains,) if num_chains else ()
        self.transforms: dict[str, Any] = {}

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """A first draw, which no later one depends on."""
        return self.sample({})

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        raise ValueError("initial_params: draws of annealed importance sampling start from the model's p_0")

    @torch.no_grad()
    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the next draw and its log-weight."""
        start = self.path.model.initial(self.shape, self.path.context)
        x, log_w = anneal(start, self.path, self.path.transition, self.betas)
        return {"log_weight": log_w, "x": x}


def run_chains(
    model: Any,
    num_samples: int,
    num_chains: int = 100,
    warmup_steps: int = 100,
    thin: int = 1,
    *,
    context: Tensor | None = None,
    initial: Tensor | None = None,
) -> Tensor:
    """Returns the states that chains of an energy-based model visit, all chains moved at once.

    Args:
        model: The model, with ``initial`` and ``transition``.
        num_samples: Number of states of each chain.
        num_chains: Number of chains.
        warmup_steps: Number of transitions before the first.
        thin: Number of transitions between two.
        context: Contexts, with shape (context,) or (num_chains, context).
        initial: Where the chains start, with shape ``(num_chains,) + event_shape``; draws of p_0 when ``None``.

    Returns:
        The states, with shape ``(num_samples, num_chains) + event_shape``.

    Raises:
        ValueError: If a number does not fit.

    Example:
        >>> from pyro_dgm.models import RBM
        >>> run_chains(RBM(6, 4), num_samples=10, num_chains=3).shape
        torch.Size([10, 3, 6])
    """
    if num_samples < 1 or num_chains < 1 or thin < 1 or warmup_steps < 0:
        raise ValueError(
            "num_samples, num_chains, thin: expected at least 1, and warmup_steps at least 0, got "
            f"{num_samples}, {num_chains}, {thin} and {warmup_steps}"
        )
    chain = MarkovChain(
        lambda shape: model.initial(shape, context) if initial is None else initial,
        lambda x: model.transition(x, context),
        model.event_shape,
        burn_in=warmup_steps + thin,
        thinning=thin,
    )
    return chain.run(num_samples, num_chains).transpose(0, 1)
