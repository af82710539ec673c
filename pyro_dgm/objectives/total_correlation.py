r"""The divergence of an autoencoder in three parts, and two ways to weight the one that makes latents dependent.

.. math::
    E_x \mathrm{KL}\bigl(q(z | x) \,\|\, p(z)\bigr) = I_q(x; z) + \mathrm{TC}(z) + \mathrm{DW}(z)

    I = E \log \frac{q(z | x)}{q(z)}, \qquad \mathrm{TC} = E \log \frac{q(z)}{\prod_j q(z_j)}, \qquad
    \mathrm{DW} = E \log \frac{\prod_j q(z_j)}{p(z)}

The aggregate posterior :math:`q(z) = \frac1N \sum_n q(z | x_n)` is a mixture over all N data, of which a batch has M.
:class:`TotalCorrelation` estimates it from the batch, :class:`AdversarialTotalCorrelation` avoids it by a critic.
"""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import at_least_float32
from .aggregate import Draws, draw, flat, weight_of
from .base import Objective, Player, penalised, unique_parameters

Sampling = Literal["stratified", "weighted"]


class Decomposition(NamedTuple):
    """The mean divergence of a batch in nats per datum, in three parts whose sum it is.

    Attributes:
        mutual_information: How much z tells of which datum it belongs to.
        total_correlation: How far the latent features are from independent.
        dimension_wise: How far their marginals are from the prior.
    """

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise: Tensor


def log_weights(m: int, n: int, sampling: Sampling, like: Tensor) -> Tensor:
    r"""Returns the logarithms of the weights, shape (M, M), by which a batch of M stands for N data in :math:`q(z_i)`.

    Stratified: the datum that z was drawn from has its true weight 1 / N, the others share the rest evenly,

    .. math::
        w_{ii} = \frac1N, \qquad w_{ij} = \frac{N - 1}{N (M - 1)},

    which makes the estimate of q(z) unbiased, and the mixture itself if the batch is all data. (It is the estimate of
    Chen et al. averaged over the choice of the one datum which they weigh less.) Weighted, the simpler one of theirs,
    all of them have the weight 1 / (N M).
    """
    eye = torch.eye(m, dtype=torch.bool, device=like.device)
    own, other = 1 / n, (n - 1) / (n * max(m - 1, 1))
    if sampling == "weighted":
        own = other = 1 / (n * m)
    other = math.log(other) if other > 0 else -math.inf
    return torch.where(eye, like.new_tensor(math.log(own)), like.new_tensor(other))


def decompose(draws: Draws, data_size: int | None = None, sampling: Sampling = "stratified") -> Decomposition:
    """Returns the three parts of the divergence at the draws of a batch.

    Args:
        draws: As :func:`~pyro_dgm.objectives.aggregate.draw` makes them.
        data_size: Number N of data that the batch stands for; its own number M when ``None``.
        sampling: How the batch stands for them, see :func:`log_weights`.

    Raises:
        ValueError: If the posterior has no density per feature, or there are fewer data than the batch has.
    """
    q = draws.q
    if not isinstance(q, Independent) or q.base_dist.event_shape:
        raise ValueError(
            "posterior: expected one of independent features, such as DiagonalNormal, whose marginals are known, got "
            f"{type(q).__name__}; AdversarialTotalCorrelation (FactorVAE) takes any"
        )
    m = q.batch_shape.numel()
    n = m if data_size is None else data_size
    if n < m:
        raise ValueError(f"data_size: expected at least the {m} data of the batch, got {n}")
    z = draws.z.reshape(m, *(1,) * len(q.batch_shape), *q.event_shape)
    log_q = at_least_float32(q.base_dist.log_prob(z)).reshape(m, m, -1)  # log q(z_ij | x_k), shape (i, k, j)
    log_w = log_weights(m, n, sampling, log_q)
    log_joint = (log_q.sum(-1) + log_w).logsumexp(1)
    log_product = (log_q + log_w.unsqueeze(-1)).logsumexp(1).sum(-1)
    log_posterior, log_prior = draws.log_posterior.flatten(), draws.log_prior.flatten()
    parts = (log_posterior - log_joint, log_joint - log_product, log_product - log_prior)
    return Decomposition(*(part.mean() for part in parts))


