r"""Contrastive divergence: the likelihood of an energy-based model by samples of it, as good as a chain has them.

.. math::
    -\nabla_\theta \log p(x) = \nabla_\theta F(x) - E_{\tilde x \sim p} \nabla_\theta F(\tilde x), \qquad
    L = \frac{1}{n} \sum_i F(x_i) - \frac{1}{m} \sum_j F(\tilde x_j)

The gradient of L, the samples held fixed, is that of the negative log-likelihood if they come from the model. Its value
says nothing about how good the model is: that is for an estimate of log Z
(:meth:`~pyro_dgm.models.EnergyBasedModel.estimate_log_partition`). What differs is where the chains start:

=========================================== ============================================================================
:class:`ContrastiveDivergence`               at the data, k steps: little variance, and a bias that shrinks with k
:class:`PersistentContrastiveDivergence`     where they were at the last update: right in the limit of a small learning
                                             rate, which has to decay, since the chains follow the model as it moves
:class:`~pyro_dgm.objectives.ParallelTempering`  likewise, helped over barriers by chains at higher temperatures
=========================================== ============================================================================

Where hidden units cannot be summed out, the energy of data is a variational one, an upper bound, and samples are states
of the joint of data and hidden units, with that joint's energy: :mod:`pyro_dgm.models.approximate.latent_energy`.

The direction is the gradient's, so momentum and weight decay are the optimizer's (``partial(SGD, lr=0.05,
momentum=0.9, weight_decay=1e-4)``), and centring is the model's (:class:`~pyro_dgm.models.RBM`). (Hinton, Training
Products of Experts by Minimizing Contrastive Divergence, 2002; Tieleman, Training Restricted Boltzmann Machines using
Approximations to the Likelihood Gradient, 2008; Hinton, A Practical Guide to Training Restricted Boltzmann Machines,
2010.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..models.base import GenerativeModel
from .base import Objective, at_least_one, generative_model

Penalty = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]


class Contrast(Objective):
    """The difference of mean energies of data and samples; subclasses say in ``negative`` where samples come from.

    Args:
        penalty: Maps model, data, samples and contexts to a further term of the loss: :class:`Sparsity`,
            :class:`SquaredEnergy`, or any function.

    Attributes:
        chains: The persistent chains, where there are some.
    """

    measures = False

    def __init__(self, penalty: Penalty | None = None) -> None:
        super().__init__()
        self.penalty = penalty
        self.chains: Chains | None = None

    def start(self, model: Any) -> None:
        """Starts the chains again."""
        if self.chains is not None:
            self.chains.start(chain_of(energy_based(model)))

    def negative(self, model: Any, x: Tensor, context: Tensor | None) -> Tensor:
        """Returns samples of the model, without gradients: as many as there are data, or, without contexts, (m, event).

        Args:
            model: The energy-based model.
            x: The data.
            context: Their contexts.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks negative")

    def loss_of(self, model: Any, guide: Any, x: Tensor, context: Tensor | None = None, **settings: Any) -> Tensor:
        """Returns the mean energy of the data less that of the samples, in nats, and the penalty."""
        owner = energy_based(model)
        with owner._with_weights({}):  # tells SVI of the parameters, as calling the model does
            with torch.no_grad():
                samples = self.negative(chain_of(owner), x, context)
            loss = contrast(owner, x, samples, context)
            return loss if self.penalty is None else loss + self.penalty(owner, x, samples, context)


