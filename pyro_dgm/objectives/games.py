r"""Adversarial games: what a generator G and a critic D minimise, given scores.

With scores :math:`r = D(x)` of data and :math:`f = D(G(z))` of samples,

================ ======================================= ============================
game             critic minimises, in the mean           generator minimises
================ ======================================= ============================
minimax          softplus(-r) + softplus(f)              -softplus(f)
non-saturating   softplus(-r) + softplus(f)              softplus(-f)
least squares    ((r - b)^2 + (f - a)^2) / 2             (f - c)^2 / 2
hinge            max(0, 1 - r) + max(0, 1 + f)           -f
Wasserstein      f - r                                   -f
energy margin    -r + max(0, m + f)                      -f
relativistic     any of these, of r - f and f - r        the same, with r and f exchanged
================ ======================================= ============================

With the best of all critics, p the density of data and q that of samples, the critic's loss is, in the same order:
:math:`2 \log 2 - 2\,\mathrm{JS}(p, q)` twice, :math:`\frac{(b - a)^2}{2} \int \frac{p q}{p + q}`,
:math:`2 - 2\,\mathrm{TV}(p, q)`, minus the distance :math:`W_1(p, q)` among critics that are 1-Lipschitz, and
:math:`m - m\,\mathrm{TV}(p, q)` among critics with scores at most zero. More games, one for every f-divergence, are in
:mod:`pyro_dgm.objectives.f_divergence`; what keeps a critic smooth is in :mod:`pyro_dgm.objectives.critic_penalties`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Settings = Mapping[str, Any]

# of Radford, Metz and Chintala, DCGAN, 2015, arXiv:1511.06434
DCGAN_ADAM: Settings = MappingProxyType({"lr": 2e-4, "betas": (0.5, 0.999)})


class AdversarialLoss:
    """What the two players minimise, given scores; subclasses are the games of the table above.

    Attributes:
        relative: Whether the generator's loss compares with the scores of data, so that it has to be given them.
        critic_adam: Settings of the critic's default optimizer that differ from Adam's.
        generator_adam: Those of the generator's.
    """

    relative: bool = False
    critic_adam: Settings = DCGAN_ADAM
    generator_adam: Settings = DCGAN_ADAM

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the critic's loss, a scalar.

        Args:
            real: Scores of data, with any shape.
            fake: Scores of samples, with any shape, and with the same where the game is relative.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks critic")

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns the generator's loss, a scalar; arguments as in :meth:`critic`, ``real`` for a relative game only."""
        raise NotImplementedError(f"{type(self).__name__} lacks generator")


def cross_entropy(real: Tensor, fake: Tensor, smoothing: float) -> Tensor:
    """Returns the cross-entropy of telling data, labelled 1 - smoothing, from samples, in nats per pair."""
    loss = F.softplus(-real).mean() + F.softplus(fake).mean()
    # (1 - s) softplus(-r) + s softplus(r) = softplus(-r) + s r
    return loss + smoothing * real.mean() if smoothing else loss


class Minimax(AdversarialLoss):
    r"""The game of zero sum, :math:`\min_G \max_D E \log \sigma(r) + E \log(1 - \sigma(f))`.

    The generator's gradient vanishes where the critic is sure of itself; :class:`NonSaturating` mends that. (Goodfellow
    et al., Generative Adversarial Nets, 2014, arXiv:1406.2661.)

    Args:
        smoothing: Data are labelled one minus this for the critic (Salimans et al., 2016, arXiv:1606.03498).
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = checked_smoothing(smoothing)

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """The cross-entropy of telling data from samples, in nats per pair."""
        return cross_entropy(real, fake, self.smoothing)

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The mean log-probability of being found out."""
        return -F.softplus(fake).mean()


class NonSaturating(AdversarialLoss):
    """The non-saturating game (Goodfellow et al., Generative Adversarial Nets, 2014, arXiv:1406.2661).

    Args:
        smoothing: Data are labelled one minus this for the critic, which keeps its scores finite where there are no
            samples; labels of samples stay 0, since otherwise the best critic would hold them where they are (Salimans,
            Goodfellow, Zaremba, Cheung, Radford and Chen, Improved Techniques for Training GANs, 2016,
            arXiv:1606.03498).

    Example:
        >>> import torch
        >>> NonSaturating(smoothing=0.1).critic(torch.tensor([9.0]), torch.tensor([-9.0]))
        tensor(0.9002)
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = checked_smoothing(smoothing)

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """The cross-entropy of telling data from samples, in nats per pair."""
        return cross_entropy(real, fake, self.smoothing)

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The cross-entropy of passing for data."""
        return F.softplus(-fake).mean()


class LeastSquares(AdversarialLoss):
    r"""The least-squares game (Mao, Li, Xie, Lau, Wang and Smolley, LSGAN, 2016, arXiv:1611.04076).

    With b - c = 1 and b - a = 2 the generator minimises Pearson's :math:`\chi^2` between p + q and 2 q.

    Args:
        fake: The score a that the critic wants for samples.
        real: The score b that it wants for data; 0.9 for labels smoothed on one side.
        wanted: The score c that the generator wants for its samples; that of data when ``None``.
    """

    def __init__(self, fake: float = 0.0, real: float = 1.0, wanted: float | None = None) -> None:
        if fake == real:
            raise ValueError(f"fake, real: expected two scores that differ, got {fake} twice")
        self.fake, self.real, self.wanted = fake, real, real if wanted is None else wanted

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scores should be b for data and a for samples."""
        return 0.5 * ((real - self.real).square().mean() + (fake - self.fake).square().mean())

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Scores of samples should be c."""
        return 0.5 * (fake - self.wanted).square().mean()


