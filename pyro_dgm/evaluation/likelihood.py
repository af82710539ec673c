"""Held-out log-likelihood: how probable a model finds data it was not trained on.

For data x_1, ..., x_n that the model p never saw, the score of a datum is log p(x_i), or log p(x_i | c_i)
with a context c_i, in nats. Their mean estimates

    E_{x ~ data}[log p(x)]  =  -H(data) - KL(data || p),

so of two models the one with the higher mean is closer to the data in Kullback-Leibler divergence, and no
model can exceed the negative entropy -H(data). The sample mean has standard error sd(log p(x_i)) / sqrt(n).

A score is only as good as the density behind it; `p.density` says which it is, and every result here
repeats it:

    exact        log p(x) itself (a plain Pyro distribution counts as exact)
    lower_bound  at most log p(x), on average over its own draws: an ELBO for instance
    estimate     close to log p(x), with an error of its own
    implicit     not available: compare samples, with `c2st` or `mmd`

For images the custom unit is bits per dimension, D being the number of dimensions of x:

    bits/dim  =  -log p(x) / (D ln 2) + log2(levels).

The last term undoes a change of scale. A pixel k in {0, ..., levels - 1} is made continuous as x = (k + u)
/ levels with u uniform on [0, 1); a cell of k has volume levels^-D, so that -log2 P(k) <= -log2 p(x) + D
log2(levels) on average over u. Uniform noise of 256 levels, p(x) = 1 on the unit cube, has exactly 8
bits/dim.

Lucas Theis, Aaron van den Oord, Matthias Bethge: A note on the evaluation of generative models, 2016,
arXiv:1511.01844.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ..distributions import density_of


class HeldOut(NamedTuple):
    """Mean held-out log-likelihood of a model, with its error and the promise behind it.

    Attributes:
        mean: mean of log p(x_i), nats per datum.
        standard_error: standard error of `mean` over data, nats per datum.
        density: what log p(x) is: "exact", "lower_bound" or "estimate".
        bits_per_dim: `mean` in bits per dimension (lower is better; see `bits_per_dim`).
        n: number of data.
    """

    mean: float
    standard_error: float
    density: str
    bits_per_dim: float
    n: int

    def __str__(self) -> str:
        kind = self.density.replace("_", " ")
        return (
            f"{self.mean:.3f} ± {self.standard_error:.3f} nats per datum ({kind}), "
            f"{self.bits_per_dim:.3f} bits/dim, n = {self.n}"
        )


def log_likelihood(model: nn.Module, x: Tensor, context: Tensor | None = None, *, batch_size: int = 1024) -> Tensor:
    """Log-likelihood log p(x_i | c_i) of each datum, in nats.

    Runs without gradients and in evaluation mode (every submodule gets its mode back), `batch_size` rows at
    a time, so memory does not grow with n.

    Args:
        model: called with a context (or None), returns a distribution.
        x: data, with shape `[n] + event_shape`.
        context: one context for each datum, with shape `[n, context]`, or one for all, with shape
            `[context]`.
        batch_size: rows scored at once.

    Returns:
        Log-likelihoods in nats, with shape `[n]`.

    Raises:
        NotImplementedError: the model is implicit, it has no density.
        ValueError: x or context has the wrong shape.
    """
    return pointwise(model, x, context, batch_size)[0]


def held_out(
    model: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    levels: int | None = None,
    *,
    batch_size: int = 1024,
) -> HeldOut:
    r"""Mean held-out log-likelihood with its standard error.

    .. math:: \frac1n \sum_i \log p(x_i) \;\pm\; \mathrm{sd}(\log p(x_i)) / \sqrt n

    The error is that of a finite test set; it does not contain the gap of a bound nor the noise of an
    estimate.

    Args:
        model: called with a context (or None), returns a distribution.
        x: data the model was not trained on, with shape `[n] + event_shape`, n >= 2.
        context: shape `[n, context]` or `[context]`, if the model is conditional.
        levels: number of integer levels if x was made from integers k as (k + u) / levels; see
            `bits_per_dim`.
        batch_size: rows scored at once.

    Returns:
        The mean in nats and in bits/dim, the standard error, the kind of density, and n.

    Raises:
        NotImplementedError: the model is implicit.
        ValueError: fewer than two data, or a wrong shape.
    """
    if len(x) < 2:
        raise ValueError(f"x: expected at least 2 data for a standard error, got {len(x)}; pass more data.")
    log_p, density = pointwise(model, x, context, batch_size)
    log_p = log_p.cpu().double()
    mean = log_p.mean()
    return HeldOut(
        mean=mean.item(),
        standard_error=log_p.std().item() / math.sqrt(len(log_p)),
        density=density,
        bits_per_dim=bits_per_dim(mean, x.shape[1:], levels).item(),
        n=len(log_p),
    )


def bits_per_dim(log_prob: Tensor, event_shape: Sequence[int], levels: int | None = None) -> Tensor:
    r"""Convert log-likelihoods from nats to bits per dimension.

    .. math:: -\frac{\log p(x)}{D \ln 2} + \log_2 \mathrm{levels}, \qquad D = \prod \mathrm{event\_shape}

    Pass `levels` only if the density is of x = (k + u) / levels for integers k. If it is of the integers
    themselves (a discrete distribution, or one that dequantises inside) or of data that never were
    integers, leave it out. Lower is better; a density above 1 without `levels` gives negative values.

    Args:
        log_prob: log-likelihoods in nats, any shape.
        event_shape: shape of one datum.
        levels: number of integer levels, 256 for 8-bit images.

    Returns:
        Bits per dimension, with the shape of `log_prob`.

    Raises:
        ValueError: levels is less than 2.

    Example:
        >>> bits_per_dim(torch.zeros(2), (3, 32, 32), levels=256)  # uniform noise
        tensor([8., 8.])
    """
    if levels is not None and levels < 2:
        raise ValueError(f"levels: expected at least 2 or None, got {levels}; 8-bit images have 256 levels.")
    bits = -log_prob / (math.prod(event_shape) * math.log(2.0))
    return bits if levels is None else bits + math.log2(levels)


@torch.no_grad()
def pointwise(model: nn.Module, x: Tensor, context: Tensor | None, batch_size: int) -> tuple[Tensor, str]:
    """Log-likelihoods with shape `[n]` as in `log_likelihood`, and the density they come from."""
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}.")
    scores = []
    with evaluating(model):
        for x_batch, c_batch in batches(x, context, batch_size):
            p = model(c_batch)
            density = density_of(p)
            if density == "implicit":
                raise NotImplementedError(
                    f"{type(model).__name__} is implicit: it has samples but no density. "
                    "Compare its samples with data by evaluation.c2st or evaluation.mmd."
                )
            if x_batch.shape[1:] != p.event_shape:
                raise ValueError(f"x: expected shape (n, *{tuple(p.event_shape)}), got {tuple(x.shape)}.")
            check_batch(p, len(x_batch))
            scores.append(p.log_prob(x_batch))
    return torch.cat(scores), density


def batches(x: Tensor, context: Tensor | None, rows: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Data, so many at a time, each with its context.

    Raises:
        ValueError: there are several contexts, and not one for each datum.
    """
    if context is not None and context.dim() > 1 and len(context) != len(x):
        raise ValueError(
            f"context: expected one row for each of the {len(x)} data (or a single vector), "
            f"got shape {tuple(context.shape)}."
        )
    for start in range(0, max(1, len(x)), rows):
        part = slice(start, start + rows)
        yield x[part], context if context is None or context.dim() == 1 else context[part]


def check_batch(p: TorchDistribution, n: int) -> None:
    """Raise unless p is one distribution, or one for each of n data."""
    if p.batch_shape not in ((), (n,)):
        raise ValueError(
            f"context: expected shape (n, context) or (context,), so that the batch shape is ({n},) "
            f"or (), got {tuple(p.batch_shape)}."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and give each submodule its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
