r"""Filling in what is missing, by the conditional distribution of a model.

.. math::
    x_{mis} \sim p(x_{mis} | x_{obs}, c)

A latent variable model of incomplete data draws K particles of z and of what is missing, and weighs them,

.. math::
    w_k \propto \frac{p(x_{obs} | z_k, c)\, p(z_k | c)}{q(z_k | x_{obs}, c)}, \qquad z_k \sim q(z | x_{obs}, c), \qquad
    E[x_{mis} | x_{obs}, c] \approx \sum_k w_k\, E[x_{mis} | z_k, c]

its imputations are particles chosen in proportion to w (self-normalised importance sampling; Mattei and Frellsen, 2019,
arXiv:1812.02633). An autoregressive model draws number by number.

Where the observed numbers come first in the order, ancestral sampling draws from it exactly, and
:math:`p(x_{obs} | c)` is a product of conditionals. A model of all orders takes such an order for every pattern of
missing numbers. A model of one order draws K particles, in its order; an observed number is not drawn but weighs its
particle,

.. math::
    w \leftarrow w\, p(x_i | x_{<i}, c), \qquad
    \hat p(x_{obs} | c) = \prod_t \frac{1}{K} \sum_k w_t^{(k)}

and particles are resampled in proportion to w where their effective number falls below K / 2 (sequential importance
resampling: Gordon, Salmond and Smith, 1993; Doucet, de Freitas and Gordon, Sequential Monte Carlo Methods in Practice,
2001). The estimate of :math:`p(x_{obs})` is unbiased; the draws are exact as K grows.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..distributions import Autoregressive
from ..distributions.autoregressive import bar
from ..distributions.marginal import draw, log_probs
from ..evaluation.likelihood import evaluating
from ..models.base import GenerativeModel
from ..nn import without_autocast
from ..nn.walk import inverse
from ._parts import autoregressive_parts

_CHUNK = 8192  # particles of all data that are drawn at a time


class Imputation(NamedTuple):
    """Completed data, and what is known about how they were completed.

    Attributes:
        samples: Draws of the data, with shape ``(num_samples, n) + event_shape``; observed numbers are as they were.
        log_prob_observed: log p(x_obs | c) in nats, with shape (n,): exact, or the logarithm of an unbiased estimate;
            with the mask's probability in it where the model has one of what is missing.
        effective_size: Effective number of the particles that the draws come from, at the end, with shape (n,);
            infinite where draws are exact. Where it is a few, take more particles.
        mean: E[x | x_obs, c], a single imputation, with shape ``(n,) + event_shape``: over all particles, or over the
            draws where these are exact. For classes it means nothing; see how often the samples have each.
    """

    samples: Tensor
    log_prob_observed: Tensor
    effective_size: Tensor
    mean: Tensor


@torch.no_grad()
def impute(
    model: GenerativeModel,
    x: Tensor,
    missing: Tensor | None = None,
    context: Tensor | None = None,
    *,
    num_samples: int = 1,
    num_particles: int = 128,
    progress: bool = False,
) -> Imputation:
    """Draws the missing numbers of data given the observed ones; the model is in evaluation mode meanwhile.

    Args:
        model: An autoregressive model, or one of incomplete data, as :class:`~pyro_dgm.models.MIWAE`.
        x: Data, with shape ``(n,) + event_shape``.
        missing: Which numbers are missing, a mask that broadcasts to the shape of x; where x is NaN, when ``None``.
        context: Contexts, with shape (n, context).
        num_samples: Draws for each datum.
        num_particles: Number K of particles, where draws are not exact.
        progress: Whether a bar shows the patterns of missing numbers done.

    Raises:
        ValueError: If the model is neither, shapes do not fit, or an observed number is none that the model
            could have drawn.

    Example:
        >>> from pyro_dgm.models import EoNADE
        >>> x = torch.tensor([[1.0, float("nan"), 0.0]])
        >>> impute(EoNADE(3), x, num_samples=5).samples.shape
        torch.Size([5, 1, 3])
    """
    if x.shape[1:] != model.event_shape or x.dim() != len(model.event_shape) + 1:
        raise ValueError(f"x: expected shape (n, {', '.join(map(str, model.event_shape))}), got {tuple(x.shape)}")
    if num_samples < 1 or num_particles < 1:
        raise ValueError(f"num_samples, num_particles: expected at least 1, got {num_samples} and {num_particles}")
    dtype = next(itertools.chain(model.parameters(), model.buffers())).dtype
    missing = x.isnan() if missing is None else _expanded("missing", missing.bool(), x.shape)
    if context is not None:
        context = _expanded("context", context.to(dtype), torch.Size([len(x), *context.shape[-1:]]))
    incomplete = model.takes_missing(x)
    x = torch.where(missing, math.nan if incomplete else 0.0, x.to(dtype))
    if len(x) and not ((x.isfinite() | missing).all() and model.support.check(x).all()):
        raise ValueError(f"x: expected observed numbers that are finite and in the model's support {model.support}")
    patterns, which = missing.flatten(1).unique(dim=0, return_inverse=True)
    if incomplete:  # which needs no pattern
        patterns, which = patterns[:1], torch.zeros_like(which)
    impute_some = _weighted if incomplete else _one_pattern
    out = Imputation(x.new_empty(num_samples, *x.shape), *x.new_empty(2, len(x)), torch.empty_like(x))
    with evaluating(model), without_autocast(x):
        for k, pattern in enumerate(bar(patterns.tolist(), progress)):
            for rows in (which == k).nonzero()[:, 0].split(max(1, _CHUNK // max(num_particles, num_samples))):
                c = None if context is None else context[rows]
                part = impute_some(model, x[rows], pattern, c, num_samples, num_particles)
                out.samples[:, rows], out.log_prob_observed[rows], out.effective_size[rows], out.mean[rows] = part
    return out


def _expanded(name: str, t: Tensor, shape: torch.Size) -> Tensor:
    try:
        return t.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name}: expected a shape that broadcasts to {tuple(shape)}, got {tuple(t.shape)}") from None


def _weighted(
    model: GenerativeModel, x: Tensor, _: list[bool], context: Tensor | None, num_samples: int, particles: int
) -> Imputation:
    """Imputes data with any numbers missing, NaN in x, by weighted draws of the latent."""
    p = model(context)
    z, log_q = draw(p.proposal(x), (particles,))
    completed = p.likelihood(z).complete(x)
    log_w = completed.log_prob + sum(log_probs(p.prior, z).values()) - sum(log_q.values())
    w = log_w.softmax(0)
    chosen = torch.multinomial(w.mT, num_samples, replacement=True).mT
    samples = completed.samples[chosen, torch.arange(len(x), device=x.device)]
    mean = torch.einsum("kn,kn...->n...", w, completed.mean)
    mean = torch.where(x.isnan(), mean, x)
    return Imputation(samples, log_w.logsumexp(0) - math.log(particles), 1 / w.square().sum(0), mean)


def _one_pattern(
    model: GenerativeModel, x: Tensor, missing: list[bool], context: Tensor | None, num_samples: int, particles: int
) -> Imputation:
    """Imputes data with the same numbers missing, zero in x."""
    if getattr(model, "all_orders", False):
        sequence = sorted(range(len(missing)), key=lambda i: (missing[i], i))
        return _exact(model.given_order(inverse(sequence), context), x, missing, num_samples)
    p = model(context)
    results = [_given(part, x, missing, num_samples, particles) for part in autoregressive_parts(p)]
    if len(results) == 1:
        return results[0]
    samples, log_p, sizes, means = (torch.stack(each) for each in zip(*results, strict=True))
    log_p = log_p + p.logits.log_softmax(-1)[:, None]
    k = torch.distributions.Categorical(logits=log_p.mT).sample((num_samples,))  # the component that each draw is from
    index = k.reshape(1, *k.shape, *[1] * len(model.event_shape)).expand(1, *samples.shape[1:])
    mean = torch.einsum("kn,kn...->n...", log_p.softmax(0), means)
    return Imputation(samples.gather(0, index)[0], log_p.logsumexp(0), sizes.amin(0), mean)


def _given(p: Autoregressive, x: Tensor, missing: list[bool], num_samples: int, particles: int) -> Imputation:
    ordered = [missing[i] for i in p.conditioner.sequence]
    exact = ordered == sorted(ordered)  # observed numbers first
    return _exact(p, x, missing, num_samples) if exact else _resampled(p, x, missing, num_samples, particles)


def _exact(p: Autoregressive, x: Tensor, missing: list[bool], num_samples: int) -> Imputation:
    observed = ~torch.tensor(missing, device=x.device).reshape(p.event_shape)
    p = p.expand((len(x),))
    samples = p.draw((num_samples,), given=x, observed=observed)
    log_p = (p.conditional_log_probs(samples[0]) * observed).flatten(1).sum(-1)
    return Imputation(samples, log_p, torch.full_like(log_p, math.inf), samples.mean(0))


def _resampled(p: Autoregressive, x: Tensor, missing: list[bool], num_samples: int, particles: int) -> Imputation:
    n, k = len(x), particles
    first = torch.arange(n, device=x.device)[:, None] * k
    context = None if p.context is None else p.context.expand(n, -1).repeat_interleave(k, 0)
    walk = p.conditioner.walk(context, n * k)
    noise = p.head.noise((n * k, *p.event_shape), x).flatten(1, -2)
    values = x.repeat_interleave(k, 0).flatten(1)
    log_w, log_p = x.new_zeros(n, k), x.new_zeros(n)
    for i in p.conditioner.sequence:
        head, theta = p.head.at(i), walk.output()
        theta = theta[..., : head.size]
        if missing[i]:
            values[:, i] = head.draw(theta, noise[:, i, : head.noises])
        else:
            log_w = log_w + head(theta).log_prob(values[:, i]).reshape(n, k)
            index, log_w, gained = _resample(log_w)
            log_p = log_p + gained
            if index is not None:
                index = (first + index).flatten()
                values = values[index]
                walk.select(index)
        walk.see(p.seen(i, values[:, i]))
    w = log_w.softmax(-1)
    chosen = first + torch.multinomial(w, num_samples, replacement=True)
    samples = values[chosen.mT].reshape(num_samples, n, *p.event_shape)
    mean = torch.einsum("nk,nkd->nd", w, values.reshape(n, k, -1)).reshape(x.shape)
    return Imputation(samples, log_p + log_w.logsumexp(-1) - math.log(k), 1 / w.square().sum(-1), mean)


def _resample(log_w: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Resamples the particles of data whose effective number is low, systematically.

    Returns:
        Their places, or ``None`` if all stay; the weights afterwards; and the logarithm of the mean weight where they
        were set back to one.
    """
    n, k = log_w.shape
    w = log_w.softmax(-1)
    low = 1 / w.square().sum(-1) < k / 2
    if not low.any():
        return None, log_w, log_w.new_zeros(n)
    ticks = (torch.arange(k, device=w.device) + torch.rand(n, 1, dtype=w.dtype, device=w.device)) / k
    index = torch.searchsorted(w.cumsum(-1), ticks).clamp(max=k - 1)
    index = torch.where(low[:, None], index, torch.arange(k, device=w.device))
    gained = torch.where(low, log_w.logsumexp(-1) - math.log(k), 0.0)
    return index, torch.where(low[:, None], 0.0, log_w), gained
