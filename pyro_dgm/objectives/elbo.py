r"""The evidence lower bound, by Pyro's own estimators.

.. math::
    L = -\frac{1}{n} \sum_i E_{q(z | x_i)} \bigl[\log p(x_i | z) + \beta \left(\log p(z) - \log q(z | x_i)\right)\bigr]

Which estimator computes it is an argument (``Trace_ELBO``, ``TraceMeanField_ELBO`` with closed-form divergences,
``RenyiELBO``, ``TraceEnum_ELBO`` ...). The weight :math:`\beta` of the divergence may be a number (Higgins et al.,
beta-VAE, 2017) or a schedule that warms up from 0 to 1 against posterior collapse (Bowman et al., 2015,
arXiv:1511.06349).
"""

from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO as PyroELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..distributions import Marginal
from ..models.base import ApproximateModel, GenerativeModel, TractableModel, has_random_weights
from .base import Objective, num_data, penalised
from .estimators import check, differentiable_loss


class LinearWarmup(nn.Module):
    r"""A weight that rises linearly from 1/steps to ``final`` over the first training steps; ``final`` in evaluation.

    Args:
        steps: Number of training steps of the rise.
        final: The weight after it.
    """

    def __init__(self, steps: int, final: float = 1.0) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        self.steps, self.final = steps, final
        self.register_buffer("step", torch.zeros(()))

    def forward(self) -> Tensor | float:
        """Returns the weight, and counts a step while training."""
        if not self.training:
            return self.final
        self.step += 1
        return self.final * (self.step / self.steps).clamp(max=1.0)


class _WeighLatents(Messenger):
    """Scales the log-densities of latent sites, in the model and in the guide."""

    def __init__(self, weight: Tensor | float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.weight


class ELBO(Objective):
    """The negative evidence lower bound in mean nats per datum.

    Args:
        estimator: One of Pyro's ELBOs, e.g. ``pyro.infer.TraceMeanField_ELBO(num_particles=2)``, which runs the
            model's programs. ``None`` is ``Trace_ELBO()``, computed straight from the distributions of a model that is
            nothing more (no random weights, a reparameterised posterior). It must have a ``differentiable_loss``; for
            the importance-weighted bound give the model ``num_particles`` and use :class:`NegativeLogLikelihood`.
        kl_weight: The weight of log p(z) - log q(z | x): a number, or a module without arguments such as
            :class:`LinearWarmup`.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> ELBO(kl_weight=LinearWarmup(100))(vae)(torch.zeros(8, 5)).shape
        torch.Size([])
    """

    def __init__(self, estimator: PyroELBO | None = None, kl_weight: float | nn.Module = 1.0) -> None:
        super().__init__()
        if estimator is not None:
            check(estimator)
        self.estimator = estimator
        self.kl_weight = kl_weight

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the bound per datum, from the model's distributions or by Pyro's estimator of its programs."""
        weight = self.kl_weight() if isinstance(self.kl_weight, nn.Module) else self.kl_weight
        if self.estimator is None and not settings and _is_plain(model):
            x, p = batch[0], model(*batch[1:])
            if not isinstance(p, Marginal):
                return -p.log_prob(x).mean()
            q = p.proposal(x)
            if q.has_rsample:
                log_likelihood, log_ratios = p.terms(x, q)
                return -(log_likelihood + weight * sum(log_ratios.values())).mean()
        return self._by_programs(model, guide, weight, *batch, **settings)

    def _by_programs(self, model: Any, guide: Any, weight: Tensor | float, *batch: Any, **settings: Any) -> Tensor:
        n = settings.get("data_size") or num_data(model, batch[0])
        estimator = self.estimator or Trace_ELBO()
        programs = (model.model, model.guide) if isinstance(model, GenerativeModel) else (model, guide)
        if not (isinstance(weight, float | int) and weight == 1):
            programs = tuple(_WeighLatents(weight)(program) for program in programs)
        if not isinstance(model, GenerativeModel):
            return differentiable_loss(estimator, *programs, *batch, **settings) / n
        # The parameters belong to the module; Pyro's global store need not hear of them.
        with pyro.get_param_store().scope():
            return differentiable_loss(estimator, *programs, *batch, **settings) / n


def _is_plain(model: Any) -> bool:
    """Whether a model is nothing but its distributions: of this package's families, no weight of it having a prior."""
    return isinstance(model, TractableModel | ApproximateModel) and not has_random_weights(model)
