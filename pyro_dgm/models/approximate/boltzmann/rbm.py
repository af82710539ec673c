r"""The restricted Boltzmann machine: a layer of visible and a layer of hidden units, and weights between the two.

.. math::
    E(x, h) = -\log m(x) - b^\top \phi(x) - c^\top h - (\phi(x) - \mu)^\top W^\top (h - \lambda), \qquad
    p(x) = \frac{1}{Z} \sum_h e^{-E(x, h)}

Units of one layer do not see each other. So each layer can be drawn, or summed out, given the other: with
:math:`t = c + W (\phi(x) - \mu)` and the hidden units' log-normaliser A (a sum of softplus where they are binary),

.. math::
    F(x) = -\log m(x) - b^\top \phi(x) - A(t) + \lambda^\top (t - c)

is the free energy, :math:`p(x) \propto e^{-F(x)}`. The path of annealed importance sampling,

.. math::
    F_\beta(x) = -\log m(x) - \beta\, b^\top \phi(x) - (1 - \beta)\, (a^\top \phi(x) - \log Z_0)
        - A(\beta t) + \beta\, \lambda^\top (t - c)

leads from independent visible units with the base rates of the data, :math:`a`, to the machine. (Smolensky, Information
processing in dynamical systems: Foundations of harmony theory, 1986; Hinton, Training Products of Experts by Minimizing
Contrastive Divergence, 2002; Salakhutdinov and Murray, On the Quantitative Analysis of Deep Belief Networks, 2008.)

The offsets :math:`\mu, \lambda` take nothing away from the family of distributions, and change the direction of the
gradient: centred, at the means of the units, it no longer depends on which value of a unit is called 1, and learning is
better conditioned. (Montavon and Müller, Deep Boltzmann Machines and the Centering Trick, 2012; Melchior, Fischer and
Wiskott, How to Center Deep Boltzmann Machines, 2016, arXiv:1311.1354.)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....nn import at_least_float32, without_autocast
from ..energy_based import EnergyBasedModel, behind, exact_states, log_sum_over_states
from .units import Bernoulli, Count, HiddenUnits, VisibleUnits


class RBM(EnergyBasedModel):
    """A restricted Boltzmann machine.

    Trained by persistent contrastive divergence unless told otherwise. With at most 20 binary units in one of the
    layers its density is exact; else call ``estimate_log_partition()`` once it is trained. Learning rates are those of
    plain SGD, 0.01 to 0.1, falling to zero; ``optimizer=partial(SGD, lr=0.05), schedule=...``.

    Args:
        visible: The visible units (``Bernoulli``, ``Gaussian``, ``Softmax``, ``ReplicatedSoftmax`` of
            :mod:`pyro_dgm.models.approximate.boltzmann`), or a number of binary ones.
        hidden: The hidden units (``Bernoulli``, ``Rectified``), or a number of binary ones.
        centred: Whether the offsets are the means of the visible units in the data and of the hidden units without
            input; else they are zero.
        sweeps: Sweeps of block Gibbs sampling behind a sample, where it cannot be exact.

    Attributes:
        weight: W, with shape (H, S): hidden units, statistics of the visible ones.
        visible_bias: b, with shape (S,); the base rates of the data, once these are known.
        hidden_bias: c, with shape (H,).
        base: a, with shape (S,), a buffer; zero before data are known.

    Example:
        >>> rbm = RBM(6, hidden=4)
        >>> x = rbm().sample((5,))
        >>> rbm().log_prob(x).shape, rbm.encode(x).shape
        (torch.Size([5]), torch.Size([5, 4]))
    """

    def __init__(
        self, visible: VisibleUnits | int, hidden: HiddenUnits | int = 500, *, centred: bool = True, sweeps: int = 1000
    ) -> None:
        units = Bernoulli(visible) if isinstance(visible, int) else visible
        features = Bernoulli(hidden) if isinstance(hidden, int) else hidden
        if not isinstance(units, VisibleUnits) or not isinstance(features, HiddenUnits):
            raise ValueError(
                "visible, hidden: expected units of each kind, or their numbers, got "
                f"{type(visible).__name__} and {type(hidden).__name__}"
            )
        enumerable = features.enumerable or units.enumerable
        super().__init__(units.event_shape, units.context, units.support, enumerable=enumerable, sweeps=sweeps)
        self.visible, self.hidden, self.centred = units, features, centred
        self.weight = nn.Parameter(0.01 * torch.randn(features.features, units.size))
        self.visible_bias = nn.Parameter(torch.zeros(units.size))
        self.hidden_bias = nn.Parameter(torch.zeros(features.features))
        zeros = torch.zeros(features.features)
        self.register_buffer("base", torch.zeros(units.size))
        self.register_buffer("visible_offset", torch.zeros(units.size))
        self.register_buffer("hidden_offset", features.mean(zeros) if centred else zeros)
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets base rates, visible biases and offsets to what the visible units are in the data."""
        phi = self.visible.statistics(x.reshape(-1, *self.event_shape)).to(self.base)
        count = torch.as_tensor(self.visible.count(x.to(self.base)), device=x.device).expand(x.shape[:1]).sum()
        self.base.copy_(self.visible.fitted(phi.sum(0), count))
        self.visible_bias.copy_(self.base)
        if self.centred:
            self.visible_offset.copy_(phi.sum(0) / count)
        self.initialized.fill_(True)

    def energy(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the free energy of x in nats; see :class:`EnergyBasedModel`."""
        with without_autocast(x):
            phi, count = self.visible.statistics(x), self.visible.count(x)
            t = self._input(phi, count)
            linear = phi @ self.visible_bias
            if self.centred:
                linear = linear - (t - _times(count, self.hidden_bias)) @ self.hidden_offset
            rest = self.visible.log_measure(x)
            if isinstance(beta, float) and beta == 1.0:  # without what is then multiplied by nought or one
                return -at_least_float32(linear) - self.hidden.log_normaliser(at_least_float32(t)) - rest
            hidden = self.hidden.log_normaliser(at_least_float32(behind(beta) * t))
            return -beta * linear - (1 - beta) * (phi @ self.base - self._log_base(count)) - hidden - rest

    @torch.no_grad()
    def transition(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        """Returns the next states after a sweep of block Gibbs sampling: the hidden units given x, then x given those.

        It is reversible.
        """
        beta = behind(beta)
        count = self.visible.count(x)
        h = self.hidden.sample(beta * self._input(self.visible.statistics(x), count))
        return self.visible.sample(beta * self._output(h) + (1 - beta) * self.base, count)

    @torch.no_grad()
    def initial(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns draws of independent visible units with the base rates."""
        return self.visible.sample(self.base.expand(*shape, self.visible.size), self._count(context))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the means of the hidden units given x, with shape (*, H): its representation."""
        return self.hidden.mean(self._input(self.visible.statistics(x), self.visible.count(x)))

    def hidden_mean(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the means of the hidden units given x, as :class:`~pyro_dgm.objectives.Sparsity` asks for them."""
        return self.encode(x, context)

    def exact_log_partition(self, context: Tensor | None = None) -> Tensor:
        """Returns log Z in nats, summed over all states of the hidden or the visible units.

        Raises:
            ValueError: If no layer has at most 20 binary units.
        """
        with without_autocast(self.weight):
            return log_sum_over_states(self._log_joint(context), self._enumerated(), self.weight)

    @torch.no_grad()
    def exact_sample(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent draws: of one layer from the table of its states, of the other given that.

        Raises:
            ValueError: If no layer has at most 20 binary units.
        """
        with without_autocast(self.weight):
            state = exact_states(self._log_joint(context), self._enumerated(), self.weight, shape)
        if not self.hidden.enumerable:
            return state
        return self.visible.sample(self._output(state), self._count(context))

    def _input(self, phi: Tensor, count: Count) -> Tensor:
        """Returns what reaches the hidden units, t, in full precision."""
        if self.centred:
            phi = phi - _times(count, self.visible_offset)
        with without_autocast(phi):
            if isinstance(count, float):
                return F.linear(phi, self.weight, self.hidden_bias)
            return F.linear(phi, self.weight) + _times(count, self.hidden_bias)

    def _output(self, h: Tensor) -> Tensor:
        """Returns what reaches the visible units, their natural parameters, in full precision."""
        h = h - self.hidden_offset if self.centred else h
        with without_autocast(h):
            return F.linear(h, self.weight.mT, self.visible_bias)

    def _log_base(self, count: Count) -> Tensor:
        """Returns log Z_0, of independent visible units and hidden units without input."""
        return self.visible.log_normaliser(self.base, count) + self.hidden.log_normaliser(0 * self.hidden_bias.detach())

    def _count(self, context: Tensor | None) -> Count:
        return 1.0 if context is None else context[..., 0]

    def _enumerated(self) -> int:
        """The number of units of the layer whose states are enumerated."""
        if not self.enumerable:
            raise ValueError(
                "exact: no layer of this RBM has at most 20 binary units, got "
                f"{self.visible.size} visible and {self.hidden.features} hidden ones; use estimate_log_partition"
            )
        return self.hidden.features if self.hidden.enumerable else self.visible.size

    def _log_joint(self, context: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Returns the function from states (s, units) of that layer to their unnormalised log-probabilities."""
        if not self.hidden.enumerable:
            return lambda x: -self.energy(x)
        count = self._count(context)

        def log_joint(h: Tensor) -> Tensor:
            out = self._output(h)
            bias = h @ self.hidden_bias
            if self.centred:
                bias = bias - (h - self.hidden_offset) @ (self.weight @ self.visible_offset)
            if isinstance(count, Tensor):
                out, bias = (t.reshape(len(h), *(1,) * count.dim(), *t.shape[1:]) for t in (out, bias))
            return self.visible.log_normaliser(out, count) + count * bias

        return log_joint


def _times(count: Count, vector: Tensor) -> Tensor:
    return vector if isinstance(count, float) else count[..., None] * vector
