r"""The conditional restricted Boltzmann machine: biases that depend on a context.

.. math::
    F(x, c) = -b(c)^\top x - \sum_j \log\bigl(1 + e^{d_j(c) + (W^\top x)_j}\bigr), \qquad
    b(c) = b + A c, \quad d(c) = d + B c

Whatever the context, it is a restricted Boltzmann machine with the same weights. With the frames before as context it
is the conditional machine of Taylor, Hinton and Roweis (Modeling Human Motion Using Binary Latent Variables, 2006);
with labels or side information that of Mnih, Larochelle and Hinton (Conditional Restricted Boltzmann Machines for
Structured Output Prediction, 2012, arXiv:1202.3748), who also say why it is trained by contrastive divergence: a
persistent chain belongs to one context.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ....nn import without_autocast
from ..energy_based import MAX_UNITS, EnergyBasedModel, behind, exact_states, log_sum_over_states
from .layers import log_odds


class ConditionalRBM(EnergyBasedModel):
    """A restricted Boltzmann machine of binary units whose biases depend on a context.

    Its density is exact for every context if a layer has at most 20 units. It is the model for many binary outputs that
    depend on each other, and on an input in a way that is linear but for the hidden units.

    Args:
        features: Number D of visible units.
        hidden_features: Number H of hidden units.
        context: Width of the context.
        sweeps: Number of sweeps of block Gibbs sampling behind a sample that cannot be exact.

    Raises:
        ValueError: If one of the widths is below 1.

    Example:
        >>> rbm = ConditionalRBM(6, 4, context=3)
        >>> p = rbm(torch.zeros(5, 3))
        >>> p.sample().shape, p.log_prob(torch.zeros(2, 1, 6)).shape, p.density
        (torch.Size([5, 6]), torch.Size([2, 5]), 'exact')
    """

    def __init__(self, features: int, hidden_features: int, context: int, *, sweeps: int = 1000) -> None:
        if min(features, hidden_features, context) < 1:
            raise ValueError(
                "features, hidden_features, context: expected at least 1 each, got "
                f"{features}, {hidden_features} and {context}; without a context use RBM"
            )
        few = min(features, hidden_features) <= MAX_UNITS
        super().__init__(features, context, constraints.boolean, enumerable=few, sweeps=sweeps)
        self.hidden_features = hidden_features
        self.weight = nn.Parameter(0.01 * torch.randn(features, hidden_features))
        self.visible_bias = nn.Linear(context, features)
        self.hidden_bias = nn.Linear(context, hidden_features)
        for bias in (self.visible_bias, self.hidden_bias):
            nn.init.normal_(bias.weight, std=0.01)
            nn.init.zeros_(bias.bias)
        self.register_buffer("base", torch.zeros(features))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets the visible biases b to the log-odds of the data, and has annealing start from those."""
        logits = log_odds(x)
        self.visible_bias.bias.copy_(logits)
        self.base.copy_(logits)
        self.initialized.fill_(True)

    def energy(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the free energy F(x, c) in nats."""
        b, d = self._biases(context, beta)
        with without_autocast(x):
            hidden = F.softplus(d + behind(beta) * (x @ self.weight)).sum(-1)
        return (1 - beta) * self._cold() - (b * x).sum(-1) - hidden

    @torch.no_grad()
    def transition(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the visible units after a sweep: the hidden ones are drawn given them, then they given those."""
        (b, d), beta = self._biases(context, beta), behind(beta)
        with without_autocast(x):
            h = (d + beta * (x @ self.weight)).sigmoid().bernoulli()
            return (b + beta * (h @ self.weight.mT)).sigmoid().bernoulli()

    @torch.no_grad()
    def initial(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent units with the log-odds of the base."""
        return self.base.sigmoid().expand(*shape, -1).bernoulli()

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the means of the hidden units given x and c, with shape (*, hidden_features)."""
        with without_autocast(x):
            return (self._biases(context, 1.0)[1] + x @ self.weight).sigmoid()

    def exact_log_partition(self, context: Tensor | None = None) -> Tensor:
        """Returns log Z(c) in nats, summed over the states of the smaller layer, with the contexts' batch shape."""
        units = min(len(self.weight), self.hidden_features)
        return log_sum_over_states(lambda s: self._log_weight(s, context), units, self.base)

    @torch.no_grad()
    def exact_sample(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent exact draws, with shape ``shape + (D,)``."""
        units = min(len(self.weight), self.hidden_features)
        s = exact_states(lambda s: self._log_weight(s, context), units, self.base, shape)
        return s if units == len(self.weight) else self._down(s, context)

    def _log_weight(self, states: Tensor, context: Tensor | None) -> Tensor:
        """Returns the unnormalised log-probability of states of the smaller layer, the other one summed out."""
        states = states.reshape(len(states), *(1,) * (context.dim() - 1), states.shape[-1])
        if states.shape[-1] == len(self.weight):
            return -self.energy(states, context)
        b, d = self._biases(context, 1.0)
        with without_autocast(states):
            return (d * states).sum(-1) + F.softplus(b + states @ self.weight.mT).sum(-1)

    def _down(self, h: Tensor, context: Tensor | None) -> Tensor:
        """Draws the visible units given the hidden ones."""
        with without_autocast(h):
            return (self._biases(context, 1.0)[0] + h @ self.weight.mT).sigmoid().bernoulli()

    def _biases(self, context: Tensor | None, beta: Tensor | float) -> tuple[Tensor, Tensor]:
        """Returns b(c) and d(c) at an inverse temperature."""
        context, beta = context.to(self.weight.dtype), behind(beta)
        with without_autocast(context):
            b, d = self.visible_bias(context), self.hidden_bias(context)
        return beta * b + (1 - beta) * self.base, beta * d

    def _cold(self) -> Tensor:
        """Returns log Z_0, of independent visible units and hidden units that are fair coins."""
        return F.softplus(self.base).sum() + self.hidden_features * math.log(2)
