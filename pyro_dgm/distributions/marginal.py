r"""The marginal of a latent variable model, sampled exactly and scored by importance sampling.

.. math::
    p(x) = \int p(x | z)\, p(z)\, dz, \qquad
    \log \hat p_K(x) = \log \frac{1}{K} \sum_{k=1}^K \frac{p(x | z_k)\, p(z_k)}{q(z_k | x)}, \quad z_k \sim q(z | x)

The estimate is at most :math:`\log p(x)` in expectation, increases with K, and converges to it. (Burda, Grosse and
Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519.)
"""

import math
from collections.abc import Callable, Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints

from .._shapes import broadcast_shapes
from ..nn import at_least_float32, leave_autocast
from .grey import Advising
from .promise import Density


class Marginal(Advising, dist.TorchDistribution):
    r"""p(x) of a latent variable model.

    Args:
        prior: The distribution p(z); its batch shape is the batch shape of the marginal.
        likelihood: Maps z, with shape ``(*, latent event)``, to the distribution p(x | z), with batch shape (*).
        posterior: Maps x, with shape ``(*, event)``, to the proposal q(z | x), with batch shape (*); the prior when
            ``None``.
        event_shape: Shape of one x.
        support: Where x lives.
        num_particles: Number K of samples of z per datum in :meth:`log_prob`.
        chunk_size: Largest number of pairs (datum, z) scored at once, which bounds memory when no gradient is asked
            for.

    Attributes:
        density: ``"lower_bound"``.

    Example:
        >>> prior = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
        >>> p = Marginal(prior, lambda z: dist.Normal(z, 1.0).to_event(1), None, (2,), num_particles=10)
        >>> p.sample((5,)).shape, p.log_prob(torch.zeros(5, 2)).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    density: Density = "lower_bound"
    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        prior: dist.TorchDistribution,
        likelihood: Callable[[Tensor], Distribution],
        posterior: Callable[[Tensor], Distribution] | None,
        event_shape: Sequence[int],
        support: constraints.Constraint = constraints.real_vector,
        num_particles: int = 1,
        chunk_size: int = 65_536,
        validate_args: bool | None = None,
    ) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles: expected at least 1, got {num_particles}")
        if chunk_size < 1:
            raise ValueError(f"chunk_size: expected at least 1, got {chunk_size}")
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior
        self.num_particles, self.chunk_size = num_particles, chunk_size
        self._support = support
        super().__init__(prior.batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where x lives."""
        return self._support

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Marginal":
        """Returns the marginal with a larger batch shape."""
        return Marginal(
            self.prior.expand(torch.Size(batch_shape)),
            self.likelihood,
            self.posterior,
            self.event_shape,
            self._support,
            self.num_particles,
            self.chunk_size,
            validate_args=self._validate_args,
        )

    def with_particles(self, num_particles: int) -> "Marginal":
        """Returns the marginal scored with another number of particles."""
        new = self.expand(self.batch_shape)
        new.num_particles = num_particles
        return new

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws z from the prior and x from the likelihood, with shape ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return self.likelihood(self.prior.sample(torch.Size(sample_shape))).sample()

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the importance-weighted bound in nats, with shape ``sample_shape + batch_shape``."""
        q = self.proposal(value)
        step = min(max(1, self.chunk_size // max(1, q.batch_shape.numel())), self.num_particles)
        total: Tensor | None = None
        for done in range(0, self.num_particles, step):
            log_likelihood, log_ratios = self.terms(value, q, (min(step, self.num_particles - done),))
            log_w = sum(log_ratios.values(), log_likelihood).logsumexp(0)
            total = log_w if total is None else torch.logaddexp(total, log_w)
        return total - math.log(self.num_particles)

    def proposal(self, value: Tensor) -> Distribution:
        """Returns q(z | x) with the batch shape ``sample_shape + batch_shape`` of the data."""
        if self._validate_args:
            self._validate_sample(value)
        q = self.prior if self.posterior is None else self.posterior(value)
        return q.expand(broadcast_shapes(value.shape[: value.dim() - self.event_dim], self.batch_shape))

    def terms(
        self, value: Tensor, q: Distribution, sample_shape: Sequence[int] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns log p(x | z), and log p(z) - log q(z | x) by site, at draws of z; shapes ``sample_shape + batch``.

        The sites are those of a joint distribution of several latents, if prior and proposal are such; else ``"z"``.

        Args:
            value: Data x, with shape ``batch + event_shape``.
            q: Their proposal.
            sample_shape: Shape of the draws per datum.

        Raises:
            NotImplementedError: If the gradient is asked for and q draws without reparameterisation.
        """
        if q.has_rsample and hasattr(q, "is_update_of") and q.is_update_of(self.prior):
            return self.terms_at(value, *q.rsample_and_both_log_probs(torch.Size(sample_shape)))
        return self.terms_at(value, *draw(q, sample_shape))

    def terms_at(
        self, value: Tensor, z: Tensor, log_q: dict[str, Tensor], log_prior: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns what :meth:`terms` does, at given draws.

        Args:
            value: Data x, with shape ``batch + event_shape``.
            z: The draws, with shape ``sample_shape + batch + latent event``.
            log_q: log q(z | x) by site.
            log_prior: log p(z) by site, if it is known already.
        """
        log_prior = log_probs(self.prior, z) if log_prior is None else log_prior
        log_likelihood = self.likelihood(z).log_prob(value)
        if log_prior.keys() != log_q.keys():
            log_prior, log_q = ({"z": sum(parts.values())} for parts in (log_prior, log_q))
        log_ratios = {name: at_least_float32(log_prior[name]) - at_least_float32(log_q[name]) for name in log_prior}
        return at_least_float32(log_likelihood), log_ratios


def log_probs(p: Distribution, z: Tensor) -> dict[str, Tensor]:
    """Returns the log-densities of z by latent site: those of a joint distribution, or one of ``"z"``."""
    return p.log_probs(z) if hasattr(p, "log_probs") else {"z": p.log_prob(z)}


def draw(q: Distribution, sample_shape: Sequence[int] = ()) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns draws of z and their log-densities by latent site.

    Raises:
        NotImplementedError: If the gradient is asked for and q draws without reparameterisation.
    """
    sample_shape = torch.Size(sample_shape)
    if q.has_rsample and hasattr(q, "rsample_and_log_probs"):
        return q.rsample_and_log_probs(sample_shape)
    if hasattr(q, "rsample_and_log_prob"):
        z, log_q = q.rsample_and_log_prob(sample_shape)
        return z, {"z": log_q}
    z = leave_autocast(q.rsample(sample_shape) if q.has_rsample else q.sample(sample_shape))
    log_q = log_probs(q, z)
    if not q.has_rsample and any(log.requires_grad for log in log_q.values()):
        raise NotImplementedError(
            f"log_prob: its gradient would be wrong, since {type(q).__name__} draws z without "
            "reparameterisation; train with VIMCO() or ELBO(), and evaluate under torch.no_grad()"
        )
    return z, log_q