class TotalCorrelation(Objective):
    r"""The negative lower bound with a weight for each part of its divergence, in mean nats per datum.

    .. math::
        L = -E \log p(x | z) + \alpha\, I_q(x; z) + \beta\, \mathrm{TC}(z) + \gamma\, \mathrm{DW}(z)

    With all weights 1 it is the ELBO, whatever the batch. The estimate of q(z) costs M^2 densities for a batch of M. It
    is unbiased, its logarithm is not: of few data, the mutual information comes out at most log M. (Chen, Li, Grosse
    and Duvenaud, Isolating Sources of Disentanglement in VAEs, 2018, arXiv:1802.04942.)

    Args:
        beta: The weight of the total correlation: a number, or a module without arguments such as
            :class:`~pyro_dgm.objectives.LinearWarmup`.
        alpha: The weight of the mutual information.
        gamma: The weight of the dimension-wise divergence.
        data_size: Number N of training data; that of the batch when ``None``, as if it were all. ``SVI`` may pass it
            with every batch.
        sampling: ``"stratified"``, unbiased for q(z), or ``"weighted"``, whose gradient does not depend on N, and which
            is biased even if the batch is all data.

    Raises:
        ValueError: If the sampling is another.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> parts = TotalCorrelation(data_size=10_000).decomposition(vae, torch.zeros(8, 5))
        >>> parts.total_correlation.shape
        torch.Size([])
    """

    def __init__(
        self,
        beta: float | nn.Module = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        *,
        data_size: int | None = None,
        sampling: Sampling = "stratified",
    ) -> None:
        super().__init__()
        if sampling not in ("stratified", "weighted"):
            raise ValueError(f"sampling: expected 'stratified' or 'weighted', got {sampling!r}")
        self.beta, self.alpha, self.gamma = beta, alpha, gamma
        self.data_size, self.sampling = data_size, sampling

    def decomposition(self, model: Any, x: Tensor, *context: Tensor) -> Decomposition:
        """Returns the three parts of the divergence on a batch, of one draw of z per datum."""
        return decompose(draw(model, x, *context), self.data_size, self.sampling)

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the weighted bound per datum."""
        draws = draw(model, *batch)
        parts = decompose(draws, settings.get("data_size") or self.data_size, self.sampling)
        divergence = (
            self.alpha * parts.mutual_information
            + weight_of(self.beta) * parts.total_correlation
            + self.gamma * parts.dimension_wise
        )
        return divergence - draws.log_likelihood.mean()


class AdversarialTotalCorrelation(Objective):
    r"""The negative lower bound and a critic's estimate of the total correlation, weighted, in mean nats per datum.

    .. math::
        L = -\mathrm{ELBO} + \gamma\, E_{q(z)} D(z), \qquad
        L_D = E_{q(z)}\, \mathrm{softplus}(-D(z)) + E_{\prod_j q(z_j)}\, \mathrm{softplus}(D(z))

    The best critic is :math:`D(z) = \log q(z) - \sum_j \log q(z_j)`, whose mean over q(z) is the total correlation. It
    sees draws for the batch, and other draws for the same batch whose features are exchanged at random between data.
    (Kim and Mnih, Disentangling by Factorising, 2018, arXiv:1802.05983, who take the second draws from a second batch.)

    Args:
        critic: A module from latents, flattened, (*, L) to scores (*, 1) or (*).
        gamma: The weight of the total correlation: a number, or a module without arguments.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> AdversarialTotalCorrelation(nn.Linear(2, 1), gamma=5.0)(vae)(torch.zeros(8, 5)).shape
        torch.Size([])
    """

    def __init__(self, critic: nn.Module, gamma: float | nn.Module = 10.0) -> None:
        super().__init__()
        self.critic, self.gamma = critic, gamma

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the autoencoder and the critic; both move at every batch."""
        critic = unique_parameters([self.critic])
        own = unique_parameters([model, guide], but=critic)
        return [
            Player("loss", own, partial(self.loss_of, model, guide)),
            # the settings of Kim and Mnih
            Player("critic", critic, partial(self.critic_loss, model), adam={"lr": 1e-4, "betas": (0.5, 0.9)}),
        ]

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the autoencoder's loss."""
        draws = draw(model, *batch)
        bound = draws.log_likelihood + draws.log_prior - draws.log_posterior
        return weight_of(self.gamma) * self._score(flat(draws.z, draws.q)).mean() - bound.mean()

    def critic_loss(self, model: Any, *batch: Any) -> Tensor:
        """Returns the critic's loss: the cross-entropy of telling draws of q(z) from those of independent features."""
        with torch.no_grad():
            joint, other = (flat(each.z, each.q) for each in (draw(model, *batch), draw(model, *batch)))
            product = other.gather(0, torch.rand_like(other).argsort(0))
        return F.softplus(-self._score(joint)).mean() + F.softplus(self._score(product)).mean()

    def _score(self, z: Tensor) -> Tensor:
        return at_least_float32(self.critic(z)).reshape(len(z))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Raises: a game of two players has no single loss for ``SVI`` to descend.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "AdversarialTotalCorrelation: SVI has one loss and one optimizer, a game has two; train with "
            "pyro_dgm.fit, or by TotalCorrelation"
        )
