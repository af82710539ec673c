r"""Variational autoencoders with several layers of latents, inferred from the bottom up or from the top down.

The generative process goes down, from the most abstract latent :math:`z_L` to the data:

.. math::
    z_L \sim p(z_L | c), \qquad z_l \sim p(z_l | z_{l+1}, c), \qquad x \sim p(x | z_1, c)

    \log p(x | c) \ge E_q \Bigl[\log p(x | z_1, c) - \sum_l \log \frac{q(z_l | \cdot)}{p(z_l | z_{l+1}, c)}\Bigr]

:class:`HierarchicalVAE` infers upwards, :math:`q(z_1 | x, c) \prod_l q(z_l | z_{l-1}, c)`, each latent from the one
below (Rezende, Mohamed and Wierstra, Stochastic Backpropagation and Approximate Inference in Deep Generative Models,
2014, arXiv:1401.4082; Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519).

:class:`LadderVAE` infers downwards, as the latents are generated: :math:`q(z_L | x, c) \prod_l q(z_l | z_{l+1}, x, c)`.
A deterministic pass goes up first, :math:`d_l = f_l(d_{l-1}, c)` with :math:`d_0 = x`, and gives every layer the
evidence :math:`N(\hat\mu_l, \hat\sigma_l^2)`; on the way down it meets the prior :math:`N(\mu_l, \sigma_l^2)` of that
layer as two independent measurements of a number meet, weighted by their precisions,

.. math::
    q(z_l | z_{l+1}, x, c) \propto N(z_l; \hat\mu_l, \hat\sigma_l^2)\, N(z_l; \mu_l, \sigma_l^2)
    = N\Bigl(\frac{\hat\mu_l \hat\sigma_l^{-2} + \mu_l \sigma_l^{-2}}{\hat\sigma_l^{-2} + \sigma_l^{-2}},
    \frac{1}{\hat\sigma_l^{-2} + \sigma_l^{-2}}\Bigr)

(Sonderby, Raiko, Maaloe, Sonderby and Winther, Ladder Variational Autoencoders, 2016, arXiv:1602.02282.)
"""

from collections.abc import Generator, Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ...distributions import Hierarchy
from ...distributions.hierarchy import join
from ...nn import MLP, leave_autocast
from ..base import GenerativeModel
from ..parametric import DiagonalNormal, StandardNormal
from .latent import LatentVariableModel, promise, promise_latent, shown, shown_features

Widths = Sequence[int] | Sequence[Sequence[int]]


class HierarchicalModel(LatentVariableModel):
    """The generative process of several layers; subclasses say how it is inferred.

    Args:
        latents: Widths of z_1, ..., z_L, from the data up.
        likelihood: p(x | z_1, c).
        hidden: Hidden widths of the networks between every layer and the one below.
        activation: Class of their activation.
        context: Width of the context.
        num_particles: Draws per datum in ``log_prob``.
        prior: The layers' conditionals, from the data up, in place of dense ones.
    """

    def __init__(
        self,
        latents: Sequence[int],
        likelihood: nn.Module,
        hidden: list[list[int]],
        activation: type[nn.Module],
        context: int,
        num_particles: int,
        prior: Sequence[nn.Module] | None,
    ) -> None:
        event_shape, support = promise("likelihood", likelihood, latents[0] + context)
        super().__init__(event_shape, context, support)
        self.sizes = {f"z_{i}": n for i, n in enumerate(latents, 1)}
        if prior is None:
            prior = [
                DiagonalNormal(n, above + context, widths[::-1], activation)
                for (n, above), widths in zip(pairwise(latents), hidden[1:], strict=True)
            ]
            prior = [*prior, StandardNormal(latents[-1])]
        self._conditional_prior = bool(getattr(prior[-1], "context", 0))
        widths = [*(n + context for n in latents[1:]), context if self._conditional_prior else 0]
        fitting("prior", prior, latents, widths)
        self.prior = nn.ModuleList(prior)
        self.likelihood = likelihood
        self.num_particles = num_particles

    def _prior(self, context: Tensor | None) -> Hierarchy:
        batch_shape = () if context is None else context.shape[:-1]
        return Hierarchy(self.sizes, partial(self._downwards, context), batch_shape)

    def _downwards(self, context: Tensor | None) -> Generator[tuple[str, Distribution], Tensor, None]:
        *below, (top, p) = zip(self.sizes, self.prior, strict=True)
        z = yield top, p(context) if self._conditional_prior else p()
        for name, part in reversed(below):
            z = yield name, part(join(z, 1, context))

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | z_1, c) for z = [z_1, ..., z_L] with shape (*, sum of the widths)."""
        return self.likelihood(join(z[..., : self.sizes["z_1"]], 1, context))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the standardisation of a flow as likelihood, which works in the units of the data."""
        if isinstance(self.likelihood, GenerativeModel):
            z = self.encode(x, context)
            self.likelihood.initialize(x, join(z[..., : self.sizes["z_1"]], 1, context))


