r"""The likelihood of a latent variable model by annealed importance sampling, from below and from above.

.. math::
    E \log \hat p(x) \le \log p(x) \le E \log \check p(x)

The lower bound, of chains from the prior to the posterior, holds for any data, and does not depend on how good the
encoder is, as the importance-weighted bound does. The upper one, of chains back from an exact draw of the posterior,
exists for data simulated by the model itself. Where both meet, so many temperatures are enough, for simulated data at
least; where they do not, their gap says how far off either can be. (Wu, Burda, Salakhutdinov and Grosse, 2017,
arXiv:1611.04273; Grosse, Ghahramani and Adams, 2015, arXiv:1511.02543; the chains are in :mod:`pyro_dgm.mcmc.ais`.)

Cost is T L gradients of the decoder per chain and datum, T temperatures, L leapfrog steps: this is for models with
continuous latents and hundreds of data, not for every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyro
import torch
from torch import Tensor, nn

from ..distributions import Marginal
from ..mcmc import PosteriorAnnealing, Weights
from ..mcmc.ais import Initial
from .importance import Evidence, chunk_of, evidence, inferred, several
from .likelihood import evaluating


class Sandwich(NamedTuple):
    """Bounds of the log-likelihood of simulated data on both sides.

    Attributes:
        lower: estimates by chains from prior to posterior.
        upper: estimates by chains from posterior to prior.
        gap: mean of the differences, nats per datum, which bounds the error of either.
        gap_error: its standard error over data and chains.
    """

    lower: Evidence
    upper: Evidence
    gap: float
    gap_error: float


def annealed(
    model: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    num_temperatures: int = 500,
    num_chains: int = 16,
    *,
    initial: Initial = "prior",
    leapfrog_steps: int = 10,
    levels: int | None = None,
    batch_size: int | None = None,
) -> Evidence:
    """Log-likelihood of held-out data by annealed importance sampling, with its errors.

    Runs in evaluation mode. The step sizes of Hamiltonian Monte Carlo are found in a pilot run, of fifty
    temperatures or so, and differ between data and temperatures.

    Args:
        model: called with a context (or None), returns a `Marginal` with continuous, unconstrained latents.
        x: data, with shape `[n] + event_shape`, n >= 2.
        context: one context for each datum, shape `[n, context]`, or one for all, shape `[context]`.
        num_temperatures: T; the bound rises with it, much more than with the chains.
        num_chains: chains, and so weights, per datum.
        initial: "prior", or "posterior" to start from q(z | x).
        leapfrog_steps: L, gradients per temperature.
        levels: see `bits_per_dim`.
        batch_size: data at a time; default as many as keep the decoded numbers of all chains in the cache.

    Returns:
        Mean with its errors, and the numbers of each datum; particles are chains.

    Raises:
        ValueError: the model has no such latents, or shapes or numbers do not fit.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> annealed(vae, torch.zeros(3, 5), num_temperatures=10, num_chains=2).log_prob.shape
        torch.Size([3])
    """
    rows = max(1, chunk_of(x) // max(1, num_chains)) if batch_size is None else batch_size
    weights = []
    with torch.no_grad(), evaluating(model):
        for batch in several(x, context, rows):
            with _unchecked(model, *batch) as p:
                annealing = PosteriorAnnealing(p, batch[0], num_chains, num_temperatures, leapfrog_steps, initial)
                weights.append(Weights().add(annealing.forward()[1]))
    return evidence(weights, x.shape[1:], levels)


def bidirectional(
    model: nn.Module,
    num_data: int = 100,
    context: Tensor | None = None,
    num_temperatures: int = 500,
    num_chains: int = 16,
    *,
    initial: Initial = "prior",
    leapfrog_steps: int = 10,
    levels: int | None = None,
    batch_size: int | None = None,
) -> Sandwich:
    """Bounds of log p(x) on both sides, for data that are simulated by the model.

    A check of `annealed` at the same settings: its error is at most about the gap found here, as far as real data are
    like simulated ones. All chains of a datum share the exact draw that the reverse ones start from, so that it is
    `standard_error` and `gap_error` that judge the upper bound, not its Monte Carlo error, which is too small.

    Args:
        model: as in `annealed`.
        num_data: number of data to simulate.
        context: contexts to simulate them for, shape `[num_data, context]` or `[context]`.
        num_temperatures: T, in either direction.
        num_chains: chains per datum, in either direction.
        initial: "prior" or "posterior", the other end of the path.
        leapfrog_steps: L, gradients per temperature.
        levels: see `bits_per_dim`.
        batch_size: data at a time; default as in `annealed`.

    Returns:
        Both bounds, for the same data, and their gap.

    Raises:
        ValueError: as in `annealed`.
    """
    with torch.no_grad(), evaluating(model):
        z, x = _simulated(model, num_data, context)
        rows = max(1, chunk_of(x) // max(1, num_chains)) if batch_size is None else batch_size
        lower, upper = [], []
        for batch, exact in zip(several(x, context, rows), z.split(rows), strict=True):
            with _unchecked(model, *batch) as p:
                annealing = PosteriorAnnealing(p, batch[0], num_chains, num_temperatures, leapfrog_steps, initial)
                lower.append(Weights().add(annealing.forward()[1]))
                upper.append(Weights().add(annealing.backward(exact)[1]))
    below, above = evidence(lower, x.shape[1:], levels), evidence(upper, x.shape[1:], levels, "upper_bound")
    gaps = above.log_prob - below.log_prob
    return Sandwich(below, above, gaps.mean().item(), gaps.std().item() / len(gaps) ** 0.5)


@contextmanager
def _unchecked(model: nn.Module, x: Tensor, *context: Tensor) -> Iterator[Marginal]:
    """The distribution of a model, once the data are checked: a trajectory may diverge, and is then rejected."""
    inferred(model, x, *context)
    with pyro.validation_enabled(False):
        yield model(*context)


def _simulated(model: nn.Module, num_data: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Latents and data drawn from the model: an exact draw of the posterior of each datum, and the datum."""
    p = model(context)
    if p.batch_shape not in ((), (num_data,)):
        raise ValueError(
            f"context: expected shape ({num_data}, context) or (context,), got batch shape {tuple(p.batch_shape)}."
        )
    prior = getattr(p, "prior", None)
    if prior is None:
        raise ValueError(f"model: expected one with a latent variable, got one of {type(p).__name__}.")
    z = prior.expand((num_data,)).sample()
    return z, p.likelihood(z).sample()
