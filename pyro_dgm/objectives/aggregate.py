r"""What objectives of the aggregate posterior share: draws of z for a batch, with every log-density of the bound.

.. math::
    q(z) = E_x\, q(z | x), \qquad z_i \sim q(z | x_i): \text{ one draw per datum is a sample of } q(z)

The ELBO needs only sums of these log-densities; objectives that compare q(z) with the prior or with the product of its
marginals need the draws themselves.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.distributions import Distribution

from ..distributions import Marginal, marginal
from ..nn import at_least_float32
from .base import generative_model


class Draws(NamedTuple):
    """One reparameterised draw of z per datum.

    Attributes:
        p: The marginal p(x), with its prior.
        q: The posterior q(z | x), with the batch shape of the data.
        z: The draws, with shape ``batch_shape + latent shape``.
        log_likelihood: log p(x | z), with shape ``batch_shape``.
        log_prior: log p(z).
        log_posterior: log q(z | x).
    """

    p: Marginal
    q: Distribution
    z: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_posterior: Tensor


def draw(model: Any, x: Tensor, *context: Tensor) -> Draws:
    """Draws z for every datum.

    Raises:
        ValueError: If the model has no single continuous latent with a reparameterised posterior.
    """
    owner = generative_model(model)
    p = None if owner is None else owner(*context)
    if not isinstance(p, Marginal):
        raise ValueError(f"model: expected a latent variable model such as VAE, got {type(owner or model).__name__}")
    q = p.proposal(x)
    if not q.has_rsample or hasattr(q, "rsample_and_log_probs"):
        raise ValueError(
            f"posterior: expected one latent, drawn with reparameterisation, got {type(q).__name__}; train with ELBO()"
        )
    z, log_q = marginal.draw(q)
    log_densities = (p.likelihood(z).log_prob(x), p.prior.log_prob(z), log_q["z"])
    return Draws(p, q, z, *map(at_least_float32, log_densities))


def flat(z: Tensor, q: Distribution) -> Tensor:
    """Returns draws as a table, with shape (number of data, number of latent features)."""
    return z.reshape(q.batch_shape.numel(), q.event_shape.numel())


def weight_of(weight: float | nn.Module) -> Tensor | float:
    """Returns a weight that is a number, or a schedule's at this step."""
    return weight() if isinstance(weight, nn.Module) else weight
