r"""Machines between layers of binary units: the halves of a deep Boltzmann machine, and what its layers are trained as.

:class:`EvenLayers` is the deep Boltzmann machine (:mod:`~pyro_dgm.models.approximate.boltzmann.dbm`) on its even
layers, at any inverse temperature,

.. math::
    F_\beta(s) = -\sum_{l\,\mathrm{even}} b_{l,\beta}^\top h_l
    - \sum_{l\,\mathrm{odd}} \sum_j \bigl(\log(1 + e^{\beta a_{lj}}) - \beta \mu_{lj} (a_{lj} - b_{lj})\bigr)
    + (1 - \beta) \log Z_A, \qquad b_{l,\beta} = (1 - \beta) b^A_l + \beta b_l

from independent units with log-odds :math:`b^A` to the machine. (Salakhutdinov and Murray, On the Quantitative
Analysis of Deep Belief Networks, 2008.)

:class:`CopiedRBM` has m copies of its visible layer and n of its hidden layer, all with the same weights: with
:math:`a = c + \sum_k W^\top (v_k - \mu)` and offsets :math:`\mu, \lambda`,

.. math::
    F(v_1, \dots, v_m) = -b^\top \sum_k v_k - n \sum_j \bigl(\log(1 + e^{a_j}) - \lambda_j (a_j - c_j)\bigr)

so that a layer learns to work with a neighbour on either side while it has one.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ....nn import without_autocast
from ..energy_based import MAX_UNITS, EnergyBasedModel, behind, exact_states, log_sum_over_states


class EvenLayers(EnergyBasedModel):
    """A deep Boltzmann machine on its even layers, the odd ones summed out.

    Args:
        sizes: Numbers of units of h_0, ..., h_L.
        centred: Whether the offsets are means of the units, 1/2 for the hidden ones; else they are zero.
        sweeps: Number of sweeps behind a sample that cannot be exact.

    Attributes:
        weights: W_1, ..., W_L, with W_l of shape (units of h_{l-1}, units of h_l).
        biases: b_0, ..., b_L.
        base: Log-odds of the even units at temperature 0, where the odd ones are fair coins; a buffer.

    Raises:
        ValueError: If there is no hidden layer, or a layer without units.
    """

    def __init__(self, sizes: Sequence[int], centred: bool = True, sweeps: int = 1000) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"hidden_features: expected a layer at least, with units each, got {list(sizes)} in all")
        even, odd = sum(sizes[::2]), sum(sizes[1::2])
        super().__init__(even, 0, constraints.boolean, enumerable=min(even, odd) <= MAX_UNITS, sweeps=sweeps)
        self.sizes, self.units = list(sizes), (even, odd)
        self.weights = nn.ParameterList([0.01 * torch.randn(n, m) for n, m in pairwise(sizes)])
        self.biases = nn.ParameterList([torch.zeros(n) for n in sizes])
        for name, units in (("even_offset", even), ("odd_offset", odd)):
            self.register_buffer(name, torch.full((units,), 0.5 if centred else 0.0))
        self.register_buffer("base", torch.zeros(even))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def energy(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns F(s) in nats; where means of independent units stand for s, what replaces their expected energy."""
        return self._summed_out(x, 0, beta)

    @torch.no_grad()
    def transition(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the even layers after a sweep: the odd ones are drawn given them, then they given those."""
        odd = self.inputs(x, 0, beta).sigmoid().bernoulli()
        return self.inputs(odd, 1, beta).sigmoid().bernoulli()

    @torch.no_grad()
    def initial(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent units with the log-odds of the base."""
        return self.base.sigmoid().expand(*shape, -1).bernoulli()

    def inputs(self, half: Tensor, parity: int, beta: Tensor | float = 1.0) -> Tensor:
        """Returns what reaches the units of one half of the layers, their biases included, from the other.

        Args:
            half: The layers of a parity, concatenated, with shape (*, units); binary units or their means.
            parity: 0 if they are the even ones, 1 if they are the odd ones.
            beta: The inverse temperature.
        """
        return behind(beta) * self._received(half, parity) + self._bias(1 - parity, behind(beta))

    def _received(self, half: Tensor, parity: int) -> Tensor:
        layers = range(len(self.sizes))
        moved = half - (self.odd_offset if parity else self.even_offset)
        known = dict(zip(layers[parity::2], moved.split(self.sizes[parity::2], -1), strict=True))
        found = []
        with without_autocast(half):
            for level in layers[1 - parity :: 2]:
                below = [known[level - 1] @ self.weights[level - 1]] if level - 1 in known else []
                above = [known[level + 1] @ self.weights[level].mT] if level + 1 in known else []
                found.append(sum(below + above))
        return torch.cat(found, -1)

    def exact_log_partition(self, context: Tensor | None = None) -> Tensor:
        """Returns log Z in nats, summed over the states of the smaller half of the layers, differentiable."""
        smaller = int(self.units[1] < self.units[0])
        return log_sum_over_states(lambda s: -self._summed_out(s, smaller), self.units[smaller], self.base)

    @torch.no_grad()
    def exact_sample(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent exact draws of the even layers."""
        smaller = int(self.units[1] < self.units[0])
        half = exact_states(lambda s: -self._summed_out(s, smaller), self.units[smaller], self.base, shape)
        return self.inputs(half, 1).sigmoid().bernoulli() if smaller else half

    def _summed_out(self, half: Tensor, parity: int, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the free energy of one half of the layers, the other summed out."""
        offset = self.even_offset if parity else self.odd_offset  # of those that are summed out
        received = behind(beta) * self._received(half, parity)
        summed = F.softplus(received + self._bias(1 - parity, behind(beta))) - received * offset
        cold = F.softplus(self.base).sum() + self.units[1] * math.log(2)
        return (1 - beta) * cold - (half * self._bias(parity, behind(beta))).sum(-1) - summed.sum(-1)

    def _bias(self, parity: int, beta: Tensor | float) -> Tensor:
        """Returns the biases of one half of the layers at an inverse temperature, with shape (*, units)."""
        bias = torch.cat([*self.biases][parity::2])
        return beta * bias if parity else beta * bias + (1 - beta) * self.base


class CopiedRBM(EnergyBasedModel):
    """A restricted Boltzmann machine with copies of its layers, tied to parameters of another model.

    A datum is repeated: all copies of the visible layer show it.

    Args:
        weight: W, with shape (visible units, hidden units).
        visible_bias: b, with shape (visible units,).
        hidden_bias: c, with shape (hidden units,).
        offsets: The offsets mu and lambda of visible and hidden units.
        copies: The numbers m of copies of the visible layer and n of the hidden layer.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        visible_bias: nn.Parameter,
        hidden_bias: nn.Parameter,
        offsets: tuple[Tensor, Tensor],
        copies: tuple[int, int],
    ) -> None:
        super().__init__(copies[0] * len(weight), 0, constraints.boolean)
        self.weight, self.visible_bias, self.hidden_bias = weight, visible_bias, hidden_bias
        self.copies = copies
        for name, offset in zip(("visible_offset", "hidden_offset"), offsets, strict=True):
            self.register_buffer(name, offset)

    def energy(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the free energy in nats."""
        received = behind(beta) * self.received(x)
        summed = F.softplus(behind(beta) * self.hidden_bias + received) - received * self.hidden_offset
        cold = math.log(2) * (x.shape[-1] + self.copies[1] * len(self.hidden_bias))
        seen = self._added(x) @ self.visible_bias
        return (1 - beta) * cold - beta * seen - self.copies[1] * summed.sum(-1)

    @torch.no_grad()
    def transition(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the visible copies after a sweep: the hidden copies are drawn given them, then they given those."""
        p = (behind(beta) * (self.hidden_bias + self.received(x))).sigmoid()
        hidden = (p.expand(self.copies[1], *p.shape).bernoulli() - self.hidden_offset).sum(0)
        with without_autocast(x):
            p = (behind(beta) * (self.visible_bias + hidden @ self.weight.mT)).sigmoid()
        return torch.cat([p.bernoulli() for _ in range(self.copies[0])], -1)

    @torch.no_grad()
    def initial(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns fair coins."""
        return torch.full_like(self.visible_bias, 0.5).repeat(self.copies[0]).expand(*shape, -1).bernoulli()

    def received(self, x: Tensor) -> Tensor:
        """Returns what reaches the hidden units from all visible copies, without their biases."""
        with without_autocast(x):
            return (self._added(x) - self.copies[0] * self.visible_offset) @ self.weight

    def _added(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.copies[0], -1)).sum(-2)


def entropy(mean: Tensor) -> Tensor:
    """Returns the entropy, in nats, of independent binary units with these means, with shape (*)."""
    return -(torch.xlogy(mean, mean) + torch.xlogy(1 - mean, 1 - mean)).sum(-1)


def log_odds(x: Tensor) -> Tensor:
    """Returns the log-odds of every unit among data (n, units), each seen once on and once off besides (Laplace)."""
    on = x.sum(0) + 1
    return (on / (len(x) + 2 - on)).log()
