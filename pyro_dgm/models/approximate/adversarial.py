r"""Variational autoencoders with a critic in the place of a divergence that cannot be computed.

.. math::
    z \sim p(z | c), \qquad x \sim p(x | z, c), \qquad q(z | x, c) \approx p(z | x, c), \qquad q(z) = E_x\, q(z | x)

============================= ==========================================================================================
model                         minimises, beside the reconstruction :math:`-E_{q(z | x)} \log p(x | z)`
============================= ==========================================================================================
`AdversarialAutoencoder`      how well a critic D(z) tells the *aggregate* posterior q(z) from the prior
`AdversarialVariationalBayes` :math:`E_x \mathrm{KL}(q(z | x) \,\|\, p(z))` as a critic T(z, x) tells it, of a
                              posterior that is noise through a network and has no density
============================= ==========================================================================================
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import pyro_method
from torch import Tensor, nn
from torch.distributions import constraints

from ...distributions import Marginal, Pushforward, UnitNormal
from ...distributions.hierarchy import concatenated, join
from ...nn import MLP, leave_autocast
from ...transforms.support import elementwise
from ..base import ApproximateModel, GenerativeModel
from .latent import prior_of, promise, shown, shown_features
from .vae import VariationalAutoencoder

if TYPE_CHECKING:
    from ...objectives import Objective


class AdversarialAutoencoder(VariationalAutoencoder):
    r"""An autoencoder whose codes, of all data together, a critic cannot tell from draws of the prior.

    .. math::
        L = -E_{q(z | x)} \log p(x | z) + \lambda\, \ell_G\bigl(D(z)\bigr)

    Any prior that can be sampled will do, since nothing scores it; it does not learn. As a posterior of its own datum
    q(z | x) may be as sharp as it likes; with log_prob a lower bound, as a VAE's, sharp posteriors make that bound
    loose, and it is not what was trained. The paper's deterministic encoder has no such bound: that is the objective on
    an :class:`~pyro_dgm.models.Autoencoder`, ``fit(autoencoder, x, objective=AdversarialReconstruction(critic))``.
    (Makhzani, Shlens, Jaitly, Goodfellow and Frey, Adversarial Autoencoders, 2015, arXiv:1511.05644. With the weight
    :math:`\lambda` it is the WAE-GAN of Tolstikhin, Bousquet, Gelly and Schoelkopf, 2017, arXiv:1711.01558.)

    Args:
        prior: As of :class:`~pyro_dgm.models.VAE`, and so are the next four.
        likelihood: p(x | z, c).
        posterior: q(z | x, c), reparameterised.
        context: Width of the context.
        num_particles: Draws of z per datum in ``log_prob``.
        weight: The weight :math:`\lambda` of the encoder's part in the game.
        hidden_features: Hidden widths of the default critic.
        critic: A module of your own called as D(z) or D(z, c), from latents, flattened, (*, L) to scores (*, 1) or
            (*), in place of the default.

    Example:
        >>> from pyro_dgm.models import DiagonalNormal, GaussianMixture
        >>> aae = AdversarialAutoencoder(GaussianMixture(2, 10), DiagonalNormal(5, 2), DiagonalNormal(2, 5))
        >>> [player.name for player in aae.objective()(aae).players]
        ['critic', 'autoencoder']
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        context: int = 0,
        num_particles: int = 1,
        *,
        weight: float = 1.0,
        hidden_features: Sequence[int] = (128, 128),
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__(prior, likelihood, posterior, context, num_particles)
        self.weight = weight
        self.critic = critic or MLP(self.latent_shape.numel(), 1, hidden_features, context, nn.LeakyReLU)

    def objective(self) -> "Objective":
        """Returns the game of autoencoder and critic."""
        from ...objectives import AdversarialReconstruction

        return AdversarialReconstruction(self.critic, weight=self.weight)


