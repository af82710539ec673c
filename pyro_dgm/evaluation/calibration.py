r"""Calibration of amortised posteriors: does q(theta | x) mean what it says, on average over the data?

Draw parameters from the prior and data from the simulator, theta_i ~ p(theta), x_i ~ p(x | theta_i). If q is
the posterior, then theta_i is one more draw from q(. | x_i), exchangeable with L draws theta_i1, ..., theta_iL
made of it, and for any function f the rank

.. math:: r_i = \#\{l : f(\theta_{il}) < f(\theta_i)\} \in \{0, \dots, L\}

is uniform. Two functions are offered, which fail differently:

    sbc_ranks          f a coordinate: a histogram per parameter. Shaped like a hill, q is too wide; like a
                       valley, too narrow; sloping, biased.
    expected_coverage  f = -log q(. | x_i): how often theta_i lies in the region of highest density that q
                       gives the probability 1 - alpha. Below 1 - alpha, q is overconfident.

Both are necessary and not sufficient: the prior itself, ignoring the data, passes both. `rank_test` is the
chi-squared test of uniformity for the ranks of either.

Sean Talts, Michael Betancourt, Daniel Simpson, Aki Vehtari, Andrew Gelman: Validating Bayesian inference
algorithms with simulation-based calibration, 2018, arXiv:1804.06788.
Joeri Hermans, Arnaud Delaunoy, François Rozet, Antoine Wehenkel, Volodimir Begy, Gilles Louppe: A trust crisis
in simulation-based inference? Your posterior approximations can be unfaithful, 2021, arXiv:2110.06581.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..distributions import density_of

_BLOCK_ROWS = 2**16  # draws evaluated at once


class Coverage(NamedTuple):
    """How often regions of highest density contain the truth.

    Attributes:
        levels: nominal probabilities 1 - alpha, with shape `[K]`.
        coverage: share of the theta_i within their region, with shape `[K]`; equal to `levels` if q is calibrated.
        standard_error: binomial standard error of `coverage` if q is calibrated, with shape `[K]`.
        ranks: the ranks r_i behind it, with shape `[n]`, for `rank_test`.
    """

    levels: Tensor
    coverage: Tensor
    standard_error: Tensor
    ranks: Tensor


def sbc_ranks(posterior: TorchDistribution, theta: Tensor, num_samples: int = 99) -> Tensor:
    """Ranks of true parameters among draws of their posteriors, coordinate by coordinate.

    Args:
        posterior: q(theta | x_i) for every i, e.g. `flow(x)`, with batch shape `(n,)`.
        theta: the parameters that x_i were simulated with, with shape `[n] + event_shape`; continuous, as equal
            values have no rank.
        num_samples: number L of draws for each i.

    Returns:
        Ranks from 0 to L, with shape `[n, D]`, D being the number of coordinates.

    Raises:
        ValueError: theta does not fit the posterior, or num_samples is less than 1.

    Example:
        >>> import pyro.distributions as dist
        >>> x = torch.randn(100, 1)
        >>> sbc_ranks(dist.Normal(x, 1.0).to_event(1), x).shape
        torch.Size([100, 1])
    """
    event_dim = len(posterior.event_shape)
    return _ranks(posterior, theta, num_samples, lambda t: t.reshape(*t.shape[: t.dim() - event_dim], -1))


def expected_coverage(
    posterior: TorchDistribution,
    theta: Tensor,
    num_samples: int = 99,
    levels: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
) -> Coverage:
    r"""Coverage of the regions of highest posterior density, on average over the data.

    theta_i lies in the region of level 1 - alpha if fewer than (1 - alpha)(L + 1) of L draws are denser than it.
    For a calibrated q that has the probability 1 - alpha exactly where (1 - alpha)(L + 1) is an integer, so
    levels are rounded to such values.

    Args:
        posterior: q(theta | x_i) for every i, with batch shape `(n,)` and a density.
        theta: the parameters that x_i were simulated with, with shape `[n] + event_shape`.
        num_samples: number L of draws for each i.
        levels: the probabilities 1 - alpha.

    Returns:
        Levels, coverage, its standard error sqrt(level (1 - level) / n), and the ranks.

    Raises:
        NotImplementedError: the posterior is implicit, it has no density.
        ValueError: theta does not fit the posterior, num_samples is less than 1, or a level is not within (0, 1).
    """
    if density_of(posterior) == "implicit":
        raise NotImplementedError("posterior: it is implicit, without a density; use sbc_ranks instead.")
    if not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels: expected probabilities within (0, 1), got {tuple(levels)}.")
    ranks = _ranks(posterior, theta, num_samples, lambda t: -posterior.log_prob(t).unsqueeze(-1)).squeeze(-1)
    counts = (ranks.new_tensor(levels, dtype=torch.float64) * (num_samples + 1)).round()
    nominal = counts / (num_samples + 1)
    coverage = (ranks < counts.unsqueeze(-1)).double().mean(-1)
    return Coverage(nominal, coverage, (nominal * (1 - nominal) / len(ranks)).sqrt(), ranks)


def rank_test(ranks: Tensor, num_samples: int, bins: int = 20) -> Tensor:
    r"""P-value of the hypothesis that ranks are uniform on 0, ..., L, by Pearson's chi-squared.

    .. math:: \chi^2 = \sum_b \frac{(n_b - n / B)^2}{n / B}, \qquad p = P(\chi^2_{B - 1} \ge \chi^2)

    Args:
        ranks: ranks, with shape `[n]` or `[n, D]`.
        num_samples: L, as the ranks were made with.
        bins: number B of bins of the histogram, a divisor of L + 1.

    Returns:
        One p-value, or D of them; for a verdict over D divide the level by D.

    Raises:
        ValueError: bins does not divide L + 1, ranks are not in 0, ..., L, or there are fewer than 5 a bin.
    """
    if bins < 2 or (num_samples + 1) % bins:
        raise ValueError(f"bins: expected a divisor of num_samples + 1 = {num_samples + 1}, 2 or more, got {bins}.")
    if len(ranks) < 5 * bins:
        raise ValueError(f"ranks: expected at least 5 for each of {bins} bins, got {len(ranks)}; use fewer bins.")
    if ranks.min() < 0 or ranks.max() > num_samples:
        raise ValueError(f"ranks: expected values from 0 to num_samples = {num_samples}, got {ranks.aminmax()}.")
    index = ranks * bins // (num_samples + 1)
    counts = torch.nn.functional.one_hot(index, bins).sum(0).double()
    mean = len(ranks) / bins
    statistic = ((counts - mean).square() / mean).sum(-1)
    return torch.special.gammaincc(statistic.new_tensor((bins - 1) / 2), statistic / 2)


@torch.no_grad()
def _ranks(posterior: TorchDistribution, theta: Tensor, num_samples: int, f: Callable[[Tensor], Tensor]) -> Tensor:
    """Ranks of f(theta), with the shape `[n, K]` of f(theta), a block of draws at a time."""
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}.")
    expected = posterior.batch_shape + posterior.event_shape
    if len(posterior.batch_shape) != 1 or theta.shape != expected:
        raise ValueError(
            f"theta: expected one for each posterior, shape (n,) + event_shape, got {tuple(theta.shape)} for "
            f"batch shape {tuple(posterior.batch_shape)} and event shape {tuple(posterior.event_shape)}."
        )
    truth, ranks = f(theta), 0
    block = max(1, _BLOCK_ROWS // len(theta))
    for start in range(0, num_samples, block):
        draws = posterior.sample(torch.Size([min(block, num_samples - start)]))
        ranks = ranks + (f(draws) < truth).sum(0)
    return ranks
