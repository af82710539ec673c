r"""Distances of two sets of samples in the space of a feature network: Fréchet and kernel "inception" distances.

With features of data x_i and of samples y_j (`embed(network, ...)`), means :math:`\mu`, covariances :math:`\Sigma`
and a kernel k,

.. math::
    \mathrm{FID} &= |\mu_x - \mu_y|^2 + \mathrm{tr}\bigl(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2}\bigr) \\
    \mathrm{KID} &= E\, k(x, x') + E\, k(y, y') - 2 E\, k(x, y), \qquad k(a, b) = (a^T b / D + 1)^3

FID is the squared Wasserstein distance of the two normal distributions with these moments. Neither is a property of a
model alone: the features belong to the figure, and for FID also the number of samples, for its estimate is biased by
about C / n with a C that depends on the model. KID is unbiased.

In published figures the features are 2,048 outputs of an Inception network trained on ImageNet; with another network
(a classifier of digits, say) the formula is the same and the figures do not compare.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ..objectives.discrepancy import Kernel, Polynomial, squared_mmd
from .vectors import pair


class KernelDistance(NamedTuple):
    """A kernel distance.

    Attributes:
        value: mean over subsets of the unbiased estimate of the squared discrepancy; negative at times if P = Q.
        standard_error: its standard error over the subsets, which share no sample.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"KID {self.value:.4g} ± {self.standard_error:.2g}"


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Fréchet distance of the normal distributions fitted to two sets of features (FID for Inception's).

    The root is never taken of the product of the covariances, which rounding makes indefinite. With
    :math:`\Sigma_x = R_x^T R_x` from a QR decomposition of the centred features,

    .. math:: \mathrm{tr}\, (\Sigma_x \Sigma_y)^{1/2} = \| R_x R_y^T \|_*,

    a sum of singular values, exact up to rounding also for singular covariances. Nothing is added to a diagonal and
    nothing is shrunk. In float64; time is O((n + m) D^2 + D^3).

    References:
        Martin Heusel, Hubert Ramsauer, Thomas Unterthiner, Bernhard Nessler, Sepp Hochreiter: GANs trained by a two
        time-scale update rule converge to a local Nash equilibrium, 2017, arXiv:1706.08500.
        Mikołaj Bińkowski, Danica Sutherland, Michael Arbel, Arthur Gretton: Demystifying MMD GANs, 2018,
        arXiv:1801.01401 (its bias).

    Args:
        x: features of the data, with shape `[n, D]`, n >= 2; further dimensions are flattened.
        y: features of the samples, with shape `[m, D]`, m >= 2; published figures are for 10,000 or 50,000.

    Returns:
        The distance, a float64 scalar in the squared unit of the features, at least 0.

    Raises:
        ValueError: shapes differ, there are fewer than two, or something is not finite.

    Warns:
        UserWarning: there are no more samples than features, so that a covariance is singular and the distance far
            above that of the distributions.

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x + 2.0).item(), 6)
        12.0
    """
    a, b = pair(x, y, least=2)
    if min(len(a), len(b)) <= a.shape[1]:
        warnings.warn(
            f"frechet_distance: {len(a)} and {len(b)} samples of {a.shape[1]} features make singular covariances and a "
            "distance biased upwards; take several times as many samples as features, or kernel_distance.",
            stacklevel=2,
        )
    roots = [torch.linalg.qr(f - f.mean(0), mode="r").R / math.sqrt(len(f) - 1) for f in (a, b)]
    return _distance(a.mean(0) - b.mean(0), *roots)


def frechet_distance_of_moments(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> Tensor:
    """Fréchet distance of two normal distributions, from their moments, such as those stored for a data set.

    Args:
        mean_x: mean of the one, with shape `[D]`.
        cov_x: its covariance, symmetric and positive semi-definite, with shape `[D, D]`.
        mean_y: mean of the other, with shape `[D]`.
        cov_y: its covariance, with shape `[D, D]`.

    Returns:
        The distance, a float64 scalar, at least 0.

    Raises:
        ValueError: shapes do not fit, or a covariance is not symmetric or has a negative eigenvalue, beyond rounding.

    Example:
        >>> zero, eye = torch.zeros(2), torch.eye(2)
        >>> frechet_distance_of_moments(zero, eye, zero + 1, 4 * eye).item()  # |1|^2 + 2 (1 - 2)^2
        4.0
    """
    features = mean_x.numel()
    for name, found, expected in (
        ("mean_x", mean_x, (features,)), ("cov_x", cov_x, (features, features)),
        ("mean_y", mean_y, (features,)), ("cov_y", cov_y, (features, features)),
    ):  # fmt: skip
        if found.shape != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {tuple(found.shape)}.")
    return _distance(mean_x.double() - mean_y.double(), _root(cov_x, "cov_x"), _root(cov_y, "cov_y"))


def kernel_distance(
    x: Tensor, y: Tensor, *, subsets: int = 10, kernel: Kernel | None = None, seed: int = 0
) -> KernelDistance:
    """Kernel distance of two sets of features: the squared maximum mean discrepancy, without bias (KID).

    Both sets are shuffled and dealt into subsets; the estimates of the subsets are independent, so their mean is
    unbiased and its standard error honest. (Subsets drawn afresh from all the samples, as published, share samples,
    and the spread over them, divided by the root of their number, is too small.) In float64.

    References:
        Mikołaj Bińkowski, Danica Sutherland, Michael Arbel, Arthur Gretton: Demystifying MMD GANs, 2018,
        arXiv:1801.01401.

    Args:
        x: features of the data, with shape `[n, D]`; further dimensions are flattened.
        y: features of the samples, with shape `[m, D]`.
        subsets: number of subsets, at least 2; each has min(n, m) / subsets samples of either, rounded down: 1,000 as
            published for 10,000 samples and 10 subsets. What is left over is not used.
        kernel: maps `[n, D]` and `[m, D]` to `[n, m]`; `objectives.Polynomial()` by default.
        seed: seed of the shuffle; the global generator is not touched.

    Returns:
        The distance and its standard error.

    Raises:
        ValueError: shapes differ, something is not finite, or a subset would have fewer than 2 samples.

    Example:
        >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> kernel_distance(x[:100], x[100:] + 3.0).value > 0
        True
    """
    a, b = pair(x, y, least=2)
    size = min(len(a), len(b)) // max(subsets, 1)
    if subsets < 2 or size < 2:
        raise ValueError(
            f"subsets: expected at least 2, and 2 samples for each, got {subsets} for {len(a)} and {len(b)} samples."
        )
    k = kernel or Polynomial()
    generator = torch.Generator(device="cpu").manual_seed(seed)
    orders = [torch.randperm(len(f), generator=generator, device="cpu").to(f.device) for f in (a, b)]
    parts = [f[order[: subsets * size]].split(size) for f, order in zip((a, b), orders, strict=True)]
    values = torch.stack([squared_mmd(*both, k) for both in zip(*parts, strict=True)])
    return KernelDistance(values.mean().item(), values.std().item() / math.sqrt(subsets))


def _root(covariance: Tensor, name: str) -> Tensor:
    """R with R'R equal to the covariance, in float64."""
    sigma = covariance.double()
    if not torch.allclose(sigma, sigma.mT, rtol=1e-5, atol=1e-6 * sigma.abs().max().item()):
        raise ValueError(f"{name}: expected a symmetric matrix, got one that differs from its transpose.")
    values, vectors = torch.linalg.eigh((sigma + sigma.mT) / 2)
    if values[0] < -1e-6 * values[-1].abs():  # what moments stored in float32 may show
        raise ValueError(f"{name}: expected a positive semi-definite matrix, got an eigenvalue of {values[0]:.3g}.")
    return values.clamp_min(0).sqrt()[:, None] * vectors.mT


def _distance(shift: Tensor, root_x: Tensor, root_y: Tensor) -> Tensor:
    """The distance of two normal distributions, given the shift of means and roots R of covariances R'R."""
    trace = torch.linalg.svdvals(root_x @ root_y.mT).sum()
    spread = root_x.square().sum() + root_y.square().sum() - 2 * trace
    return shift.square().sum() + spread.clamp_min(0)
