r"""The maximum mean discrepancy: how far apart the means of two distributions are in a kernel's feature space.

.. math::
    \mathrm{MMD}^2(P, Q) = E\, k(x, x') + E\, k(y, y') - 2 E\, k(x, y), \qquad x, x' \sim P, \; y, y' \sim Q

It is zero if and only if P = Q, for kernels like the first two here, and can be estimated without bias from samples
alone, no density asked for. (Gretton, Borgwardt, Rasch, Schoelkopf and Smola, A Kernel Two-Sample Test, JMLR 13, 2012.)
:class:`MaximumMeanDiscrepancy` brings an autoencoder's latents to the prior by it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .aggregate import draw, flat, weight_of
from .base import Objective, penalised

Kernel = Callable[[Tensor, Tensor], Tensor]


class RBF:
    r"""The Gaussian kernel.

    .. math::
        k(x, y) = e^{-|x - y|^2 / (2 h^2)}

    Args:
        bandwidth: The distance h on which it sees differences; the square root of the number D of features when
            ``None``, which is about the distance of a standard normal draw from the origin.

    Raises:
        ValueError: If the bandwidth is not positive.

    Example:
        >>> RBF(1.0)(torch.zeros(3, 2), torch.ones(4, 2)).shape
        torch.Size([3, 4])
    """

    def __init__(self, bandwidth: float | None = None) -> None:
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError(f"bandwidth: expected a positive number, got {bandwidth}")
        self.bandwidth = bandwidth

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns k, with shape (*, n, m), for x with shape (*, n, D) and y with shape (*, m, D)."""
        variance = x.shape[-1] if self.bandwidth is None else self.bandwidth**2
        return distances(x, y).square().mul(-0.5 / variance).exp()


class InverseMultiquadratic:
    r"""A sum of inverse multiquadratic kernels, whose tails are heavier: outliers keep a gradient.

    .. math::
        k(x, y) = \frac{1}{S} \sum_{s=1}^S \frac{s\, C}{s\, C + |x - y|^2}

    With C = 2 D, the mean squared distance of two standard normal draws, it is the kernel of Tolstikhin, Bousquet,
    Gelly and Schoelkopf, Wasserstein Auto-Encoders, 2017, arXiv:1711.01558, divided by the number S of scales.

    Args:
        scales: The scales s.

    Raises:
        ValueError: If there is none, or one that is not positive.

    Example:
        >>> InverseMultiquadratic((1.0,))(torch.zeros(1, 2), torch.ones(1, 2)).item()
        0.6666666865348816
    """

    def __init__(self, scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales: expected positive numbers, at least one, got {scales}")
        self.scales = tuple(scales)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns k, with shape (*, n, m), for x with shape (*, n, D) and y with shape (*, m, D)."""
        squared = distances(x, y).square()
        c = [2 * x.shape[-1] * s for s in self.scales]
        return sum(each / (each + squared) for each in c) / len(c)


class Polynomial:
    r"""The polynomial kernel, which compares moments up to its degree; the kernel inception distance has it.

    .. math::
        k(x, y) = \left(\frac{x^T y}{D} + 1\right)^d

    Zero discrepancy says that the moments agree, not that P = Q. (Binkowski, Sutherland, Arbel and Gretton,
    Demystifying MMD GANs, 2018, arXiv:1801.01401.)

    Args:
        degree: The degree d.

    Raises:
        ValueError: If the degree is less than 1.

    Example:
        >>> Polynomial()(torch.ones(1, 4), torch.ones(1, 4)).item()
        8.0
    """

    def __init__(self, degree: int = 3) -> None:
        if degree < 1:
            raise ValueError(f"degree: expected at least 1, got {degree}")
        self.degree = degree

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns k, with shape (*, n, m), for x with shape (*, n, D) and y with shape (*, m, D)."""
        return (x @ y.mT / x.shape[-1] + 1) ** self.degree


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Returns all distances |x_i - y_j|, equal ones to the last bit, also far from the origin, where products round."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def squared_mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    r"""Returns the unbiased estimate of the squared discrepancy, a scalar that can be differentiated.

    .. math::
        \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m - 1)}
        - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}

    Being unbiased, it is often negative when P = Q. For a test, and for more samples than memory holds the square of,
    there is ``evaluation.mmd``.

    Args:
        x: Samples of P, with shape (n, D), n >= 2.
        y: Samples of Q, with shape (m, D), m >= 2.
        kernel: Such as :class:`RBF`; symmetric.

    Raises:
        ValueError: If there are fewer than two samples of either.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"x: expected at least 2 samples of each for a discrepancy, got {n} and {m}")

    def within(points: Tensor) -> Tensor:
        k = kernel(points, points)
        return (k.sum() - k.diagonal().sum()) / (len(points) * (len(points) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


class MaximumMeanDiscrepancy(Objective):
    r"""The negative log-likelihood given z, a multiple of the divergence, and one of the discrepancy of q(z) and p(z).

    .. math::
        L = E\bigl[-\log p(x | z) + w\, \bigl(\log q(z | x) - \log p(z)\bigr)\bigr]
            + \eta\, \mathrm{MMD}^2\bigl(q(z), p(z)\bigr)

    in mean nats per datum, the draws of the batch as samples of q(z), and as many of the prior. w = 0 makes a
    Wasserstein autoencoder of a log-likelihood. (Zhao, Song and Ermon, InfoVAE, 2017, arXiv:1706.02262; Tolstikhin et
    al., Wasserstein Auto-Encoders, 2017, arXiv:1711.01558.)

    A batch of a single datum, which has no discrepancy, goes without.

    Args:
        mmd_weight: The weight eta: a number, or a module without arguments such as
            :class:`~pyro_dgm.objectives.LinearWarmup`.
        kl_weight: The weight w of the divergence, likewise; InfoVAE's 1 - alpha.
        kernel: Maps (n, D) and (m, D) to (n, m); :class:`InverseMultiquadratic` when ``None``.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> MaximumMeanDiscrepancy(kernel=RBF())(vae)(torch.zeros(8, 5)).shape
        torch.Size([])
    """

    def __init__(
        self,
        mmd_weight: float | nn.Module = 100.0,
        kl_weight: float | nn.Module = 0.0,
        kernel: Kernel | None = None,
    ) -> None:
        super().__init__()
        self.mmd_weight, self.kl_weight = mmd_weight, kl_weight
        self.kernel = kernel or InverseMultiquadratic()

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the weighted sum."""
        draws = draw(model, *batch)
        divergence = draws.log_posterior - draws.log_prior
        loss = (weight_of(self.kl_weight) * divergence - draws.log_likelihood).mean()
        mmd_weight = weight_of(self.mmd_weight)
        if divergence.numel() < 2:  # the last of a batch size that leaves one datum
            return loss
        prior = draws.p.prior.expand(draws.q.batch_shape)
        other = prior.rsample() if prior.has_rsample else prior.sample()
        return loss + mmd_weight * squared_mmd(flat(draws.z, draws.q), flat(other, draws.q), self.kernel)