class HierarchicalVAE(HierarchicalModel):
    r"""A variational autoencoder of several latent layers, inferred from the bottom up.

    Sites are ``"z_1"``, ..., ``"z_L"``, z_1 next to the data; z is their concatenation, bottom first. The upper layers
    learn little unless the divergence warms up (``ELBO(kl_weight=LinearWarmup(...))``) or the bound is of many
    particles; :class:`LadderVAE` uses more of them. Inference runs against the order of generation, so the closed-form
    divergences of Pyro's ``TraceMeanField_ELBO`` do not apply (Pyro warns): train with the default.

    Args:
        latents: Widths of z_1, ..., z_L, from the data up.
        likelihood: Called with [z_1, c], shape (*, latents[0] + context), returns p(x | z_1, c).
        hidden_features: Hidden widths on the way up, the same for every layer, or a sequence for each: first those
            between x and z_1, then between z_1 and z_2, and so on. The prior takes all but the first in reverse on the
            way down.
        activation: Class of the activation.
        context: Width of the context c, 0 for none.
        num_particles: Draws per datum in ``log_prob``.
        prior: L modules that return p(z_1 | z_2, c), ..., p(z_L | c), in place of dense normal ones under a standard
            normal; each is called with its condition, concatenated, the last without unless it has a ``context``.
        posterior: L modules that return q(z_1 | x, c), q(z_2 | z_1, c), ..., in place of dense normal ones. For images,
            say, ``DiagonalNormal(latents[0], D + context, network=...)`` as the first.

    Raises:
        ValueError: If parts do not fit, or a latent is not a vector of reals.

    Example:
        The network of two stochastic layers of Burda et al., 784-200-200-100-100-100-50.

        >>> from pyro_dgm.models import IndependentBernoulli
        >>> pixels = IndependentBernoulli(784, 100, (200, 200), torch.nn.Tanh)
        >>> vae = HierarchicalVAE((100, 50), pixels, ((200, 200), (100, 100)), torch.nn.Tanh)
        >>> vae().sample((3,)).shape, vae.encode(torch.zeros(3, 784)).shape
        (torch.Size([3, 784]), torch.Size([3, 150]))
    """

    def __init__(
        self,
        latents: Sequence[int],
        likelihood: nn.Module,
        hidden_features: Widths = (64, 64),
        activation: type[nn.Module] = nn.ReLU,
        context: int = 0,
        num_particles: int = 1,
        *,
        prior: Sequence[nn.Module] | None = None,
        posterior: Sequence[nn.Module] | None = None,
    ) -> None:
        hidden = layers(latents, hidden_features)
        super().__init__(latents, likelihood, hidden, activation, context, num_particles, prior)
        features = shown_features(likelihood, self.event_shape)
        widths = [n + context for n in (features, *latents[:-1])]
        if posterior is None:
            parts = zip(latents, widths, hidden, strict=True)
            posterior = [DiagonalNormal(n, width, features, activation) for n, width, features in parts]
        fitting("posterior", posterior, latents, widths)
        self.posterior = nn.ModuleList(posterior)

    def infer(self, x: Tensor, context: Tensor | None = None) -> Hierarchy:
        """Returns q(z_1 | x, c) q(z_2 | z_1, c) ... q(z_L | z_{L-1}, c) for x with shape (*, *event_shape)."""
        n = len(self.event_shape)
        x = join(shown(x, self.likelihood, n), n, context)

        def conditionals() -> Generator[tuple[str, Distribution], Tensor, None]:
            below = x
            for name, part in zip(self.sizes, self.posterior, strict=True):
                z = yield name, part(below)
                below = join(z, 1, context)

        return Hierarchy(self.sizes, conditionals, x.shape[:-1])


