r"""The variational autoencoder, with prior, likelihood and posterior as arguments.

.. math::
    z \sim p(z | c), \qquad x \sim p(x | z, c), \qquad q(z | x, c) \approx p(z | x, c)

    \log p(x | c) \ge E_{q(z | x, c)} \log p(x | z, c) - \mathrm{KL}\bigl(q(z | x, c) \,\|\, p(z | c)\bigr)

Each part is a module that, called, returns a distribution: a parametric family, a flow, or a module of your own. The
likelihood's context is [z, c], the posterior's [x, c], vectors with events flattened, which
:class:`~pyro_dgm.nn.ConvEncoder` reads as images again. The posterior sees x as the likelihood's head shows it: levels
scaled to [-1, 1], counts as log(1 + x), classes one by one, everything else as it is. (Kingma and Welling,
Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114; Rezende, Mohamed and Wierstra, Stochastic
Backpropagation, 2014, arXiv:1401.4082.)

Priors and posteriors of the literature, for L latent features and D data features:

======================= ===========================================================================================
posterior               as an argument
======================= ===========================================================================================
diagonal normal         ``DiagonalNormal(L, context=D)``
inverse autoregressive  ``IAF(L, context=D)``, where it draws and scores in one pass (Kingma et al., 2016,
                        arXiv:1606.04934)
planar, Sylvester       ``NormalizingFlow(L, [Planar(L, D) for _ in range(10)], D, base=DiagonalNormal(L, D))``: a
                        diagonal normal moved by transforms whose parameters come from x, too (Rezende and Mohamed,
                        2015, arXiv:1505.05770; van den Berg et al., 2018, arXiv:1803.05649)
spline                  ``NSF(L, context=D)``
======================= ===========================================================================================

======================= ===========================================================================================
prior                   as an argument
======================= ===========================================================================================
standard normal         ``StandardNormal(L)``
mixture                 ``GaussianMixture(L, K)``, clusters that are learned
of pseudo-inputs        ``VampPrior(posterior, D, K)``, which shares the posterior with the autoencoder
flow                    ``RealNVP(L)``, ``NSF(L)`` or ``MAF(L)``, which has to score what the posterior draws;
                        ``IAF`` would take L steps for that (Chen et al., 2016, arXiv:1611.02731)
conditional             any of these with ``context``; it must be all of the model's context
======================= ===========================================================================================
"""

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ...distributions.hierarchy import join
from ..base import GenerativeModel
from .latent import LatentVariableModel, prior_of, promise, shown, shown_features
from .vamp_prior import VampPrior


class VariationalAutoencoder(LatentVariableModel):
    """What variational autoencoders share: three parts that fit together; subclasses say by which objective they learn.

    Args:
        prior: Called without argument, or with c if it has a ``context``, returns p(z | c).
        likelihood: Called with [z, c], shape (*, latent + context), returns p(x | z, c); see
            :class:`~pyro_dgm.models.Factorized` for grey levels, counts, levels of images, and mixed columns.
        posterior: Called with [x, c], shape (*, data + context), returns q(z | x, c); x as the likelihood shows it.
        context: Width of the context c, 0 for none.
        num_particles: Draws of z per datum in ``log_prob``.

    Attributes:
        latent_shape: Shape of one z.
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
        inferred_shape, _ = promise("posterior", posterior, shown_features(likelihood, event_shape) + context)
        if inferred_shape != latent_shape:
            raise ValueError(
                f"posterior: expected distributions over z with event shape {tuple(latent_shape)}, as the prior's, "
                f"got {tuple(inferred_shape)}"
            )
        super().__init__(event_shape, context, support)
        self.latent_shape = latent_shape
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior
        self.num_particles = num_particles

    def _prior(self, context: Tensor | None) -> dist.TorchDistribution:
        return prior_of(self.prior, context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | z, c) for z with shape (*, *latent_shape)."""
        return self.likelihood(join(z, len(self.latent_shape), context))

    def infer(self, x: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns the approximate posterior q(z | x, c) for x with shape (*, *event_shape)."""
        n = len(self.event_shape)
        return self.posterior(join(shown(x, self.likelihood, n), n, context))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits what is in the units of the data: a prior's pseudo-inputs, a likelihood's standardisation."""
        if isinstance(self.prior, VampPrior):
            self.prior.initialize(x, context)
        if isinstance(self.likelihood, GenerativeModel):
            z = self.encode(x, context)
            self.likelihood.initialize(x, join(z, len(self.latent_shape), context))


class VAE(VariationalAutoencoder):
    r"""A variational autoencoder, trained by the evidence lower bound.

    Its density is a lower bound: ``vae().log_prob(x)`` is the importance-weighted bound with ``num_particles`` draws
    of z, the ELBO for one. A flow as prior or posterior is an argument like any other; the module's table says which.

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

        Images of grey levels, by convolutions:

        >>> from pyro_dgm.distributions.heads import ContinuousBernoulli
        >>> from pyro_dgm.models import Factorized
        >>> from pyro_dgm.nn import ConvDecoder, ConvEncoder
        >>> image = (1, 28, 28)
        >>> decoder, encoder = ConvDecoder(20, image), ConvEncoder(image, 2 * 20)
        >>> likelihood = Factorized(image, ContinuousBernoulli(), context=20, network=decoder)
        >>> vae = VAE(StandardNormal(20), likelihood, DiagonalNormal(20, context=28 * 28, network=encoder))
        >>> vae.reconstruct(torch.rand(3, *image)).shape
        torch.Size([3, 1, 28, 28])
    """
