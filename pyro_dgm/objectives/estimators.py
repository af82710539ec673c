r"""Pyro's estimators of variational bounds as losses that autograd can differentiate.

Most have a ``differentiable_loss``. Renyi's bound, of which the importance-weighted one is the case :math:`\alpha = 0`,

.. math::
    L_\alpha = -\frac{1}{1 - \alpha} \log \frac{1}{K} \sum_{k=1}^K
        \left(\frac{p(x, z_k)}{q(z_k | x)}\right)^{1 - \alpha}, \qquad z_k \sim q(z | x)

has only a ``loss_and_grads`` that leaves its gradient in the parameters; :func:`differentiable_loss` says it directly,
for reparameterised guides. (Li and Turner, Renyi Divergence Variational Inference, 2016, arXiv:1602.02311; Burda,
Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519.)
"""

import math
from typing import Any

import torch
from pyro.infer import RenyiELBO, TraceEnum_ELBO
from pyro.infer.elbo import ELBO as PyroELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.util import get_dependent_plate_dims, torch_sum
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn


def differentiable_loss(estimator: PyroELBO, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Returns the loss, in nats, of one of Pyro's estimators on a model and a guide.

    Raises:
        ValueError: If there is no such loss, with what to use instead.
        NotImplementedError: If Renyi's bound meets a guide that is not reparameterised.
    """
    check(estimator)
    if isinstance(estimator, TraceEnum_ELBO) and not torch.is_grad_enabled():
        loss = estimator.loss(model, guide, *args, **kwargs)  # its differentiable loss insists on a gradient
        return torch.as_tensor(loss, device="cpu")
    if hasattr(estimator, "differentiable_loss"):
        return estimator.differentiable_loss(model, guide, *args, **kwargs)
    traces = list(estimator._get_traces(model, guide, args, kwargs))
    log_w, scale = [_log_weight(*pair) for pair in traces], _common_scale(*traces[0])
    vectorized = estimator.vectorize_particles and estimator.num_particles > 1
    log_w, power = (log_w[0] if vectorized else torch.stack(log_w)) / scale, 1 - estimator.alpha
    return -scale * ((power * log_w).logsumexp(0) - math.log(estimator.num_particles)).sum() / power


def check(estimator: PyroELBO) -> None:
    """Refuses an estimator without a loss of its own.

    Raises:
        ValueError: With what to use instead.
    """
    if not (hasattr(estimator, "differentiable_loss") or isinstance(estimator, RenyiELBO)):
        raise ValueError(
            f"estimator: expected one of Pyro's with a loss to differentiate, got {type(estimator).__name__}; "
            "Trace_ELBO gives reparameterised models the gradient of TraceGraph_ELBO, RWS stands for "
            "ReweightedWakeSleep, others are for pyro.infer.SVI"
        )


def _log_weight(model_trace: Any, guide_trace: Any) -> Tensor:
    """Returns log p(x, z) - log q(z | x), summed over all plates but that of the particles."""
    dims = get_dependent_plate_dims(model_trace.nodes.values())
    total: Any = 0.0
    for trace, sign in ((model_trace, 1), (guide_trace, -1)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample":
                continue
            if sign < 0 and not (site["is_observed"] or getattr(site["fn"], "has_rsample", False)):
                raise NotImplementedError(f"{name}: Renyi's bound needs a reparameterised guide; use Trace_ELBO")
            total = total + sign * torch_sum(site["log_prob"], dims)
    return total


def _common_scale(*traces: Any) -> float:
    """Returns the number of data that each one stands for, if all sites agree: it weighs log-means, not their terms."""
    scales = [site["scale"] for t in traces for site in t.nodes.values() if _is_scored(site)]
    numbers = [scale for scale in scales if isinstance(scale, float | int)]
    return numbers[0] if len(numbers) == len(scales) and len(set(numbers)) == 1 else 1.0


def _is_scored(site: dict) -> bool:
    return site["type"] == "sample" and not site_is_subsample(site)


class Differentiable(nn.Module):
    """What ``estimator(model, guide)`` is in Pyro, for the estimators that have no loss to differentiate there.

    Args:
        module: The estimator's module.
    """

    def __init__(self, module: ELBOModule) -> None:
        super().__init__()
        check(module.elbo)
        self.model, self.guide, self.elbo = module.model, module.guide, module.elbo

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of the batch."""
        return differentiable_loss(self.elbo, self.model, self.guide, *args, **kwargs)
