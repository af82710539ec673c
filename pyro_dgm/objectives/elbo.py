r"""The evidence lower bound.

.. math::
    L = \frac{1}{n} \sum_i E_{q(z | x_i)} \Bigl[-\log p(x_i | z) + \sum_s \beta_s D_{s,i}\Bigr], \qquad
    D_s = \log q(z_s | \cdot) - \log p(z_s | \cdot) \;\text{or}\; \mathrm{KL}(q \,\|\, p)

with one divergence for every latent site s, drawn or in closed form. The weights :math:`\beta` may be numbers (Higgins
et al., beta-VAE, 2017) or schedules (:mod:`~pyro_dgm.objectives.annealing`); what else may be charged instead of the
divergences is in :mod:`~pyro_dgm.objectives.divergence`. One of Pyro's estimators may compute the bound instead
(``TraceEnum_ELBO``, which sums discrete latents out, ``RenyiELBO`` ...).
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pyro
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.elbo import ELBO as PyroELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..distributions import Marginal
from ..models.base import ApproximateModel, GenerativeModel, TractableModel, has_random_weights
from .base import Objective, num_data, penalised
from .divergence import Bound, Weight, by_site, of_marginal, of_programs, weigh
from .estimators import check, differentiable_loss
from .reports import report


class _WeighLatents(Messenger):
    """Scales the log-densities of latent sites, in the model and in the guide, and notes which there are."""

    def __init__(self, weight: Any, sites: set[str]) -> None:
        super().__init__()
        self.weight, self.sites = weight, sites

    def _pyro_sample(self, msg: dict) -> None:
        if not (msg["is_observed"] or site_is_subsample(msg)):
            if isinstance(self.weight, Mapping) and msg["infer"].get("is_auxiliary"):
                raise ValueError(
                    f"kl_weight: expected one number, since the guide draws {msg['name']!r} beside what the model "
                    "draws; ELBO(analytic=True) tells whose divergence it belongs to"
                )
            self.sites.add(msg["name"])
            weight = self.weight.get(msg["name"], 1.0) if isinstance(self.weight, Mapping) else self.weight
            msg["scale"] = msg["scale"] * weight


class ELBO(Objective):
    """The negative evidence lower bound in mean nats per datum, penalties of the model's parts included.

    A posterior that is not reparameterised gets its gradient by the score function (``Trace_ELBO``), which is noisy:
    :class:`VIMCO` or ``TraceEnum_ELBO`` suit discrete latents better. On validation data ``fit`` reports the divergence
    of every site, ``kl_z`` for one.

    Args:
        estimator: One of Pyro's ELBOs, e.g. ``pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)``, which runs the
            model's programs. ``None`` is ``Trace_ELBO()``, computed straight from the distributions of a model that is
            nothing more (no random weights, a reparameterised posterior). It must have a ``differentiable_loss``; for
            the importance-weighted bound use :class:`IWAE`, on programs ``RenyiELBO(alpha=0.0, num_particles=K)``.
        kl_weight: The weight of the divergences: a number, a module without arguments such as
            :class:`LinearWarmup`, or a mapping from names of latent sites to such.
        charges: Modules such as :class:`FreeBits` and :class:`Balance` that map the divergences by site to what
            is paid for them, applied in turn, before the weights.
        analytic: Whether divergences are in closed form, at the sites where there is one.
        num_particles: Draws of z per datum.

    Raises:
        ValueError: If the estimator has no loss, or stands beside ``charges``, ``analytic`` or ``num_particles``, which
            are its own affair; later, if a site is named that the model lacks, or if charges or closed forms meet a
            posterior that is not reparameterised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> from pyro_dgm.objectives import FreeBits, LinearWarmup
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> ELBO(kl_weight=LinearWarmup(100), charges=[FreeBits(0.5)], analytic=True)(vae)(torch.zeros(8, 5)).shape
        torch.Size([])
    """

    def __init__(
        self,
        estimator: PyroELBO | None = None,
        kl_weight: Weight | Mapping[str, Weight] = 1.0,
        charges: Sequence[nn.Module] = (),
        analytic: bool = False,
        num_particles: int = 1,
    ) -> None:
        super().__init__()
        if num_particles < 1:
            raise ValueError(f"num_particles: expected at least 1, got {num_particles}")
        if estimator is not None:
            check(estimator)
            if charges or analytic or num_particles > 1:
                raise ValueError(
                    f"estimator: expected None beside charges, analytic or num_particles, got "
                    f"{type(estimator).__name__}, which does not tell the divergences; give it its own num_particles"
                )
        self.estimator, self.kl_weight = estimator, kl_weight
        self.analytic, self.num_particles = analytic, num_particles
        self.charges = nn.ModuleList(charges)
        named = kl_weight.values() if isinstance(kl_weight, Mapping) else ()
        self.schedules = nn.ModuleList(dict.fromkeys(each for each in named if isinstance(each, nn.Module)))

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the bound per datum, from the model's distributions or from its programs."""
        weight = self._weights()
        if self.estimator is None and not settings and _is_plain(model):
            x, p = batch[0], model(*batch[1:])
            if not isinstance(p, Marginal):
                return -p.log_prob(x).mean()
            q = p.proposal(x)
            by_programs = self.analytic and hasattr(q, "log_probs")  # whose sites have closed forms one by one
            if q.has_rsample and not by_programs:
                return self._loss(of_marginal(p, q, x, self.num_particles, self.analytic), weight)
        n = settings.get("data_size") or num_data(model, batch[0])
        programs = (model.model, model.guide) if isinstance(model, GenerativeModel) else (model, guide)
        # The parameters belong to the module; Pyro's global store need not hear of them.
        with pyro.get_param_store().scope() if isinstance(model, GenerativeModel) else nullcontext():
            if not (self.charges or self.analytic):
                return self._by_estimator(model, programs, weight, batch, settings) / n
            how = {"n": n, "num_particles": self.num_particles, "analytic": self.analytic}
            return self._loss(of_programs(*programs, batch, settings, **how), weight)

    def _loss(self, bound: Bound, weight: Any) -> Tensor:
        log_likelihood, charges = bound
        for site, divergence in charges.items():
            report(f"kl_{site}", divergence)
        for charge in self.charges:
            charges = charge(charges)
        return sum((each.mean() for each in weigh(charges, weight).values()), -log_likelihood.mean())

    def _by_estimator(self, model: Any, programs: Any, weight: Any, batch: Any, settings: Any) -> Tensor:
        """Returns the loss by one of Pyro's estimators, in nats for all data together."""
        estimator = self.estimator or Trace_ELBO(num_particles=self.num_particles)
        if isinstance(estimator, TraceEnum_ELBO) and isinstance(model, GenerativeModel):
            programs = programs[0], config_enumerate(programs[1], "parallel")
        if isinstance(weight, float | int) and weight == 1:
            return differentiable_loss(estimator, *programs, *batch, **settings)
        sites: set[str] = set()
        programs = tuple(_WeighLatents(weight, sites)(program) for program in programs)
        loss = differentiable_loss(estimator, *programs, *batch, **settings)
        by_site("kl_weight", weight, sorted(sites))
        return loss

    def _weights(self) -> Any:
        """Returns the weights of this step; a schedule counts one step, however many sites it serves."""
        if isinstance(self.kl_weight, nn.Module):
            return self.kl_weight()
        if not isinstance(self.kl_weight, Mapping):
            return self.kl_weight
        now = {id(schedule): schedule() for schedule in self.schedules}
        return {site: now.get(id(each), each) for site, each in self.kl_weight.items()}


def _is_plain(model: Any) -> bool:
    """Whether a model is nothing but its distributions: of this package's families, no weight of it having a prior."""
    return isinstance(model, TractableModel | ApproximateModel) and not has_random_weights(model)
