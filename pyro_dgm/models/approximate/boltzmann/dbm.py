r"""The deep Boltzmann machine: layers of binary units, each connected with the next.

.. math::
    E(h_0, \dots, h_L) = -\sum_{l=1}^L (h_{l-1} - \mu_{l-1})^\top W_l (h_l - \mu_l) - \sum_{l=0}^L b_l^\top h_l, \qquad
    p(x) = \frac{1}{Z} \sum_{h_1, \dots, h_L} e^{-E(x, h_1, \dots, h_L)}

Given the even layers :math:`s = (h_0, h_2, \dots)` the odd ones are independent, and conversely. So the odd layers can
be summed out, which leaves the free energy F(s), and block Gibbs sampling draws one half of the machine given the
other:

.. math::
    p(h_{lj} = 1 | \cdot) = \sigma(a_{lj}), \qquad
    a_l = b_l + W_l^\top (h_{l-1} - \mu_{l-1}) + W_{l+1} (h_{l+1} - \mu_{l+1})

Given data, the hidden even layers are not independent; the mean field takes them to be, with means m. The best mean
field over the odd layers too is then what summing them out gives, F being what it is at means,

.. math::
    \tilde F(x) = \min_m F(x, m) - \sum_j H(m_j), \qquad m_l \leftarrow \sigma(a_l)

and the fixed point iteration, odd layers and even ones in turn, goes downhill at every step. (Salakhutdinov and
Hinton, Deep Boltzmann Machines, 2009; the offsets :math:`\mu`, which change the direction of gradients only: Montavon
and Müller, Deep Boltzmann Machines and the Centering Trick, 2012, arXiv:1203.3783, with which a machine can also be
trained as a whole from the start.)
"""

from collections.abc import Iterator, Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from ....nn import without_autocast
from ..energy_based import EnergyBasedModel
from ..latent_energy import LatentEnergyModel
from .layers import CopiedRBM, EvenLayers, entropy, log_odds


class DBM(LatentEnergyModel):
    r"""A deep Boltzmann machine of any number of layers.

    Its density is the mean-field bound, :math:`\log p(x) \ge -\tilde F(x) - \log Z`, where the even or the odd layers
    together have at most 20 units, so that log Z is exact; else an estimate, after ``estimate_log_partition()``. Its
    samples are those of a Gibbs chain (exact where log Z is). Pretrain it layer by layer, then train it as a whole::

        pretrain(dbm, x, max_epochs=20)
        fit(dbm, x, max_epochs=50)

    With a single hidden layer it is a restricted Boltzmann machine, and the bound is exact.

    Binary data are learned as well as by few other models of so few layers; its likelihood is laborious to estimate,
    and its posterior has to be found by iteration.

    Args:
        features: Number D of visible units.
        hidden_features: Numbers of units of the layers h_1, ..., h_L.
        centred: Whether the offsets are the means of the visible units in the data, 1/2 for hidden units; else zero.
        mean_field_steps: Number of updates of all hidden layers that find q(h | x).
        sweeps: Number of sweeps of block Gibbs sampling behind a sample that cannot be exact.

    Attributes:
        joint: The machine on its even layers, with shape (n,): visible units first. It has weights and biases.

    Raises:
        ValueError: If there is no hidden layer, or a layer without units.

    Example:
        >>> dbm = DBM(6, (4, 3))
        >>> x = dbm().sample((5,))
        >>> x.shape, dbm().log_prob(x).shape, dbm.encode(x).shape
        (torch.Size([5, 6]), torch.Size([5]), torch.Size([5, 7]))
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (500, 1000),
        *,
        centred: bool = True,
        mean_field_steps: int = 25,
        sweeps: int = 1000,
    ) -> None:
        super().__init__(features, 0, constraints.boolean)
        if mean_field_steps < 1:
            raise ValueError(f"mean_field_steps: expected at least 1, got {mean_field_steps}")
        self.centred, self.mean_field_steps = centred, mean_field_steps
        self.joint = EvenLayers([features, *hidden_features], centred, sweeps)
        self.exact = len(hidden_features) == 1

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets visible biases and the start of annealing to the log-odds of the data, offsets to their means."""
        logits = log_odds(x)
        if self.centred:
            self.joint.even_offset[: len(logits)].copy_(x.mean(0))
        self.joint.biases[0].copy_(logits)
        self.joint.base[: len(logits)].copy_(logits)
        self.joint.initialized.fill_(True)

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the variational free energy in nats, an upper bound on the free energy, at the mean field's q."""
        s, _ = self._mean_field(x)
        return self.joint.energy(s) - entropy(s[..., x.shape[-1] :])

    def observe(self, s: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the visible units."""
        return s[..., : self.event_shape[0]]

    def infer(self, x: Tensor) -> dist.TorchDistribution:
        """Returns the mean field q(h | x) over all hidden units [h_1, ..., h_L], for x with shape (*, D)."""
        return dist.Bernoulli(self.encode(x)).to_event(1)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the means of all hidden units [h_1, ..., h_L] under q(h | x), for x with shape (*, D)."""
        halves = [half.split(self.joint.sizes[k::2], -1) for k, half in enumerate(self._mean_field(x))]
        return torch.cat([halves[k % 2][k // 2] for k in range(1, len(self.joint.sizes))], -1)

    @torch.no_grad()
    def _mean_field(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the means of the even units, the data first, and of the odd ones."""
        s, hidden = self._first_guess(x), x.shape[-1]
        for _ in range(self.mean_field_steps):
            odd = self.joint.inputs(s, 0).sigmoid()
            s = torch.cat([x, self.joint.inputs(odd, 1)[..., hidden:].sigmoid()], -1)
        return s, self.joint.inputs(s, 0).sigmoid()

    def _first_guess(self, x: Tensor) -> Tensor:
        """Returns even layers by one pass upwards, which doubles what comes from below for what is still missing."""
        means, joint = [x], self.joint
        offsets = self._offsets()
        with without_autocast(x):
            for level, w in enumerate(joint.weights, 1):
                twice = 2.0 if level < len(joint.weights) else 1.0
                means.append((joint.biases[level] + twice * (means[-1] - offsets[level - 1]) @ w).sigmoid())
        return torch.cat(means[::2], -1)

    def stages(self, x: Tensor) -> Iterator[tuple[EnergyBasedModel, Tensor]]:
        """Yields a machine for each layer and its data, one after the other; each is to be trained before the next.

        They share their parameters with the layers of this machine. A layer that will have a neighbour on either
        side is trained with two copies of those below, or above, for the neighbour that is still missing.

        Args:
            x: Data, with shape (n, D).
        """
        self.initialize(x)
        joint, offsets = self.joint, self._offsets()
        for level, w in enumerate(joint.weights, 1):
            below, above = joint.biases[level - 1], joint.biases[level]
            visible = below if level == 1 else nn.Parameter(below.detach().clone())
            copies = 1 + (level < len(joint.weights)), 1 + (level > 1)
            stage = CopiedRBM(w, visible, above, (offsets[level - 1], offsets[level]), copies)
            data = x.repeat(1, copies[0])
            yield stage, data
            with torch.no_grad():
                if level > 1:  # the two machines of a layer have a bias each; the layer has their mean
                    below.lerp_(visible, 0.5)
                x = (above + stage.received(data)).sigmoid().bernoulli()

    def _offsets(self) -> list[Tensor]:
        """Returns the offsets by layer."""
        even, odd = self.joint.even_offset, self.joint.odd_offset
        halves = even.split(self.joint.sizes[::2]), odd.split(self.joint.sizes[1::2])
        return [halves[level % 2][level // 2] for level in range(len(self.joint.sizes))]