class ContrastiveDivergence(Contrast):
    """Contrastive divergence, CD-k: chains of k steps from the data.

    How large the bias is depends on how fast the chains mix, and grows with the weights as the model learns. On a
    machine of 4 and 3 units with weights of deviation 3 it is 34 % of the gradient for k = 1, 11 % for 3, 1 % for 10.

    Args:
        steps: Number k of transitions.
        penalty: See :class:`Contrast`.

    Raises:
        ValueError: If there is no step, or the model has no energy.

    Example:
        >>> from pyro_dgm.models import RBM
        >>> loss = ContrastiveDivergence(steps=5)(RBM(6, 4))
        >>> loss(torch.bernoulli(torch.full((10, 6), 0.5))).shape
        torch.Size([])
    """

    def __init__(self, steps: int = 1, penalty: Penalty | None = None) -> None:
        super().__init__(penalty)
        self.steps = at_least_one("steps", steps)

    def negative(self, model: Any, x: Tensor, context: Tensor | None) -> Tensor:
        """Returns where the chains from the data arrive.

        Raises:
            ValueError: If data are no states of the chain, since there are hidden units in it.
        """
        if x.shape[x.dim() - len(model.event_shape) :] != model.event_shape:
            raise ValueError(
                f"x: expected states of the chain, shape (*, {', '.join(map(str, model.event_shape))}), got "
                f"{tuple(x.shape)}, data without hidden units; use PersistentContrastiveDivergence"
            )
        samples = x.detach()
        for _ in range(self.steps):
            samples = model.transition(samples, context)
        return samples


class PersistentContrastiveDivergence(Contrast):
    """Persistent contrastive divergence: chains go on from where the last update left them.

    They are a buffer of the bound objective, so checkpoints carry them, and begin as draws of p_0. With
    ``active`` and ``restart`` it is the replay buffer of Du and Mordatch (Implicit Generation and Modeling with
    Energy-Based Models, 2019, arXiv:1903.08689). In evaluation mode they stay where they are.

    Args:
        chains: Number of chains.
        steps: Number of transitions at each update.
        restart: Probability that a chain is started again from p_0 before an update.
        active: Number of chains that an update moves, in turn; all of them when ``None``.
        penalty: See :class:`Contrast`.

    Raises:
        ValueError: If a number does not fit, the model has no energy, or there is a context, to which a chain of an
            earlier batch does not belong.

    Example:
        >>> from pyro_dgm.models import RBM
        >>> loss = PersistentContrastiveDivergence(chains=20)(RBM(6, 4))
        >>> loss(torch.bernoulli(torch.full((10, 6), 0.5))).shape, loss.chains.states.shape
        (torch.Size([]), torch.Size([20, 6]))
    """

    def __init__(
        self,
        chains: int = 100,
        steps: int = 1,
        restart: float = 0.0,
        active: int | None = None,
        penalty: Penalty | None = None,
    ) -> None:
        super().__init__(penalty)
        self.num_chains, self.steps = at_least_one("chains", chains), at_least_one("steps", steps)
        self.active = self.num_chains if active is None else at_least_one("active", active)
        if self.active > self.num_chains:
            raise ValueError(f"active: expected at most all of the {chains} chains, got {active}")
        if not 0 <= restart < 1:
            raise ValueError(f"restart: expected a probability below 1, got {restart}")
        self.restart = restart

    def prepare(self, model: Any) -> None:
        """Starts the chains."""
        self.chains = Chains(chain_of(energy_based(model)), (self.num_chains,))

    def negative(self, model: Any, x: Tensor, context: Tensor | None) -> Tensor:
        """Returns where the chains arrive that this update moves."""
        refuse_context(self, context)
        if self.chains is None:  # SVI binds nothing
            self.prepare(model)
        states = self.chains.window(self.active)
        if self.restart:
            again = torch.rand(states.shape[:1], device=states.device) < self.restart
            again = again.reshape(again.shape + (1,) * (states.dim() - 1))
            states = torch.where(again, model.initial(states.shape[:1]), states)
        for _ in range(self.steps):
            states = model.transition(states)
        self.chains.advance(states)
        return states