class LadderVAE(HierarchicalModel):
    r"""A variational autoencoder of several latent layers, inferred from the top down, evidence meeting prior.

    Sites are ``"z_1"``, ..., ``"z_L"``, z_1 next to the data; z is their concatenation, bottom first. Posterior and
    prior share the way down, so that more layers are used than :class:`HierarchicalVAE` uses. The paper trains with a
    warm-up, ``ELBO(kl_weight=LinearWarmup(...))``, and with batch normalisation, which is left out here: a density
    should not depend on its batch.

    Args:
        latents: Widths of z_1, ..., z_L, from the data up.
        likelihood: Called with [z_1, c], shape (*, latents[0] + context), returns p(x | z_1, c).
        hidden_features: Widths of the deterministic pass up, the same for every layer, or a sequence for each: those
            from x to d_1, from d_1 to d_2, and so on. The prior takes all but the first in reverse on the way down.
        activation: Class of the activation.
        context: Width of the context c, 0 for none.
        num_particles: Draws per datum in ``log_prob``.
        prior: L modules that return p(z_1 | z_2, c), ..., p(z_L | c), in place of dense normal ones under a standard
            normal; each is called with its condition, concatenated, the last without unless it has a ``context``. All
            but the last have to be normal, with independent features.
        bottom_up: L modules f_l that return d_l, with shape (*, last of its widths), from [d_{l-1}, c], in place of
            dense ones; for images the first may be a convolutional network of [x, c], flattened.

    Raises:
        ValueError: If parts do not fit, or a latent is not a vector of reals.

    Example:
        >>> vae = LadderVAE((8, 4, 2), DiagonalNormal(20, context=8), hidden_features=(32,))
        >>> vae().sample((3,)).shape, vae.encode(torch.zeros(3, 20)).shape
        (torch.Size([3, 20]), torch.Size([3, 14]))
    """

    def __init__(
        self,
        latents: Sequence[int],
        likelihood: nn.Module,
        hidden_features: Widths = (64, 64),
        activation: type[nn.Module] = nn.ReLU,
        context: int = 0,
        num_particles: int = 1,
        *,
        prior: Sequence[nn.Module] | None = None,
        bottom_up: Sequence[nn.Module] | None = None,
    ) -> None:
        hidden = layers(latents, hidden_features)
        if not all(hidden):
            raise ValueError(f"hidden_features: expected at least one width for every layer, got {hidden_features}")
        super().__init__(latents, likelihood, hidden, activation, context, num_particles, prior)
        widths = [features[-1] for features in hidden]
        if bottom_up is None:
            features = shown_features(likelihood, self.event_shape)
            inputs = zip((features, *widths[:-1]), hidden, strict=True)
            bottom_up = [
                nn.Sequential(MLP(n + context, out, inner, activation=activation), activation())
                for n, (*inner, out) in inputs
            ]
        if len(bottom_up) != len(latents):
            raise ValueError(f"bottom_up: expected a module for each of {len(latents)} latents, got {len(bottom_up)}")
        self.bottom_up = nn.ModuleList(bottom_up)
        self.evidence = nn.ModuleList(DiagonalNormal(n, width, ()) for n, width in zip(latents, widths, strict=True))

    def infer(self, x: Tensor, context: Tensor | None = None) -> Hierarchy:
        """Returns q(z_L | x, c) ... q(z_1 | z_2, x, c) for x with shape (*, *event_shape)."""
        n = len(self.event_shape)
        d, evidence = join(shown(x, self.likelihood, n), n, None), {}
        for name, f, read in zip(self.sizes, self.bottom_up, self.evidence, strict=True):
            d = leave_autocast(f(join(d, 1, context)))
            evidence[name] = top = read(d)

        def meet(name: str, p: Distribution) -> Distribution:
            return top if evidence[name] is top else normal_product(evidence[name], p)

        return self._prior(context).updated(meet, top.batch_shape)


def normal_product(p: Distribution, q: Distribution) -> dist.TorchDistribution:
    """Returns the normal distribution whose density is proportional to the product of two, precisions adding up."""
    variance = p.variance + q.variance
    loc = p.mean + (q.mean - p.mean) * (p.variance / variance)
    return dist.Normal(loc, p.stddev * q.stddev / variance.sqrt()).to_event(1)


def layers(latents: Sequence[int], hidden_features: Widths) -> list[list[int]]:
    """Returns the hidden widths of every layer.

    Raises:
        ValueError: If there is no layer, or widths are given for another number of them.
    """
    if not latents:
        raise ValueError("latents: expected the width of at least one latent, got none")
    if all(isinstance(width, int) for width in hidden_features):
        return [list(hidden_features) for _ in latents]
    if len(hidden_features) != len(latents):
        raise ValueError(
            f"hidden_features: expected widths, or a sequence of them for each of {len(latents)} latents, got "
            f"{hidden_features}"
        )
    return [list(widths) for widths in hidden_features]


def fitting(name: str, parts: Sequence[nn.Module], latents: Sequence[int], widths: Iterable[int]) -> None:
    """Checks that conditionals return distributions of real vectors of the latents' widths.

    Raises:
        ValueError: If they do not.
    """
    if len(parts) != len(latents):
        raise ValueError(f"{name}: expected a module for each of {len(latents)} latents, got {len(parts)}")
    for i, (part, latent, width) in enumerate(zip(parts, latents, widths, strict=True)):
        promise_latent(f"{name}[{i}]", part, width, latent)
