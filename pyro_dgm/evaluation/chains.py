r"""Whether a Markov chain has mixed, by what several chains say of each other: a necessary condition, no proof.

$$\hat R = \sqrt{\frac{\frac{N - 1}{N} W + \frac{1}{N} B}{W}}, \qquad
  \mathrm{ESS} = \frac{M N}{1 + 2 \sum_{t \ge 1} \hat\rho_t}, \qquad
  \hat\rho_t = \frac{\sum_i (x_i - \bar x)(x_{i + t} - \bar x)}{\sum_i (x_i - \bar x)^2}$$

of one number that M chains of N draws follow, W being the variance within chains and B/N that between their means.
R-hat near 1 says that the chains have forgotten where they started (1.01 is a usual limit), and the effective sample
size how many independent draws would know the mean as well. Both are ArviZ's, on ranks and on split chains; chains
that all miss the same mode are not found out.

Aki Vehtari, Andrew Gelman, Daniel Simpson, Bob Carpenter, Paul-Christian Buerkner: Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC, 2021, arXiv:1903.08008.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor


class ChainDiagnostics(NamedTuple):
    """What `chain_diagnostics` returns, for each number of an event.

    Attributes:
        r_hat: R-hat, with shape `event_shape`; NaN for a number that never changes.
        ess: effective sample size, out of M N draws, with shape `event_shape`.
        autocorrelation: rho_t for t = 0, 1, ..., lags, mean over chains, with shape `[lags + 1] + event_shape`.
    """

    r_hat: Tensor
    ess: Tensor
    autocorrelation: Tensor

    def __str__(self) -> str:
        r_hat, ess = (t[~t.isnan()].flatten() for t in (self.r_hat, self.ess))
        if not len(r_hat):
            return "no number ever changes"
        return f"R-hat at most {r_hat.max().item():.3f}, effective sample size at least {ess.min().item():.0f}"


def chain_diagnostics(draws: Tensor, lags: int = 20) -> ChainDiagnostics:
    """Judge the mixing of chains by R-hat, effective sample size and autocorrelation of every number.

    Of images look at a few summaries rather than at pixels, most of which hardly change: `draws.flatten(2) @ w`
    for some directions w, say.

    Args:
        draws: consecutive states of chains, with shape `[chains, draws] + event_shape`, as `MarkovChain.run` returns
            them; at least 2 chains of at least 4 draws.
        lags: the last lag of the autocorrelation, less than the number of draws.

    Returns:
        R-hat, effective sample sizes, and autocorrelations, in float64.

    Raises:
        ValueError: there are too few chains, draws or lags, or something is not finite.
        ImportError: ArviZ is not installed.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> independent = torch.randn(4, 500)
        >>> bool(chain_diagnostics(independent).r_hat < 1.01)
        True
    """
    if draws.dim() < 2 or draws.shape[0] < 2 or draws.shape[1] < 4:
        raise ValueError(
            f"draws: expected shape (chains, draws, *event) with at least 2 chains of 4 draws, got "
            f"{tuple(draws.shape)}; MarkovChain.run(draws, chains) returns such."
        )
    if not 1 <= lags < draws.shape[1]:
        raise ValueError(f"lags: expected at least 1 and less than the {draws.shape[1]} draws, got {lags}.")
    if not draws.isfinite().all():
        raise ValueError("draws: expected finite numbers; the chain has left the support.")
    x = draws.detach().cpu().double()
    event_shape = x.shape[2:]
    r_hat, ess = _by_arviz(x.flatten(2) if event_shape else x[..., None])
    return ChainDiagnostics(r_hat.reshape(event_shape), ess.reshape(event_shape), _autocorrelation(x, lags))


def _by_arviz(x: Tensor) -> tuple[Tensor, Tensor]:
    """R-hat and effective sample size of numbers, (chains, draws, D), by either version of ArviZ."""
    with warnings.catch_warnings():  # 0.23 announces 1.x on import
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
        import xarray
    data = xarray.Dataset({"x": (("chain", "draw", "number"), x.numpy())})
    with warnings.catch_warnings():  # of 0 / 0, where a number never changes
        warnings.simplefilter("ignore", RuntimeWarning)
        r_hat, ess = arviz.rhat(data)["x"].values, arviz.ess(data)["x"].values
    still = (x == x[:1, :1]).all(0).all(0)
    return tuple(torch.from_numpy(t.copy()).masked_fill(still, torch.nan) for t in (r_hat, ess))


def _autocorrelation(x: Tensor, lags: int) -> Tensor:
    """The autocorrelations of (chains, draws, *event) at 0..lags, mean over chains that move."""
    x = x - x.mean(1, keepdim=True)
    n = x.shape[1]
    spectrum = torch.fft.rfft(x, n=2 * n, dim=1).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n, dim=1)[:, : lags + 1]
    return (covariance / covariance[:, :1]).nanmean(0)