class Chains(nn.Module):
    """The states of persistent chains, begun as draws of p_0, the same ones for any seed.

    Args:
        model: The energy-based model.
        shape: Shape of the set of chains.
    """

    def __init__(self, model: Any, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        states = self._initial(model)
        self.register_buffer("states", states)
        self.register_buffer("position", torch.zeros((), dtype=torch.long, device=states.device))

    @torch.no_grad()
    def _initial(self, model: Any) -> Tensor:
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            return model.initial(self.shape)

    def start(self, model: Any) -> None:
        """Begins the chains again, as draws of the model's p_0."""
        self.states.copy_(self._initial(model))
        self.position.zero_()

    def window(self, size: int) -> Tensor:
        """Returns the states of the next ``size`` chains in turn."""
        return self.states.clone() if size == len(self.states) else self.states.index_select(0, self._index(size))

    def advance(self, states: Tensor) -> None:
        """Puts new states where :meth:`window` took the old ones, and turns to the next chains, while training."""
        if not self.training:
            return
        if len(states) == len(self.states):
            self.states.copy_(states)
            return
        self.states.index_copy_(0, self._index(len(states)), states.to(self.states.dtype))
        self.position.copy_((self.position + len(states)) % len(self.states))

    def _index(self, size: int) -> Tensor:
        return (self.position + torch.arange(size, device=self.position.device)) % len(self.states)


class Sparsity:
    r"""A penalty on hidden units that are on too often, or too seldom.

    .. math:: \lambda \sum_j \mathrm{KL}\bigl(\mathrm{Bernoulli}(q) \,\|\, \mathrm{Bernoulli}(\bar h_j)\bigr), \qquad
        \bar h_j = \tfrac{1}{n} \sum_i E[h_j | x_i]

    (Lee, Ekanadham and Ng, Sparse deep belief net model for visual area V2, 2008; Hinton, 2010.) The model has
    ``hidden_mean(x, context)``, with values between 0 and 1.

    Args:
        target: The wanted mean q.
        weight: The weight lambda, in nats.
    """

    def __init__(self, target: float = 0.1, weight: float = 0.1) -> None:
        if not 0 < target < 1 or not weight >= 0:
            raise ValueError(f"target, weight: expected 0 < target < 1 and weight >= 0, got {target} and {weight}")
        self.target, self.weight = target, weight

    def __call__(self, model: Any, x: Tensor, samples: Tensor, context: Tensor | None) -> Tensor:
        """Returns the penalty of a batch."""
        h = model.hidden_mean(x, context)
        h = h.reshape(-1, h.shape[-1]).mean(0).clamp(1e-6, 1 - 1e-6)
        q = self.target
        entropy = torch.special.entr(h.new_tensor([q, 1 - q])).sum()
        return self.weight * (-q * h.log() - (1 - q) * (-h).log1p() - entropy).sum()


class SquaredEnergy:
    """A penalty on energies far from zero, of data and samples, which keeps those of deep networks bounded.

    Du and Mordatch, 2019, arXiv:1903.08689.

    Args:
        weight: Its weight.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, model: Any, x: Tensor, samples: Tensor, context: Tensor | None) -> Tensor:
        """Returns the penalty of a batch."""
        energies = model.energy(x, context), model.energy(samples, context)
        return self.weight * sum(f.square().mean() for f in energies)


def contrast(model: Any, x: Tensor, samples: Tensor, context: Tensor | None) -> Tensor:
    """Returns the mean energy of data less that of samples, both in one pass where there is no context."""
    chain = chain_of(model)
    if context is not None or chain is not model:
        return model.energy(x, context).mean() - chain.energy(samples, context).mean()
    x, samples = (t.reshape(-1, *model.event_shape) for t in (x, samples))
    data, model_ = model.energy(torch.cat([x, samples])).split([len(x), len(samples)])
    return data.mean() - model_.mean()


def chain_of(model: Any) -> GenerativeModel:
    """Returns the model whose states chains visit: its joint of data and hidden units, where it has one, or itself."""
    return getattr(model, "joint", model)


def energy_based(model: Any) -> GenerativeModel:
    """Returns the energy-based model that the argument is, or whose method it is.

    Raises:
        ValueError: If it has no energy.
    """
    owner = generative_model(model)
    parts = hasattr(owner, "energy"), *(hasattr(chain_of(owner), name) for name in ("transition", "initial"))
    if owner is None or not all(parts):
        raise ValueError(f"model: expected an EnergyBasedModel such as RBM, got {type(owner or model).__name__}")
    return owner


def refuse_context(objective: Objective, context: Tensor | None) -> None:
    """Raises where there is a context.

    Raises:
        ValueError: If there is one.
    """
    if context is not None:
        raise ValueError(
            f"context: chains of {type(objective).__name__} outlive the batch whose context they belong to; use "
            "ContrastiveDivergence(steps=...)"
        )
