r"""The autoencoder: a code for every datum, from which it is reconstructed.

.. math::
    z = f(x, c), \qquad x \sim p(x | z, c), \qquad L = -\log p\bigl(x \,|\, f(x, c), c\bigr)

Put a distribution q(z | x, c) in the place of the encoder f, and it is a variational autoencoder. What it learns
depends on the loss, :class:`~pyro_dgm.objectives.Reconstruction`, whose settings make it a denoising or a contractive
autoencoder. With squared errors and linear maps it finds the principal components.
(Vincent, Larochelle, Lajoie, Bengio and Manzagol, Stacked Denoising Autoencoders, 2010; Rifai, Vincent, Muller, Glorot
and Bengio, Contractive Auto-Encoders, 2011; Alain and Bengio, What Regularized Auto-Encoders Learn from the Data
Generating Distribution, 2014, arXiv:1211.4246.)

Nothing in that loss says how codes are distributed, so there is no density of x; a model p(z | c) of the codes, fitted
to them afterwards, makes it one that can be sampled (Ghosh, Sajjadi, Vergari, Black and Scholkopf, From Variational to
Deterministic Autoencoders, 2019, arXiv:1903.12436).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import pyro_method
from torch import Tensor, nn

from ...distributions import Pushforward
from ...distributions.hierarchy import join
from ...nn import leave_autocast
from ...nn.critics import called
from ...nn.mlp import EventMLP
from ..base import ApproximateModel, GenerativeModel
from .latent import network_shape, prior_of, promise

if TYPE_CHECKING:
    from ...objectives import Objective


class Autoencoder(ApproximateModel):
    r"""An autoencoder.

    Its samples are z ~ p(z | c), x ~ p(x | z, c); ``autoencoder().log_prob`` raises, since the sum over all z is none
    that the encoder helps with: a VAE has that bound. As a pair of Pyro programs it is the joint density
    p(x, z | c) with a guide whose mass is on z = f(x, c), as that of Pyro's ``AutoDelta``: ``SVI`` with ``Trace_ELBO``
    minimises :math:`-\log p(x | f(x)) - \log p(f(x))`, the reconstruction with codes drawn towards the prior's mode.

    Squared errors are a normal likelihood (``DiagonalNormal(..., shared_scale=True)``, which learns their size), and
    cross-entropies a Bernoulli one (``IndependentBernoulli``). The distribution of codes is learnt afterwards, by
    ``fit(autoencoder.prior, autoencoder.encode(x))``; a flow or a Gaussian mixture suits.

    Args:
        prior: Called without argument, or with c if it has a ``context``, returns p(z | c).
        likelihood: Called with [z, c], shape (*, latent + context), returns p(x | z, c): the decoder.
        encoder: A module of your own, called as f(x) or f(x, c), from (*, *event_shape) to (*, *latent_shape); an MLP
            when ``None``.
        context: Width of the context c, 0 for none.
        hidden_features: Hidden widths of the MLP.
        activation: Class of its activation.

    Attributes:
        latent_shape: Shape of one z.

    Raises:
        ValueError: If a part does not fit.

    Example:
        >>> from pyro_dgm import fit
        >>> from pyro_dgm.models import NSF, DiagonalNormal
        >>> autoencoder = Autoencoder(NSF(2), DiagonalNormal(5, context=2, shared_scale=True))
        >>> x = torch.randn(64, 5)
        >>> history = fit(autoencoder, x, max_epochs=1, progress=False)
        >>> history = fit(autoencoder.prior, autoencoder.encode(x).detach(), max_epochs=1, progress=False)
        >>> autoencoder().sample((3,)).shape, autoencoder.reconstruct(x).shape
        (torch.Size([3, 5]), torch.Size([64, 5]))
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        encoder: nn.Module | None = None,
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        conditional = bool(getattr(prior, "context", 0))
        latent_shape, _ = promise("prior", prior, context if conditional else 0)
        event_shape, support = promise("likelihood", likelihood, latent_shape.numel() + context)
        super().__init__(event_shape, context, support)
        if encoder is not None:
            found = network_shape(encoder, event_shape, context)
            if found != latent_shape:
                raise ValueError(
                    f"encoder: expected codes of shape {tuple(latent_shape)}, as the prior's, got {tuple(found)}"
                )
        self.encoder = encoder or EventMLP(event_shape, latent_shape, hidden_features, context, activation)
        self.prior, self.likelihood, self.latent_shape = prior, likelihood, latent_shape

    def _distribution(self, context: Tensor | None) -> Pushforward:
        def generate(z: Tensor) -> Tensor:
            return self.decode(z, context).sample()

        return Pushforward(self.latent(context), generate, self.event_shape, self.support, has_rsample=False)

    def latent(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(z | c), with the batch shape of the context."""
        return prior_of(self.prior, context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | z, c) for z with shape (*, *latent_shape)."""
        return self.likelihood(join(z, len(self.latent_shape), context))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the codes f(x, c), with shape (*, *latent_shape)."""
        return leave_autocast(called(self.encoder, x, context))

    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the mean of p(x' | z, c) at the code z of x."""
        return self.decode(self.encode(x, context), context).mean

    def reconstruction_error(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns -log p(x | f(x, c), c) in nats, with shape (*): large for data unlike those it was trained on.

        It is no -log p(x): what is reconstructed well need not be probable.
        """
        return -self.decode(self.encode(x, context), context).log_prob(x)

    @pyro_method
    def model(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The generative process: sites ``"z"`` and ``"x"`` in a plate ``"data"``; see :meth:`TractableModel.model`."""
        with self._data_plates(x, context, data_size):
            z = pyro.sample("z", self.latent(context))
            return pyro.sample("x", self.decode(z, context), obs=x)

    @pyro_method
    def guide(self, x: Tensor, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The code, as a site ``"z"`` all of whose mass is there."""
        with self._data_plates(x, context, data_size):
            return pyro.sample("z", dist.Delta(self.encode(x, context), event_dim=len(self.latent_shape)))

    def objective(self) -> "Objective":
        """Returns the reconstruction error."""
        from ...objectives import Reconstruction

        return Reconstruction()

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the standardisation of a flow as likelihood, which works in the units of the data."""
        if isinstance(self.likelihood, GenerativeModel):
            self.likelihood.initialize(x, join(self.encode(x, context), len(self.latent_shape), context))
