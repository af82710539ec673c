r"""The variational autoencoder, with prior, likelihood and posterior as arguments.

.. math::
    z \sim p(z | c), \qquad x \sim p(x | z, c), \qquad q(z | x, c) \approx p(z | x, c)

    \log p(x | c) \ge E_{q(z | x, c)} \log p(x | z, c) - \mathrm{KL}\bigl(q(z | x, c) \,\|\, p(z | c)\bigr)

Each part is a module that, called, returns a distribution: a parametric family, a flow, or a module of your own. The
likelihood's context is [z, c], the posterior's [x, c], vectors with events flattened. (Kingma and Welling,
Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114; Rezende, Mohamed and Wierstra, Stochastic
Backpropagation, 2014, arXiv:1401.4082.)
"""

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ..base import GenerativeModel
from .latent import LatentVariableModel, join, promise


class VAE(LatentVariableModel):
    r"""A variational autoencoder.

    Its density is a lower bound: ``vae().log_prob(x)`` is the importance-weighted bound with ``num_particles`` draws
    of z, the ELBO for one. A flow as prior or posterior (:class:`~pyro_dgm.models.IAF` is the fast
    one there) is an argument like any other.

    Args:
        prior: Called without argument, or with c if it has a ``context``, returns p(z | c).
        likelihood: Called with [z, c], shape (*, latent + context), returns p(x | z, c).
        posterior: Called with [x, c], shape (*, data + context), returns q(z | x, c).
        context: Width of the context c, 0 for none.
        num_particles: Draws of z per datum in ``log_prob``.

    Attributes:
        latent_shape: Shape of one z.

    Example:
        >>> from pyro_dgm.models import DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> vae().sample((3,)).shape, vae.encode(torch.zeros(3, 5)).shape
        (torch.Size([3, 5]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        context: int = 0,
        num_particles: int = 1,
    ) -> None:
        conditional = bool(getattr(prior, "context", 0))
        latent_shape, _ = promise("prior", prior, context if conditional else 0)
        event_shape, support = promise("likelihood", likelihood, latent_shape.numel() + context)
        inferred_shape, _ = promise("posterior", posterior, event_shape.numel() + context)
        if inferred_shape != latent_shape:
            raise ValueError(
                f"posterior: expected distributions over z with event shape {tuple(latent_shape)}, as the prior's, "
                f"got {tuple(inferred_shape)}"
            )
        super().__init__(event_shape, context, support)
        self.latent_shape = latent_shape
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior
        self.num_particles = num_particles
        self._conditional_prior = conditional

    def _prior(self, context: Tensor | None) -> dist.TorchDistribution:
        p = self.prior(context) if self._conditional_prior else self.prior()
        if context is None:
            return p
        return p.expand(torch.broadcast_shapes(p.batch_shape, context.shape[:-1]))

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | z, c) for z with shape (*, *latent_shape)."""
        return self.likelihood(join(z, len(self.latent_shape), context))

    def infer(self, x: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns the approximate posterior q(z | x, c) for x with shape (*, *event_shape)."""
        return self.posterior(join(x, len(self.event_shape), context))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the standardisation of a flow as likelihood, which works in the units of the data."""
        if isinstance(self.likelihood, GenerativeModel):
            z = self.encode(x, context)
            self.likelihood.initialize(x, join(z, len(self.latent_shape), context))
