r"""Variational autoencoders that differ from :class:`~pyro_dgm.models.VAE` in nothing but what they minimise.

With the aggregate posterior :math:`q(z) = E_x\, q(z | x)`, the mean divergence that the ELBO has, and which weights
each of these models puts where:

.. math::
    E_x \mathrm{KL}\bigl(q(z | x) \,\|\, p(z)\bigr)
        = \underbrace{I_q(x; z)}_{\text{mutual information}}
        + \underbrace{\mathrm{KL}\Bigl(q(z) \,\Big\|\, \prod_j q(z_j)\Bigr)}_{\text{total correlation}}
        + \underbrace{\mathrm{KL}\Bigl(\prod_j q(z_j) \,\Big\|\, p(z)\Bigr)}_{\text{dimension-wise divergence}}

============= =========================================================================================================
model         minimises, beside the reconstruction :math:`-E_{q(z | x)} \log p(x | z)`
============= =========================================================================================================
`BetaVAE`     beta times the divergence
`BetaTCVAE`   the divergence, its total correlation weighted with beta and computed on the batch
`FactorVAE`   the divergence, and gamma times the total correlation, as a critic tells it
`InfoVAE`     (1 - alpha) times the divergence, and a multiple of the maximum mean discrepancy of q(z) and p(z)
============= =========================================================================================================

The objectives are there for any latent variable model with such a posterior: ``fit(model, x, objective=...)``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from ...nn import MLP
from .vae import VariationalAutoencoder

if TYPE_CHECKING:
    from ...objectives import Objective


class BetaVAE(VariationalAutoencoder):
    r"""A variational autoencoder whose divergence has the weight beta.

    .. math::
        L = -E_{q(z | x)} \log p(x | z) + \beta\, \mathrm{KL}\bigl(q(z | x) \,\|\, p(z)\bigr)

    Above 1 it trades reconstruction for latents that are independent of each other, and of x; below 1, the other way.
    Its log_prob stays the bound with weight 1. (Higgins et al., beta-VAE, ICLR 2017; Burgess et al., Understanding
    disentangling in beta-VAE, 2018, arXiv:1804.03599.)

    Args:
        prior: As of :class:`~pyro_dgm.models.VAE`, and so are the next four.
        likelihood: p(x | z, c).
        posterior: q(z | x, c).
        context: Width of the context.
        num_particles: Draws of z per datum in ``log_prob``.
        beta: The weight of the divergence. A weight that rises in training is an objective's:
            ``ELBO(kl_weight=LinearWarmup(1000, final=4.0))``.

    Example:
        >>> from pyro_dgm.models import DiagonalNormal, StandardNormal
        >>> vae = BetaVAE(StandardNormal(2), DiagonalNormal(5, 2), DiagonalNormal(2, 5), beta=8.0)
        >>> vae.objective().kl_weight
        8.0
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        context: int = 0,
        num_particles: int = 1,
        *,
        beta: float = 4.0,
    ) -> None:
        super().__init__(prior, likelihood, posterior, context, num_particles)
        self.beta = beta

    def objective(self) -> "Objective":
        """Returns the lower bound with the weight beta."""
        from ...objectives import ELBO

        return ELBO(kl_weight=self.beta)


