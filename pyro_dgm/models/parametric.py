r"""Parametric families whose parameters are free or given by a network: the smallest generative models.

.. math::
    p(x | c) = \mathrm{Normal}\bigl(\mu(c), \operatorname{diag} \sigma^2(c)\bigr), \qquad
    p(x | c) = \mathrm{Bernoulli}(\sigma(\lambda(c)))

They are baselines by themselves, and the usual parts of larger models: with the latent as context a
likelihood p(x | z), with the data as context a posterior q(z | x), with none a prior p(z).
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from ..distributions import BatchMixture, UnitNormal
from ..distributions.heads.continuous import positive
from ..nn import Parameters, leave_autocast
from .base import TractableModel


class StandardNormal(TractableModel):
    """The standard normal distribution, without parameters: the usual prior.

    Args:
        event_shape: Shape of one x, or a number of features.

    Example:
        >>> StandardNormal(3)().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.register_buffer("loc", torch.zeros(self.event_shape))

    def _distribution(self, context: Tensor | None) -> dist.TorchDistribution:
        return UnitNormal(self.loc).to_event(len(self.event_shape))


class DiagonalNormal(TractableModel):
    r"""A normal distribution with independent features, its parameters free or read off the context by an MLP.

    The deviation is :math:`\sigma = \sigma_{\min} + \mathrm{softplus}(s)`, which starts at 1 and cannot collapse.

    Args:
        event_shape: Shape of one x, or a number of features.
        context: Width of the context, 0 for free parameters.
        hidden_features: Hidden widths of the MLP.
        activation: Class of its activation.
        network: A module of your own from ``(*, context)`` to ``(*, 2 D)`` (means, then raw deviations) in
            place of the MLP; D is the number of elements of the event.
        shared_scale: Whether one deviation, not depending on the context, serves all features (the
            sigma-VAE of Rybkin, Daniilidis and Levine, 2020, arXiv:2006.13202); the network then gives D numbers.
        min_scale: The least deviation.

    Example:
        >>> DiagonalNormal(2, context=3)(torch.zeros(5, 3)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.ReLU,
        *,
        network: nn.Module | None = None,
        shared_scale: bool = False,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(event_shape, context)
        size = self.event_shape.numel() * (1 if shared_scale else 2)
        self.network = network or Parameters(size, context, hidden_features, activation, zero=False)
        self.raw_scale = nn.Parameter(torch.zeros(1)) if shared_scale else None
        self.min_scale = min_scale

    def _distribution(self, context: Tensor | None) -> dist.TorchDistribution:
        theta = leave_autocast(self.network(context))
        loc, raw = theta.chunk(2, -1) if self.raw_scale is None else (theta, self.raw_scale)
        scale = positive(raw, self.min_scale)
        loc, scale = (t.reshape(t.shape[:-1] + self.event_shape) for t in (loc, scale.expand_as(loc)))
        return dist.Normal(loc, scale).to_event(len(self.event_shape))


class IndependentBernoulli(TractableModel):
    """Independent binary features, their logits free or read off the context by an MLP.

    Args:
        event_shape: Shape of one x, or a number of features.
        context: Width of the context, 0 for free parameters.
        hidden_features: Hidden widths of the MLP.
        activation: Class of its activation.
        network: A module of your own from ``(*, context)`` to ``(*, D)`` logits in place of the MLP.

    Example:
        >>> IndependentBernoulli(2)().log_prob(torch.tensor([0.0, 1.0])).exp().item()
        0.25
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.ReLU,
        *,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__(event_shape, context, constraints.boolean)
        size = self.event_shape.numel()
        self.network = network or Parameters(size, context, hidden_features, activation, zero=False)

    def _distribution(self, context: Tensor | None) -> dist.TorchDistribution:
        logits = leave_autocast(self.network(context))
        logits = logits.reshape(logits.shape[:-1] + self.event_shape)
        return dist.Bernoulli(logits=logits).to_event(len(self.event_shape))


class GaussianMixture(TractableModel):
    r"""A mixture of normal distributions with independent features, free or read off the context by an MLP.

    .. math::
        p(x | c) = \sum_{k=1}^K w_k(c)\, \mathrm{Normal}\bigl(x; \mu_k(c), \operatorname{diag} \sigma_k^2(c)\bigr)

    As a prior its components become the clusters of a latent space; with a context it is a mixture density network
    (Bishop, 1994). Free means start as standard normal draws and free deviations at 1, in the units of the data. For
    components that are no such normals there is :class:`~pyro_dgm.models.Mixture`.

    Args:
        event_shape: Shape of one x, or a number of features.
        components: Number K of components.
        context: Width of the context, 0 for free parameters.
        hidden_features: Hidden widths of the MLP.
        activation: Class of its activation.
        min_scale: The least deviation, without which a component could collapse onto one datum.

    Raises:
        ValueError: If there is no component.

    Example:
        >>> p = GaussianMixture(2, components=5)()
        >>> p.component_log_probs(p.sample((3,))).softmax(-1).shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        components: int,
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.ReLU,
        *,
        min_scale: float = 1e-3,
    ) -> None:
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}")
        super().__init__(event_shape, context)
        self.components, self.min_scale = components, min_scale
        size = self.event_shape.numel()
        self.parts = Parameters(components * (2 * size + 1), context, hidden_features, activation, zero=False)
        if not context:
            with torch.no_grad():
                self.parts.value.view(components, -1)[:, :size].normal_()

    def _distribution(self, context: Tensor | None) -> BatchMixture:
        size = self.event_shape.numel()
        theta = leave_autocast(self.parts(context)).unflatten(-1, (self.components, 2 * size + 1))
        loc, raw, logits = theta.split([size, size, 1], -1)
        loc, scale = (t.unflatten(-1, self.event_shape) for t in (loc, positive(raw, self.min_scale)))
        return BatchMixture(dist.Normal(loc, scale).to_event(len(self.event_shape)), logits.squeeze(-1))
