r"""The general Boltzmann machine: binary units, each connected with every other, some of them hidden.

.. math::
    E(s) = -\tfrac{1}{2} s^\top J s - b^\top s, \qquad J = J^\top, \quad J_{ii} = 0, \qquad
    p(s_i = 1 | s_{-i}) = \sigma\Bigl(b_i + \sum_j J_{ij} s_j\Bigr)

The first D units are the data x, the others, h, are hidden. Without hidden units it is the distribution of maximal
entropy among those with the same means and correlations (in physics, the Ising model's inverse problem). With hidden
units the posterior is approximated by a mean field of independent units with means :math:`\mu`,

.. math::
    \tilde F(x) = \min_\mu E(x, \mu) - \sum_j H(\mu_j), \quad \mu_j \leftarrow \sigma\Bigl(b_j + \sum_i J_{ij} s_i\Bigr)

one unit after the other, each step downhill. Gibbs sampling goes through the units in turn, too, there and back, which
makes a sweep reversible. (Ackley, Hinton and Sejnowski, A Learning Algorithm for Boltzmann Machines, 1985; chains and
mean field as in Salakhutdinov and Hinton, Deep Boltzmann Machines, 2009; fully visible: Hyvaerinen, Consistency of
Pseudolikelihood Estimation of Fully Visible Boltzmann Machines, 2006; a survey of these machines: Osogami, 2017,
arXiv:1708.06004.)
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ....nn import without_autocast
from ..energy_based import MAX_UNITS, EnergyBasedModel, behind, exact_states, log_sum_over_states
from ..latent_energy import LatentEnergyModel
from .layers import entropy, log_odds


class BoltzmannMachine(LatentEnergyModel):
    """A general Boltzmann machine.

    Its density is exact without hidden units, and else the mean-field bound, if there are at most 20 units in all;
    with more of them it is an estimate, after ``estimate_log_partition()``. A sweep takes a step for every unit:
    it suits up to a few hundred of them, while machines in layers (``RBM``, ``DBM``) move whole layers at once.

    Args:
        features: Number D of visible units.
        hidden_features: Number H of hidden units.
        mean_field_steps: Number of passes over the hidden units that find q(h | x).
        sweeps: Number of Gibbs sweeps behind a sample that cannot be exact.

    Attributes:
        joint: The machine of all units, with shape (D + H,): visible units first. It has weights and biases.

    Raises:
        ValueError: If there is no visible unit, or a negative number of hidden ones.

    Example:
        >>> bm = BoltzmannMachine(4, 2)
        >>> x = bm().sample((5,))
        >>> x.shape, bm().log_prob(x).shape, bm.encode(x).shape, bm().density
        (torch.Size([5, 4]), torch.Size([5]), torch.Size([5, 2]), 'lower_bound')
    """

    def __init__(
        self, features: int, hidden_features: int = 0, *, mean_field_steps: int = 10, sweeps: int = 1000
    ) -> None:
        super().__init__(features, 0, constraints.boolean)
        if features < 1 or hidden_features < 0 or mean_field_steps < 1:
            raise ValueError(
                "features, hidden_features, mean_field_steps: expected at least 1, 0 and 1, got "
                f"{features}, {hidden_features} and {mean_field_steps}"
            )
        self.hidden_features, self.mean_field_steps = hidden_features, mean_field_steps
        self.joint = AllUnits(features + hidden_features, sweeps)
        self.exact = hidden_features == 0

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets the visible biases to the log-odds of the data, and has annealing start from those."""
        logits = log_odds(x)
        self.joint.bias[: len(logits)].copy_(logits)
        self.joint.base[: len(logits)].copy_(logits)
        self.joint.initialized.fill_(True)

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the variational free energy in nats, an upper bound on the free energy, at the mean field's q."""
        mean = self.encode(x)
        return self.joint.energy(torch.cat([x, mean], -1)) - entropy(mean)

    def observe(self, s: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the visible units."""
        return s[..., : self.event_shape[0]]

    def infer(self, x: Tensor) -> dist.TorchDistribution:
        """Returns the mean field q(h | x), for x with shape (*, D)."""
        return dist.Bernoulli(self.encode(x)).to_event(1)

    @torch.no_grad()
    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the means of the hidden units under q(h | x), with shape (*, H), for x with shape (*, D)."""
        s = torch.cat([x, torch.full_like(x[..., :1], 0.5).expand(*x.shape[:-1], self.hidden_features)], -1)
        hidden = range(x.shape[-1], s.shape[-1])
        return self.joint.in_turn(s, [*hidden] * self.mean_field_steps, torch.sigmoid)[..., x.shape[-1] :]


class AllUnits(EnergyBasedModel):
    """A fully visible Boltzmann machine.

    Args:
        units: Number of units.
        sweeps: Number of sweeps behind a sample that cannot be exact.

    Attributes:
        weight: Its part below the diagonal is J's; a parameter.
        bias: b; a parameter.
        base: Log-odds of the units at temperature 0; a buffer.
    """

    def __init__(self, units: int, sweeps: int = 1000) -> None:
        super().__init__(units, 0, constraints.boolean, enumerable=units <= MAX_UNITS, sweeps=sweeps)
        self.weight = nn.Parameter(0.01 * torch.randn(units, units))
        self.bias = nn.Parameter(torch.zeros(units))
        self.register_buffer("base", torch.zeros(units))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def couplings(self) -> Tensor:
        """Returns J: symmetric, with a diagonal of zeros."""
        lower = self.weight.tril(-1)
        return lower + lower.mT

    def energy(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns E(s) in nats; for means of independent units in place of s, its expectation."""
        with without_autocast(x):
            pairs = ((x @ self.weight.tril(-1)) * x).sum(-1)
            start = F.softplus(self.base).sum() - x @ self.base
            return (1 - beta) * start - beta * (pairs + x @ self.bias)

    @torch.no_grad()
    def transition(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the units after a Gibbs sweep from the first to the last and back."""
        there = [*range(x.shape[-1])]
        return self.in_turn(x, there + there[-2::-1], lambda a: a.sigmoid().bernoulli(), beta)

    @torch.no_grad()
    def initial(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent units with the log-odds of the base."""
        return self.base.sigmoid().expand(*shape, -1).bernoulli()

    def in_turn(
        self, s: Tensor, order: Iterable[int], choose: Callable[[Tensor], Tensor], beta: Tensor | float = 1.0
    ) -> Tensor:
        """Replaces units one after the other, each given what the others are by then.

        Args:
            s: The units, or their means, with shape (*, units).
            order: Which unit comes when.
            choose: Maps the input of a unit, with shape (*), to its new value.
            beta: The inverse temperature.
        """
        couplings, values, beta = self.couplings(), [*s.unbind(-1)], behind(beta)
        with without_autocast(s):
            inputs = beta * (s @ couplings + self.bias) + (1 - beta) * self.base
        for i in order:
            value = choose(inputs[..., i])
            inputs = inputs + beta * (value - values[i]).unsqueeze(-1) * couplings[i]
            values[i] = value
        return torch.stack(values, -1)

    def exact_log_partition(self, context: Tensor | None = None) -> Tensor:
        """Returns log Z in nats, summed over all states, differentiable."""
        return log_sum_over_states(lambda s: -self.energy(s), self.event_shape[0], self.base)

    @torch.no_grad()
    def exact_sample(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent exact draws."""
        return exact_states(lambda s: -self.energy(s), self.event_shape[0], self.base, shape)
