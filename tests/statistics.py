"""Tests of samples against densities with a p-value that is right in both tails.

Pyro's own goodness-of-fit helpers take their p-value from a truncated series that returns 1 for terrible fits
(``chi2sf(540, 27)`` is 1, the truth 8e-97), so a doubled log-determinant passes them.
"""

import torch
from torch import Tensor


def chi_squared_p_value(observed: Tensor, expected: Tensor) -> float:
    """Returns the p-value of Pearson's test on counts; cells expected fewer than 5 times are pooled."""
    small = expected < 5
    observed = torch.cat([observed[~small], observed[small].sum()[None]])
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    keep = expected > 0
    statistic = ((observed - expected)[keep].square() / expected[keep]).sum()
    return float(torch.special.gammaincc((keep.sum() - 1).double() / 2, statistic.double() / 2))


def grid_2d(low: float, high: float, n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, float]:
    """Returns the n x n cell centres of a square, with shape (n * n, 2), and the area of a cell."""
    step = (high - low) / n
    axis = low + step * (torch.arange(n, dtype=dtype) + 0.5)
    return torch.cartesian_prod(axis, axis), step * step


def within(draws: Tensor, exact: float, errors: float) -> bool:
    """Whether the mean of independent draws lies within so many standard errors of the exact value."""
    error = draws.double().std() / len(draws) ** 0.5
    return bool((draws.double().mean() - exact).abs() < errors * error)
