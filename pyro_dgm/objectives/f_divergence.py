r"""Games whose best critic measures an f-divergence, through the conjugate of its generator function f.

.. math::
    D_f(p \| q) = \int q(x)\, f\!\Bigl(\frac{p(x)}{q(x)}\Bigr) dx
    = \sup_v \; E_p\, g_f(v) - E_q\, f^*(g_f(v)), \qquad f^*(t) = \sup_u\; u t - f(u)

The critic's score v may be any number; an output activation :math:`g_f`, increasing, takes it to where the conjugate
:math:`f^*` is defined. The critic maximises the right-hand side. With u = p / q, the best score and the divergence are

======================== ===================== ====================== ========================== ======================
divergence               f(u)                  g_f(v)                 f*(g_f(v))                 best v
======================== ===================== ====================== ========================== ======================
Kullback-Leibler         u log u               v                      exp(v - 1)                 1 + log u
reverse Kullback-Leibler -log u                -exp(-v)               v - 1                      log u
Pearson chi^2            (u - 1)^2             v                      v^2 / 4 + v                2 (u - 1)
squared Hellinger        (sqrt(u) - 1)^2       1 - exp(-v)            exp(v) - 1                 log(u) / 2
Jensen-Shannon           u log u               log 2 - softplus(-v)   softplus(v) - log 2        log u
                         - (u+1) log((u+1)/2)
total variation          abs(u - 1) / 2        tanh(v) / 2            tanh(v) / 2                +-infinity
======================== ===================== ====================== ========================== ======================

(Nowozin, Cseke and Tomioka, f-GAN, 2016, arXiv:1606.00709. Their Jensen-Shannon divergence is twice the usual one.)
"""

import math

from torch import Tensor
from torch.nn import functional as F

from .games import AdversarialLoss


class FDivergence(AdversarialLoss):
    r"""The game of an f-divergence; subclasses are the rows of the table above.

    The losses are exponentials of scores for some divergences: keep learning rates low, and gradients clipped as
    ``fit`` does.

    Args:
        saturating: Whether the generator minimises the divergence's bound, as the theory has it; else it maximises
            :math:`E_q\, g_f(v)`, which has the same fixed points and gradients where the critic is sure of itself.
    """

    def __init__(self, saturating: bool = False) -> None:
        self.saturating = saturating

    def activation(self, v: Tensor) -> Tensor:
        """Returns g_f(v)."""
        raise NotImplementedError(f"{type(self).__name__} lacks activation")

    def conjugate(self, v: Tensor) -> Tensor:
        """Returns f*(g_f(v))."""
        raise NotImplementedError(f"{type(self).__name__} lacks conjugate")

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """The negative bound of the divergence."""
        return self.conjugate(fake).mean() - self.activation(real).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """What of the bound depends on the generator, or its stand-in."""
        return -(self.conjugate(fake) if self.saturating else self.activation(fake)).mean()


class KullbackLeibler(FDivergence):
    """The divergence KL(p, q) of data from samples, which punishes missing modes."""

    def activation(self, v: Tensor) -> Tensor:
        """The score itself."""
        return v

    def conjugate(self, v: Tensor) -> Tensor:
        """exp(v - 1)."""
        return (v - 1).exp()


class ReverseKullbackLeibler(FDivergence):
    """The divergence KL(q, p) of samples from data, which punishes samples where there are no data."""

    def activation(self, v: Tensor) -> Tensor:
        """-exp(-v)."""
        return -(-v).exp()

    def conjugate(self, v: Tensor) -> Tensor:
        """V - 1."""
        return v - 1


class PearsonChiSquared(FDivergence):
    r"""Pearson's :math:`\chi^2(p, q) = \int (p - q)^2 / q`."""

    def activation(self, v: Tensor) -> Tensor:
        """The score itself."""
        return v

    def conjugate(self, v: Tensor) -> Tensor:
        """v^2 / 4 + v."""
        return v.square() / 4 + v


class SquaredHellinger(FDivergence):
    r"""The squared Hellinger distance :math:`\int (\sqrt p - \sqrt q)^2`.

    Example:
        >>> import torch
        >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
        >>> v = (p / q).log() / 2
        >>> game = SquaredHellinger()
        >>> bound = (p * game.activation(v) - q * game.conjugate(v)).sum()
        >>> torch.allclose(bound, (p.sqrt() - q.sqrt()).square().sum())
        True
    """

    def activation(self, v: Tensor) -> Tensor:
        """1 - exp(-v)."""
        return -(-v).expm1()

    def conjugate(self, v: Tensor) -> Tensor:
        """exp(v) - 1."""
        return v.expm1()


class JensenShannon(FDivergence):
    """Twice the Jensen-Shannon divergence, which is the game of the cross-entropies, measured from its end."""

    def activation(self, v: Tensor) -> Tensor:
        """Log 2 - softplus(-v)."""
        return math.log(2) - F.softplus(-v)

    def conjugate(self, v: Tensor) -> Tensor:
        """softplus(v) - log 2."""
        return F.softplus(v) - math.log(2)


class TotalVariation(FDivergence):
    r"""The total variation :math:`\int |p - q| / 2`."""

    def activation(self, v: Tensor) -> Tensor:
        """tanh(v) / 2."""
        return v.tanh() / 2

    def conjugate(self, v: Tensor) -> Tensor:
        """tanh(v) / 2."""
        return v.tanh() / 2