class Hinge(AdversarialLoss):
    """The hinge game (Lim and Ye, Geometric GAN, 2017, arXiv:1705.02894).

    The two time scales are those of Zhang, Goodfellow, Metaxas and Odena, SAGAN, 2018, arXiv:1805.08318, after Heusel
    et al., 2017, arXiv:1706.08500: the critic moves four times as far as the generator.
    """

    critic_adam: Settings = MappingProxyType({"lr": 4e-4, "betas": (0.0, 0.9)})
    generator_adam: Settings = MappingProxyType({"lr": 1e-4, "betas": (0.0, 0.9)})

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scores should be at least 1 for data and at most -1 for samples."""
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator raises the scores of its samples."""
        return -fake.mean()


class Wasserstein(AdversarialLoss):
    """The Wasserstein game (Arjovsky, Chintala and Bottou, Wasserstein GAN, 2017, arXiv:1701.07875).

    The critic has to be Lipschitz: by a :class:`GradientPenalty`, whose paper's optimizer this is (Gulrajani et al.,
    2017, arXiv:1704.00028), by ``Adversarial(..., weight_clip=0.01)``, or by spectral normalisation.
    """

    critic_adam: Settings = MappingProxyType({"lr": 1e-4, "betas": (0.0, 0.9)})
    generator_adam: Settings = MappingProxyType({"lr": 1e-4, "betas": (0.0, 0.9)})

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """The negative dual estimate of the distance."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator raises the scores of its samples."""
        return -fake.mean()


class EnergyMargin(AdversarialLoss):
    """The energy-based game with a margin (Zhao, Mathieu and LeCun, EBGAN, 2016, arXiv:1609.03126).

    A score is a negative energy, so at most zero, such as the negative reconstruction error of an autoencoder
    (:class:`pyro_dgm.nn.ReconstructionScore`); scores without a bound would run away.

    Args:
        margin: The energy m above which a sample is far enough from the data.
    """

    def __init__(self, margin: float = 1.0) -> None:
        if not margin > 0:
            raise ValueError(f"margin: expected a positive energy, got {margin}")
        self.margin = margin

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Energies should be low for data and at least the margin for samples."""
        return -real.mean() + F.relu(self.margin + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The mean energy of samples."""
        return -fake.mean()


class Relativistic(AdversarialLoss):
    r"""A game over differences of scores: how much more real are data than samples?

    .. math::
        L_D = \ell(r - f, f - r) / 2, \quad L_G = \ell(f - r, r - f) / 2; \qquad
        \text{on average}\quad L_D = \ell(r - \bar f, f - \bar r),\quad L_G = \ell(f - \bar r, r - \bar f)

    for the critic's loss l(r, f) of any other game, bars the means over a batch. Of the cross-entropies this is RSGAN,
    softplus(f - r), and RaSGAN; of ``LeastSquares(-1.0, 1.0)`` and of ``Hinge()`` it is RaLSGAN and RaHingeGAN.
    (Jolicoeur-Martineau, The relativistic discriminator, 2018, arXiv:1807.00734. With ``penalty=[R1(), R2()]`` the
    pairs converge locally and lose no modes: Huang, Gokaslan, Kuleshov and Tompkin, R3GAN, 2025, arXiv:2501.05441.)

    Args:
        loss: The game; :class:`NonSaturating` when ``None``.
        average: Whether to compare with means over the batch, instead of pair by pair.

    Example:
        >>> import torch
        >>> Relativistic().generator(torch.tensor([2.0]), torch.tensor([2.0]))
        tensor(0.6931)
    """

    relative = True

    def __init__(self, loss: AdversarialLoss | None = None, average: bool = False) -> None:
        self.loss, self.average = loss or NonSaturating(), average
        if self.loss.relative:
            raise ValueError("loss: expected a game over scores themselves, got one that is relative already")
        self.critic_adam, self.generator_adam = dict(self.loss.critic_adam), dict(self.loss.generator_adam)

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Data should score more than samples."""
        if self.average:
            return self.loss.critic(real - fake.mean(), fake - real.mean())
        return self.loss.critic(real - fake, fake - real) / 2

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Samples should score more than data."""
        if real is None:
            raise ValueError("real: a relative game compares with the scores of data, got None; pass generator(f, r)")
        return self.critic(fake, real)


def fooling(game: AdversarialLoss, fake: Tensor, real: Callable[[], Tensor]) -> Tensor:
    """Returns the generator's loss, given scores of samples and a function that returns those of data.

    The function is called where the game compares with them, without gradients: no score of data depends on the
    generator.
    """
    if not game.relative:
        return game.generator(fake)
    with torch.no_grad():
        scores = real()
    return game.generator(fake, scores)


def checked_smoothing(smoothing: float) -> float:
    """Returns what labels of data are lowered by, if it is that."""
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"smoothing: expected a number in [0, 0.5), such as 0.1, got {smoothing}")
    return smoothing
