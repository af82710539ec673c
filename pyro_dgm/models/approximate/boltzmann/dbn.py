r"""The deep belief network: a restricted Boltzmann machine, from which a directed network leads down to the data.

.. math::
    p(x, h_1, \dots, h_{L-1}) = p(x | h_1)\, p(h_1 | h_2) \cdots p(h_{L-2} | h_{L-1})\; p_L(h_{L-1})

where :math:`p_L` is the machine of layer L, whose hidden units are summed out, and :math:`p(h_{l-1} | h_l)` comes from
that of layer l. With their conditionals in the other direction, :math:`q(h_l | h_{l-1})`, going up,

.. math::
    \log p(x) \ge E_q \Bigl[\log p_L(h_{L-1}) + \sum_{l < L} \log \frac{p(h_{l-1} | h_l)}{q(h_l | h_{l-1})}\Bigr]
    = E_q \Bigl[-F_1(x) + \sum_{l < L} \bigl(G_l(h_l) - F_{l+1}(h_l)\bigr)\Bigr] - \log Z_L

where the free energies F of visible and G of hidden units belong to a machine, in which
:math:`p(v | h) / q(h | v) = e^{G(h) - F(v)}` whatever its partition function. Greedy training raises the bound: it
starts a machine as the mirror image of the one below, :math:`F_{l+1} = G_l`, where that is possible, and the bound is
then what it was; and a machine that fits the samples of :math:`h_l` better than that raises it. (Hinton, Osindero and
Teh, A Fast Learning Algorithm for Deep Belief Nets, 2006; its bound by annealing as in Salakhutdinov and Murray, On the
Quantitative Analysis of Deep Belief Networks, 2008; fine-tuning by a bound as in Mnih and Gregor, Neural Variational
Inference and Learning in Belief Networks, 2014, arXiv:1402.0030.)
"""

from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from ....distributions import Hierarchy
from ....nn import without_autocast
from ..latent_energy import LatentEnergyModel
from .rbm import RBM


class DBN(LatentEnergyModel):
    """A deep belief network of restricted Boltzmann machines.

    Train it layer by layer, ``pretrain(dbn, x)``. Its density is a lower bound where log Z of the machine on top is
    exact; else an estimate of it, after ``estimate_log_partition()``. Samples are those of the machine on top, carried
    down. ``fit(dbn, x)`` goes on to train all layers at once, by the gradient of the bound, that of q by the score
    function.

    Args:
        layers: The machines, from the data up; each has as many visible binary units as the one below has hidden ones.

    Attributes:
        joint: The machine on top.

    Raises:
        ValueError: If there are fewer than two machines, or they do not fit onto each other.

    Example:
        >>> from pyro_dgm.models import RBM
        >>> dbn = DBN([RBM(6, 5), RBM(5, 4)])
        >>> x = dbn().sample((3,))
        >>> x.shape, dbn().log_prob(x).shape, dbn.encode(x).shape, dbn().density
        (torch.Size([3, 6]), torch.Size([3]), torch.Size([3, 4]), 'lower_bound')
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        layers = [*layers]
        _check(layers)
        super().__init__(layers[0].event_shape, 0, layers[0].visible.support)
        self.layers = nn.ModuleList(layers)

    @property
    def joint(self) -> RBM:
        """The machine on top."""
        return self.layers[-1]

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the negative bound but for log Z, in nats, at a draw from q."""
        with without_autocast(x):
            bound, log_q, h = -self.layers[0].energy(x), 0.0, x
            for below, above in pairwise(self.layers):
                q = _upwards(below, h)
                h = q.sample()
                bound = bound + _hidden_energy(below, h) - above.energy(h)
                log_q = log_q + q.log_prob(h)
        return -bound - bound.detach() * (log_q - log_q.detach())  # the last term has a gradient only, that of q

    @torch.no_grad()
    def observe(self, s: Tensor, context: Tensor | None = None) -> Tensor:
        """Draws the layers below, down to the data, given the visible units of the machine on top."""
        with without_autocast(s):
            for machine in [*self.layers][-2::-1]:
                s = machine.visible.sample(machine._output(s))
        return s

    def infer(self, x: Tensor) -> Hierarchy:
        """Returns q(h_1, ..., h_L | x), hidden units given those below, named ``h_1``, ``h_2`` ..."""

        def upwards() -> Generator[tuple[str, dist.TorchDistribution], Tensor, None]:
            h = x
            for level, machine in enumerate(self.layers, 1):
                h = yield f"h_{level}", _upwards(machine, h)

        sizes = {f"h_{level}": machine.hidden.features for level, machine in enumerate(self.layers, 1)}
        batch_shape = x.shape[: x.dim() - len(self.event_shape)]
        return Hierarchy(sizes, upwards, batch_shape, False, constraints.independent(constraints.boolean, 1))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the means of the topmost hidden units, those of each layer standing for its units on the way."""
        for machine in self.layers:
            x = machine.encode(x)
        return x

    def stages(self, x: Tensor) -> Iterator[tuple[RBM, Tensor]]:
        """Yields each machine and its data, which the machine below has drawn; each is to be trained before the next.

        Args:
            x: Data, with shape ``(n,) + event_shape``.
        """
        below = None
        for machine in self.layers:
            if below is not None:
                with torch.no_grad():
                    x = _upwards(below, x).sample()
                _mirror(below, machine)
            yield machine, x
            below = machine


def _upwards(machine: RBM, x: Tensor) -> dist.TorchDistribution:
    """Returns q(h | x)."""
    return dist.Bernoulli(machine.encode(x)).to_event(1)


def _hidden_energy(machine: RBM, h: Tensor) -> Tensor:
    r"""Returns :math:`G(h) = -\log \sum_x e^{-E(x, h)}` in nats, the visible units summed out."""
    seen = machine.visible.log_normaliser(machine._output(h))
    offset = machine.weight @ machine.visible_offset
    return (h - machine.hidden_offset) @ offset - h @ machine.hidden_bias - seen


@torch.no_grad()
def _mirror(below: RBM, above: RBM) -> None:
    """Makes a machine the mirror image of the one below, if it has as many units on either side."""
    if above.weight.shape != below.weight.mT.shape or not below.visible.binary:
        return
    pairs = ("visible_bias", "hidden_bias"), ("hidden_bias", "visible_bias"), ("visible_offset", "hidden_offset")
    above.weight.copy_(below.weight.mT)
    for own, other in (*pairs, ("hidden_offset", "visible_offset")):
        getattr(above, own).copy_(getattr(below, other))
    above.base.copy_(below.hidden_bias)
    above.initialized.fill_(True)


def _check(layers: Sequence[nn.Module]) -> None:
    if len(layers) < 2 or not all(isinstance(machine, RBM) for machine in layers):
        raise ValueError(
            f"layers: expected at least two RBMs, from the data up, got {[type(each).__name__ for each in layers]}"
        )
    if layers[0].context or not all(machine.hidden.binary for machine in layers[:-1]):
        raise ValueError("layers: expected machines without context, with binary hidden units below the one on top")
    for below, above in pairwise(layers):
        if above.event_shape != (below.hidden.features,) or not above.visible.binary:
            raise ValueError(
                f"layers: expected {below.hidden.features} binary visible units above as many hidden ones, got "
                f"{type(above.visible).__name__} with shape {tuple(above.event_shape)}"
            )
