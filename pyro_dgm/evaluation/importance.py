r"""The likelihood of a latent variable model by importance sampling, with all its errors.

.. math::
    \log \hat p_K(x) = \log \frac{1}{K} \sum_{k=1}^K \frac{p(x | z_k)\, p(z_k)}{q(z_k | x)}, \quad z_k \sim q(z | x)

is at most :math:`\log p(x)` on average, and rises to it with K (Burda, Grosse and Salakhutdinov, Importance Weighted
Autoencoders, 2015, arXiv:1509.00519, where K = 5000 is what test likelihoods are reported with). Three things are
wrong with a mean of it over n test data, and each has its number:

- the test set is finite: ``standard_error``, sd(log p_K(x_i)) / sqrt(n), which contains what follows, too;
- the weights are random: ``monte_carlo_error``, by which the mean would differ if it were computed again;
- few weights carry all: ``effective_size`` of each datum. Where it is near 1, the bound is loose, and the Monte Carlo
  error is too small to be true.

None of them sees what no particle has seen: a q that is much too narrow, or misses a mode, looks well with a loose
bound. :func:`~pyro_dgm.evaluation.annealed`, which needs no q, is the judge of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyro
import torch
from torch import Tensor, nn

from ..distributions import Marginal
from ..mcmc import Weights
from .likelihood import batches, bits_per_dim, evaluating

_NUMBERS = 2**20  # of data at a time on a processor: what is made of them stays in its cache
_NUMBERS_ON_GPU = 2**25
_FEW = 10  # effective particles below which their error is not to be trusted


class Evidence(NamedTuple):
    """The estimated log-likelihood of held-out data, datum by datum and on average, with its errors.

    Attributes:
        mean: mean of log p(x_i), nats per datum.
        standard_error: standard error of `mean` over data and particles, nats per datum.
        monte_carlo_error: the share of the particles in it: the error for these very data.
        density: what `mean` is on average: "lower_bound" (or "upper_bound", of a reverse chain).
        bits_per_dim: `mean` in bits per dimension.
        n: number of data.
        num_particles: number of weights per datum.
        log_prob: log p(x_i) in nats, shape `[n]`, float64.
        log_prob_error: Monte Carlo error of each, shape `[n]`.
        effective_size: effective number of its particles, shape `[n]`.
    """

    mean: float
    standard_error: float
    monte_carlo_error: float
    density: str
    bits_per_dim: float
    n: int
    num_particles: int
    log_prob: Tensor
    log_prob_error: Tensor
    effective_size: Tensor

    def __str__(self) -> str:
        least = min(_FEW, self.num_particles / 4)
        few = int((self.effective_size < least).sum())
        warning = f"; {few} data with fewer than {least:g}, whose error is not to be trusted" if few else ""
        return (
            f"{self.mean:.3f} ± {self.standard_error:.3f} nats per datum ({self.density.replace('_', ' ')}), "
            f"{self.bits_per_dim:.3f} bits/dim, n = {self.n}; {self.num_particles} particles, Monte Carlo error "
            f"{self.monte_carlo_error:.2g}, effective particles {self.effective_size.median():.1f} (median){warning}"
        )


def importance_weighted(
    model: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    num_particles: int = 5000,
    *,
    levels: int | None = None,
    chunk_size: int | None = None,
    compile: bool = False,
) -> Evidence:
    """Importance-weighted log-likelihood of held-out data, with standard errors and effective sample sizes.

    Memory is that of one chunk, whatever the number of data and particles. Every datum is inferred once, and all its
    particles decoded in chunks that stay in the processor's cache. Arguments of distributions are checked for the
    data only. Runs without gradients and in evaluation mode.

    Args:
        model: called with a context (or None), returns a `Marginal`: a VAE or another latent variable model.
        x: data, with shape `[n] + event_shape`, n >= 2.
        context: one context for each datum, shape `[n, context]`, or one for all, shape `[context]`.
        num_particles: K; the bound rises with it.
        levels: see `bits_per_dim`.
        chunk_size: pairs (datum, z) decoded at a time; default as many as make 2^20 numbers of data on a processor,
            2^25 on a GPU.
        compile: whether the decoding of a chunk is traced and compiled, which takes seconds, and is worth them from
            some millions of pairs on. (Data are then inferred once for every chunk.)

    Returns:
        Mean with its errors, and the numbers of each datum.

    Raises:
        ValueError: the model is none with a latent variable, or shapes or numbers do not fit.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> importance_weighted(vae, torch.zeros(3, 5), num_particles=100).log_prob.shape
        torch.Size([3])
    """
    if num_particles < 1:
        raise ValueError(f"num_particles: expected at least 1, got {num_particles}.")
    if chunk_size is None:
        chunk_size = chunk_of(x)
    rows = max(1, min(len(x), chunk_size // num_particles))
    draws = min(num_particles, max(1, chunk_size // rows))
    with torch.no_grad(), evaluating(model):
        draw = _compiled(model, draws) if compile else _eager
        weights = [_weigh(model, draw, batch, num_particles, draws) for batch in several(x, context, rows)]
    return evidence(weights, x.shape[1:], levels)


def _weigh(model: nn.Module, draw: Callable, batch: Sequence[Tensor], num_particles: int, draws: int) -> Weights:
    """Weights of all particles of a few data, so many draws at a time."""
    p, q = inferred(model, *batch)
    weights = Weights()
    with pyro.validation_enabled(False):
        for done in range(0, num_particles, draws):
            left = num_particles - done
            weights.add(draw(p, q, batch, draws) if left >= draws else _eager(p, q, batch, left))
    return weights


def _eager(p: Marginal, q: torch.distributions.Distribution, batch: Sequence[Tensor], draws: int) -> Tensor:
    log_likelihood, log_ratios = p.terms(batch[0], q, (draws,))
    return sum(log_ratios.values(), log_likelihood)


def _compiled(model: nn.Module, draws: int) -> Callable:
    """Draws log-weights by a compiled graph, which takes data, infers them, and decodes so many particles."""
    from ..training.compilation import inductor
    from ..training.tracing import Replay

    replay = Replay(lambda *batch: (_eager(*inferred(model, *batch), batch, draws),), [model], inductor)
    return lambda p, q, batch, draws: replay(*batch)[0]


def inferred(model: nn.Module, x: Tensor, *context: Tensor) -> tuple[Marginal, torch.distributions.Distribution]:
    """The distribution of a latent variable model and its proposal for data."""
    p = model(*context)
    if not isinstance(p, Marginal):
        raise ValueError(
            f"model: expected one with a latent variable, whose distribution is a Marginal, got one of "
            f"{type(p).__name__}; use held_out."
        )
    if x.shape[1:] != p.event_shape:
        raise ValueError(f"x: expected shape (n, *{tuple(p.event_shape)}), got {tuple(x.shape)}.")
    return p, p.proposal(x)


def chunk_of(x: Tensor) -> int:
    """Pairs (datum, z) to decode at a time, on the device of the data."""
    return max(1, (_NUMBERS if x.device.type == "cpu" else _NUMBERS_ON_GPU) // max(1, x[0].numel()))


def several(x: Tensor, context: Tensor | None, rows: int) -> Iterator[tuple[Tensor, ...]]:
    """At least two data, so many at a time, each with its context: `(x,)` or `(x, context)`."""
    if len(x) < 2:
        raise ValueError(f"x: expected at least 2 data for a standard error, got {len(x)}; pass more data.")
    if rows < 1:
        raise ValueError(f"chunk_size, batch_size: expected at least 1, got {rows}.")
    for x_batch, c in batches(x, context, rows):
        yield (x_batch,) if c is None else (x_batch, c)


def evidence(
    weights: Sequence[Weights], event_shape: Sequence[int], levels: int | None = None, density: str = "lower_bound"
) -> Evidence:
    """Results for all data from the weights of each batch; an upper bound's are those of 1 / p(x)."""
    sign = -1 if density == "upper_bound" else 1
    log_p = sign * torch.cat([w.log_mean for w in weights]).cpu()
    error = torch.cat([w.error for w in weights]).cpu()
    mean, n = log_p.mean(), len(log_p)
    return Evidence(
        mean=mean.item(),
        standard_error=log_p.std().item() / math.sqrt(n),
        monte_carlo_error=error.square().sum().sqrt().item() / n,
        density=density,
        bits_per_dim=bits_per_dim(mean, event_shape, levels).item(),
        n=n,
        num_particles=weights[0].count,
        log_prob=log_p,
        log_prob_error=error,
        effective_size=torch.cat([w.effective_size for w in weights]).cpu(),
    )
