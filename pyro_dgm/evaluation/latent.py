r"""What a latent variable carries: active units, collapse, and where the divergence goes.

.. math::
    \underbrace{\frac1n \sum_i \mathrm{KL}\bigl(q(z | x_i) \,\|\, p(z)\bigr)}_{\text{what the ELBO pays}}
    = \underbrace{\frac1n \sum_i \mathrm{KL}\bigl(q(z | x_i) \,\|\, q(z)\bigr)}_{I(x; z), \text{ at most } \log n}
    + \underbrace{\mathrm{KL}\bigl(q(z) \,\|\, p(z)\bigr)}_{\text{samples off the data}},
    \qquad q(z) = \frac1n \sum_j q(z | x_j)

(Hoffman and Johnson, ELBO surgery: yet another way to carve up the variational evidence lower bound, 2016.) The first
part is what z knows of x, the second is how far draws from the prior are from what the decoder was trained on.

A unit d is active if its posterior mean varies with the data, :math:`\mathrm{Var}_x\, E_{q(z | x)} z_d > 0.01` (Burda,
Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519). Where (nearly) none is, the
posterior has collapsed to the prior: the decoder ignores z, and a good likelihood hides it.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, kl_divergence

from ..distributions.marginal import log_probs
from .importance import batches, inferred
from .likelihood import evaluating

_NUMBERS = 2**22  # of latents of pairs (draw, component) held at a time


class LatentUnits(NamedTuple):
    """The units of a latent variable, one by one.

    Attributes:
        variance: variance over data of the posterior mean of each unit, shape `[D]`.
        active: which of them exceed the threshold, shape `[D]`.
        kl: mean KL(q(z_d | x) || p(z_d)) of each unit in nats, shape `[D]`; None where q or p has none, a flow say.
    """

    variance: Tensor
    active: Tensor
    kl: Tensor | None

    def __str__(self) -> str:
        idle = (~self.active).nonzero().flatten().tolist()
        total = "" if self.kl is None else f", KL {self.kl.sum():.2f} nats"
        costs = "" if self.kl is None or not idle else f", of which {self.kl[~self.active].sum():.3f} in inactive ones"
        names = f"; inactive: {', '.join(map(str, idle))}" if idle else ""
        return f"{int(self.active.sum())} of {len(self.active)} units active{total}{costs}{names}"


class Divergence(NamedTuple):
    """The mean divergence of posteriors from the prior and its parts, in nats.

    Attributes:
        kl: mean KL(q(z | x_i) || p(z)).
        mutual_information: I(x; z) under q, over these data.
        marginal_kl: KL(q(z) || p(z)) of the aggregate posterior.
        errors: standard errors of the three over data and draws, in this order.
        n: number of data; the mutual information is at most log n.
    """

    kl: float
    mutual_information: float
    marginal_kl: float
    errors: tuple[float, float, float]
    n: int


def latent_units(
    model: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    *,
    threshold: float = 0.01,
    batch_size: int = 1024,
) -> LatentUnits:
    """Which units of the latent variable are active, and what each costs; warns if (nearly) all have collapsed.

    Args:
        model: a model with a latent variable that is a vector (else it is flattened), and `encode`.
        x: data, with shape `[n] + event_shape`, n >= 2.
        context: one context for each datum, or one for all.
        threshold: variance of the posterior mean above which a unit is active.
        batch_size: data inferred at a time.

    Returns:
        Variance, activity and divergence of each unit.

    Raises:
        ValueError: the model has no latent variable, or shapes do not fit.

    Warns:
        UserWarning: fewer than a twentieth of the units are active, with what to do.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> latent_units(vae, 10 * torch.randn(100, 5)).active
        tensor([True, True])
    """
    means, divergences = [], []
    with torch.no_grad(), evaluating(model):
        for batch in batches(x, context, batch_size):
            p, q = inferred(model, *batch)
            means.append(model.encode(*batch).flatten(1).double())
            divergences.append(_by_unit(q, p.prior.expand(q.batch_shape)))
    variance = torch.cat(means).var(0)
    kl = None if divergences[0] is None else torch.cat(divergences).mean(0)
    units = LatentUnits(variance, variance > threshold, kl)
    if units.active.double().mean() < 0.05:
        warnings.warn(
            f"posterior collapse: {units}. The decoder ignores z, so there is nothing to encode; train with a warm-up "
            "of the divergence, ELBO(kl_weight=LinearWarmup(steps)), or free bits per unit, or use a weaker decoder",
            stacklevel=2,
        )
    return units


def _by_unit(q: Distribution, p: Distribution) -> Tensor | None:
    """Divergences `[n, D]` of each unit, where both distributions are products over units."""
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if q.base_dist.event_shape or p.base_dist.event_shape:
        return None
    try:
        kl = kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return None
    return kl.double().flatten(len(q.batch_shape))


def divergence(
    model: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    *,
    num_samples: int = 1,
    num_components: int | None = None,
    batch_size: int = 1024,
) -> Divergence:
    r"""The mean divergence from the prior, split into mutual information and divergence of the aggregate posterior.

    The aggregate posterior of the data given is a mixture of n components. By default every draw is scored by all of
    them, in n^2 densities: the only error is Monte Carlo. With `num_components` M, by its own component, of weight 1 /
    n, and by the others of M at random, which share the rest: then :math:`\hat q(z)` is unbiased, its logarithm too
    low, and so the mutual information too high and the other part too low.

    Args:
        model: a model with a latent variable.
        x: data, with shape `[n] + event_shape`, n >= 2. For more data there is more to know: compare at equal n.
        context: one context for each datum, or one for all. If the prior depends on it, `marginal_kl` is the mean of
            log q(z) - log p(z | c), no divergence.
        num_samples: draws of z per datum.
        num_components: number M of components drawn at random, or None for all of them.
        batch_size: data inferred at a time.

    Returns:
        The divergence and its two parts, with standard errors.

    Raises:
        ValueError: the model has no latent variable, or shapes or numbers do not fit.
    """
    n = len(x)
    if num_components is not None and not 2 <= num_components <= n:
        raise ValueError(f"num_components: expected 2 to n = {n}, or None for all, got {num_components}.")
    with torch.no_grad(), evaluating(model):
        parts = list(batches(x, context, batch_size))
        z, log_p, log_q = (torch.cat(t, 1) for t in zip(*(_drawn(model, b, num_samples) for b in parts), strict=True))
        if num_components is not None:
            chosen = torch.randperm(n, device=x.device)[:num_components]
            context = context if context is None or context.dim() == 1 else context[chosen]
            parts = list(batches(x[chosen], context, batch_size))
        else:
            chosen = torch.arange(n, device=x.device)
        aggregate = _aggregate(model, parts, chosen, z, log_q)
    terms = torch.stack([log_q - log_p, log_q - aggregate, aggregate - log_p]).mean(1)
    errors = (terms.std(1) / math.sqrt(n)).tolist()
    return Divergence(*terms.mean(1).tolist(), errors=tuple(errors), n=n)


def _drawn(model: nn.Module, batch: tuple[Tensor, ...], num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of z `[samples, rows, ...]` of a few data, and their log-densities under prior and posterior."""
    p, q = inferred(model, *batch)
    z = q.sample((num_samples,))
    log_p, log_q = (sum(log_probs(d, z).values()).double() for d in (p.prior, q))
    return z, log_p.expand_as(log_q), log_q


def _aggregate(model: nn.Module, parts: list[tuple[Tensor, ...]], chosen: Tensor, z: Tensor, log_q: Tensor) -> Tensor:
    """Log q(z) `[samples, n]` of draws: their own component's 1 / n, and the chosen others' part of the rest."""
    samples, n = log_q.shape
    draws = z.flatten(0, 1)
    owner = torch.arange(n, device=z.device).repeat(samples)
    others = torch.full((samples * n,), -math.inf, dtype=torch.float64, device=z.device)
    for batch, index in zip(parts, chosen.split(len(parts[0][0])), strict=True):
        _, q = inferred(model, *batch)
        step = max(1, _NUMBERS // (len(index) * z[0, 0].numel()))
        for start in range(0, samples * n, step):
            part = slice(start, start + step)
            log_cross = sum(log_probs(q, draws[part].unsqueeze(1)).values()).double()
            own = owner[part, None] == index
            others[part] = torch.logaddexp(others[part], log_cross.masked_fill(own, -math.inf).logsumexp(1))
    count = len(chosen) - torch.isin(owner, chosen).double()
    rest = others + torch.log((n - 1) / (n * count))
    return torch.logaddexp(rest.view(samples, n), log_q - math.log(n))