class AdversarialVariationalBayes(ApproximateModel):
    r"""A variational autoencoder whose posterior is noise through a network, of any shape, with no density.

    .. math::
        z = f(x, c, \epsilon), \quad \epsilon \sim N(0, I), \qquad
        L = E_\epsilon \bigl[T(z, x, c) - \log p(x | z, c)\bigr], \qquad T^* = \log q(z | x, c) - \log p(z | c)

    :class:`~pyro_dgm.objectives.AdversarialELBO` trains it; as an objective on a program and an implicit guide it
    serves any Pyro model. Its loss is an estimate of the negative bound, and can be too good. ``log_prob`` does not
    believe the critic: it is the importance-weighted bound whose proposal is the normal distribution with the means
    and deviations of q(z | x, c), over ``moments`` draws, a true lower bound, and a loose one where q is far from
    normal (raise ``num_particles``, or use :func:`~pyro_dgm.evaluation.annealed`). ``guide`` samples from that normal
    distribution, so that ``SVI`` has something to score; ``implicit_guide`` from q. Like any reverse divergence it may
    settle in one of several modes that lie far apart, from a narrow start above all.

    (Mescheder, Nowozin and Geiger, Adversarial Variational Bayes, 2017, arXiv:1701.04722.)

    Args:
        prior: Called without argument, or with c if it has a ``context``, returns p(z | c), of real numbers.
        likelihood: Called with [z, c], shape (*, latent + context), returns p(x | z, c).
        encoder: A module of your own called with [x, c, epsilon], (*, data + context + noise_features), x as the
            likelihood shows it; returns z with shape (*, *latent_shape). An MLP when ``None``.
        context: Width of the context c, 0 for none.
        num_particles: Draws of z per datum in ``log_prob``.
        noise_features: Width of the noise.
        hidden_features: Hidden widths of the default networks.
        critic: A module of your own called as T(z, d), z flattened, d = [x, c], to scores (*, 1) or (*).
        contrast: Whether the critic compares q with that normal distribution rather than with the prior, which is far
            away from it where latents say much about x (adaptive contrast). A prior that learns needs it.
        moments: Draws of q behind means and deviations.

    Attributes:
        latent_shape: Shape of one z.

    Raises:
        ValueError: If a part does not fit, or latents are not real.

    Example:
        >>> from pyro_dgm.models import DiagonalNormal, StandardNormal
        >>> model = AdversarialVariationalBayes(StandardNormal(2), DiagonalNormal(5, context=2))
        >>> model.encode(torch.zeros(3, 5), num_samples=4).shape, model().log_prob(torch.zeros(3, 5)).shape
        (torch.Size([4, 3, 2]), torch.Size([3]))
        >>> [player.name for player in model.objective()(model).players]
        ['critic', 'loss']
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        encoder: nn.Module | None = None,
        context: int = 0,
        num_particles: int = 1,
        *,
        noise_features: int = 16,
        hidden_features: Sequence[int] = (128, 128),
        critic: nn.Module | None = None,
        contrast: bool = True,
        moments: int = 32,
    ) -> None:
        conditional = bool(getattr(prior, "context", 0))
        latent_shape, latent_support = promise("prior", prior, context if conditional else 0)
        event_shape, support = promise("likelihood", likelihood, latent_shape.numel() + context)
        super().__init__(event_shape, context, support)
        if elementwise(latent_support) is not constraints.real:
            raise ValueError(f"prior: expected one of real numbers, got one on {latent_support}; VAE takes any")
        if moments < 2 or noise_features < 1:
            raise ValueError(f"moments, noise_features: expected at least 2 and 1, got {moments} and {noise_features}")
        seen, latent = shown_features(likelihood, event_shape) + context, latent_shape.numel()
        self.prior, self.likelihood, self.latent_shape = prior, likelihood, latent_shape
        self.encoder = encoder or MLP(seen + noise_features, latent, hidden_features, activation=nn.LeakyReLU)
        self.critic = critic or MLP(latent, 1, hidden_features, seen, nn.LeakyReLU)
        self.num_particles, self.contrast, self.moments = num_particles, contrast, moments
        self.register_buffer("noise", torch.zeros(noise_features))

    def _distribution(self, context: Tensor | None) -> Marginal:
        prior = prior_of(self.prior, context)
        scored = {"support": self.support, "num_particles": self.num_particles}
        return Marginal(
            prior, lambda z: self.decode(z, context), lambda x: self.proposal(x, context), self.event_shape, **scored
        )

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | z, c) for z with shape (*, *latent_shape)."""
        return self.likelihood(join(z, len(self.latent_shape), context))

    def seen(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns what encoder and critic see of a datum: [x, c], x flattened, as the likelihood shows it."""
        n = len(self.event_shape)
        return join(shown(x, self.likelihood, n), n, context)

    def infer(self, x: Tensor, context: Tensor | None = None) -> Pushforward:
        """Returns the posterior q(z | x, c), which samples and does not score, for x with shape (*, *event_shape)."""
        d = self.seen(x, context)

        def transport(noise: Tensor) -> Tensor:
            z = leave_autocast(self.encoder(concatenated([d, noise])))
            return z.reshape(noise.shape[:-1] + self.latent_shape)

        noise = UnitNormal(self.noise).to_event(1).expand(d.shape[:-1])
        support = constraints.independent(constraints.real, len(self.latent_shape))
        return Pushforward(noise, transport, self.latent_shape, support)

    def proposal(self, x: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns the normal distribution with the means and deviations of q(z | x, c), over draws of it."""
        z = self.infer(x, context).rsample((self.moments,))
        return dist.Normal(z.mean(0), z.std(0) + 1e-4).to_event(len(self.latent_shape))

    def encode(self, x: Tensor, context: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        """Returns the mean of ``moments`` draws of q(z | x, c), or draws with shape (num_samples, *, *latent_shape)."""
        z = self.infer(x, context).rsample((self.moments if num_samples is None else num_samples,))
        return z.mean(0) if num_samples is None else z

    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the mean of p(x' | z, c) at the representation z of x."""
        return self.decode(self.encode(x, context), context).mean

    @pyro_method
    def model(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The generative process: sites ``"z"`` and ``"x"`` in a plate ``"data"``; see :meth:`TractableModel.model`."""
        with self._data_plates(x, context, data_size):
            z = pyro.sample("z", prior_of(self.prior, context))
            return pyro.sample("x", self.decode(z, context), obs=x)

    @pyro_method
    def guide(self, x: Tensor, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The normal distribution with the moments of the posterior: site ``"z"`` in the plate ``"data"``."""
        with self._data_plates(x, context, data_size):
            return pyro.sample("z", self.proposal(x, context))

    @pyro_method
    def implicit_guide(self, x: Tensor, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The posterior itself, which no estimator of Pyro's can score: site ``"z"`` in the plate ``"data"``."""
        with self._data_plates(x, context, data_size):
            return pyro.sample("z", self.infer(x, context))

    def objective(self) -> "Objective":
        """Returns the bound with the critic's divergence."""
        from ...objectives import AdversarialELBO

        return AdversarialELBO(self.critic, self.seen, contrast=self.moments if self.contrast else 0)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the standardisation of a flow as likelihood, which works in the units of the data."""
        if isinstance(self.likelihood, GenerativeModel):
            self.likelihood.initialize(x, join(self.encode(x, context), len(self.latent_shape), context))