class BetaTCVAE(VariationalAutoencoder):
    r"""A variational autoencoder whose total correlation has the weight beta, the rest of the divergence the weight 1.

    Latents become independent of each other without becoming independent of x. The posterior must be one of independent
    features, ``DiagonalNormal(L, context=D)``. (Chen, Li, Grosse and Duvenaud, Isolating Sources of Disentanglement in
    VAEs, 2018, arXiv:1802.04942.)

    Args:
        prior: As of :class:`~pyro_dgm.models.VAE`, and so are the next four.
        likelihood: p(x | z, c).
        posterior: q(z | x, c), independent over features.
        context: Width of the context.
        num_particles: Draws of z per datum in ``log_prob``.
        beta: The weight of the total correlation.
        data_size: Number of training data, which the estimate of q(z) from a batch depends on; the batch's when
            ``None``.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import DiagonalNormal, StandardNormal
        >>> vae = BetaTCVAE(StandardNormal(2), DiagonalNormal(5, 2), DiagonalNormal(2, 5), data_size=10_000)
        >>> vae.objective()(vae)(torch.zeros(8, 5)).shape
        torch.Size([])
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        context: int = 0,
        num_particles: int = 1,
        *,
        beta: float = 6.0,
        data_size: int | None = None,
    ) -> None:
        super().__init__(prior, likelihood, posterior, context, num_particles)
        self.beta, self.data_size = beta, data_size

    def objective(self) -> "Objective":
        """Returns the decomposed bound."""
        from ...objectives import TotalCorrelation

        return TotalCorrelation(self.beta, data_size=self.data_size)


class FactorVAE(VariationalAutoencoder):
    r"""A variational autoencoder with a penalty on its total correlation, which a critic estimates.

    The critic learns to tell draws of q(z) from draws of the product of its marginals; what it scores is their
    log-ratio. Any reparameterised posterior will do. (Kim and Mnih, Disentangling by Factorising, 2018,
    arXiv:1802.05983.)

    Args:
        prior: As of :class:`~pyro_dgm.models.VAE`, and so are the next four.
        likelihood: p(x | z, c).
        posterior: q(z | x, c).
        context: Width of the context.
        num_particles: Draws of z per datum in ``log_prob``.
        gamma: The weight of the total correlation.
        hidden_features: Hidden widths of the default critic; the paper has six of 1000.
        critic: A module of your own from latents, flattened, (*, L) to scores (*, 1) or (*), in place of the default.

    Example:
        >>> from pyro_dgm.models import DiagonalNormal, StandardNormal
        >>> vae = FactorVAE(StandardNormal(2), DiagonalNormal(5, 2), DiagonalNormal(2, 5))
        >>> [player.name for player in vae.objective()(vae).players]
        ['loss', 'critic']
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        context: int = 0,
        num_particles: int = 1,
        *,
        gamma: float = 10.0,
        hidden_features: Sequence[int] = (256, 256, 256),
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__(prior, likelihood, posterior, context, num_particles)
        self.gamma = gamma
        self.critic = critic or MLP(self.latent_shape.numel(), 1, hidden_features, activation=nn.LeakyReLU)

    def objective(self) -> "Objective":
        """Returns the game of autoencoder and critic."""
        from ...objectives import AdversarialTotalCorrelation

        return AdversarialTotalCorrelation(self.critic, self.gamma)


class InfoVAE(VariationalAutoencoder):
    r"""A variational autoencoder that matches the aggregate posterior, rather than every posterior, to the prior.

    .. math::
        L = -E_{q(z | x)} \log p(x | z) + (1 - \alpha)\, \mathrm{KL}\bigl(q(z | x) \,\|\, p(z)\bigr)
            + \eta\, \mathrm{MMD}^2\bigl(q(z), p(z)\bigr)

    The paper's :math:`\lambda` is in :math:`\eta = \alpha + \lambda - 1`. A strong likelihood then has no reason to
    ignore the latents. With ``alpha=1`` there is no divergence: the MMD-WAE of Tolstikhin, Bousquet, Gelly and
    Schoelkopf, Wasserstein Auto-Encoders, 2017, arXiv:1711.01558, whose reconstruction cost is here a log-likelihood.
    (Zhao, Song and Ermon, InfoVAE: Information Maximizing Variational Autoencoders, 2017, arXiv:1706.02262.)

    Args:
        prior: As of :class:`~pyro_dgm.models.VAE`, and so are the next four. If it cannot be reparameterised, as a
            mixture, the divergence alone moves it.
        likelihood: p(x | z, c).
        posterior: q(z | x, c).
        context: Width of the context.
        num_particles: Draws of z per datum in ``log_prob``.
        alpha: How much of the divergence to leave out, at most 1.
        mmd_weight: The weight eta, in nats per unit of the squared discrepancy. That is far below 1 in general, and the
            reconstruction of an image hundreds of nats, so that useful weights are large.

    Raises:
        ValueError: If alpha exceeds 1, which would reward divergence without bound.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import DiagonalNormal, StandardNormal
        >>> wae = InfoVAE(StandardNormal(2), DiagonalNormal(5, 2), DiagonalNormal(2, 5), alpha=1.0)
        >>> wae.objective()(wae)(torch.zeros(8, 5)).shape
        torch.Size([])
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        context: int = 0,
        num_particles: int = 1,
        *,
        alpha: float = 0.5,
        mmd_weight: float = 100.0,
    ) -> None:
        if not alpha <= 1:
            raise ValueError(f"alpha: expected at most 1, got {alpha}; 1 leaves the divergence out")
        super().__init__(prior, likelihood, posterior, context, num_particles)
        self.alpha, self.mmd_weight = alpha, mmd_weight

    def objective(self) -> "Objective":
        """Returns reconstruction, divergence and discrepancy, weighted."""
        from ...objectives import MaximumMeanDiscrepancy

        return MaximumMeanDiscrepancy(self.mmd_weight, kl_weight=1 - self.alpha)
