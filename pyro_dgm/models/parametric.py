r"""Parametric families whose parameters are free or given by a network: the smallest generative models.

.. math::
    p(x | c) = \prod_{i=1}^D h\bigl(x_i; \theta_i(c)\bigr), \qquad \theta_i(c) \in R^P

with a head h (:mod:`pyro_dgm.distributions.heads`): coins, grey levels, counts, levels, real numbers, or columns of
several kinds. They are baselines by themselves, and the usual parts of larger models: with the latent as context a
likelihood p(x | z), with the data as context a posterior q(z | x), with none a prior p(z).

A network gives P numbers for each number of an event, **parameters first**: the P parameters of all numbers one after
another, :math:`\theta` with shape ``(*, P, *event_shape)``, in any shape that flattens to that. So a vector has the D
means and then the D deviations, and for images (C, H, W) a decoder gives P C channels, ``(*, P * C, H, W)``, of which
the first C are the first parameter.
"""

import math
from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from .._shapes import as_shape
from ..distributions import BatchMixture, UnitNormal, heads
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


class _Independent(TractableModel):
    """A model of numbers that are independent given the context; its kinds below say by which head."""

    def __init__(
        self,
        event_shape: int | Sequence[int],
        head: heads.Head,
        context: int,
        hidden_features: Sequence[int],
        activation: type[nn.Module],
        network: nn.Module | None,
        shared: Sequence[int] | None = None,
    ) -> None:
        event_shape = as_shape(event_shape)
        super().__init__(event_shape, context, head.support_of(event_shape))
        if shared is not None and not head.dispersed:
            raise ValueError(
                "shared: expected a head whose last parameter says how wide it is (Normal, NegativeBinomial), got "
                f"{type(head).__name__}"
            )
        self.head = head
        self._given = head.size - (shared is not None)  # numbers that the network gives for each of the event
        size = self._given * self.event_shape.numel()
        self.network = network or Parameters(size, context, hidden_features, activation, zero=False)
        self.raw_scale = None if shared is None else nn.Parameter(torch.zeros(tuple(shared)))

    def _distribution(self, context: Tensor | None) -> dist.TorchDistribution:
        theta = self._arranged(leave_autocast(self.network(context)), context)
        if self.raw_scale is not None:
            loc = theta.squeeze(-1)
            theta = torch.stack([loc, self.raw_scale.expand_as(loc)], -1)
        return self.head.checked(theta).to_event(len(self.event_shape))

    def _arranged(self, out: Tensor, context: Tensor | None) -> Tensor:
        """Returns what the network gave with shape ``batch_shape + event_shape + (P,)``."""
        shape = (*(() if context is None else context.shape[:-1]), self._given, *self.event_shape)
        if out.numel() != math.prod(shape):
            raise ValueError(
                f"network: expected {self._given} numbers for each of an event, parameters first, such as shape "
                f"{(*shape[: -len(self.event_shape) - 1], math.prod(shape[-len(self.event_shape) - 1 :]))}, got "
                f"{tuple(out.shape)}"
            )
        return out.reshape(shape).movedim(-len(self.event_shape) - 1, -1)


class Factorized(_Independent):
    r"""Independent numbers of any kind, their parameters free or read off the context.

    Args:
        event_shape: Shape of one x, or a number of features.
        head: The distribution of a number, which says how many parameters P it takes:
            ``heads.Bernoulli()`` for binary data, ``heads.ContinuousBernoulli()`` for grey levels in [0, 1],
            ``heads.DiscretizedLogisticMixture(K, levels=256)`` for integers 0..255, ``heads.Categorical(L)``,
            ``heads.Poisson()`` and ``heads.NegativeBinomial()`` for counts, ``heads.Normal()`` or
            ``heads.Normal(scale=0.1)`` for real numbers, ``heads.Columns([...])`` for a table of several kinds.
        context: Width of the context, 0 for free parameters.
        hidden_features: Hidden widths of the MLP that reads the context.
        activation: Class of its activation.
        network: A module in place of the MLP, from ``(*, context)`` to P D numbers, parameters first (see the module):
            ``(*, P * D)``, or ``(*, P * C, H, W)`` for images, as :class:`~pyro_dgm.nn.ConvDecoder` gives them.
        shared: Where the last parameter, the width, is learned by itself and not read off the context, its shape, which
            broadcasts to the event: ``()`` for one number (the sigma-VAE of Rybkin, Daniilidis and Levine, 2020,
            arXiv:2006.13202), ``event_shape`` for one for each feature, ``(C, 1, 1)`` for each channel. The network
            then gives P - 1 numbers. Only for heads that have a width, ``Normal`` and ``NegativeBinomial``.

    Raises:
        ValueError: If the head does not suit the event, or has no width to share.

    Example:
        >>> from pyro_dgm.distributions import heads
        >>> p = Factorized((1, 2, 2), heads.NegativeBinomial(), context=3, shared=(1, 2, 2))(torch.zeros(5, 3))
        >>> p.batch_shape, p.event_shape, p.sample().shape
        (torch.Size([5]), torch.Size([1, 2, 2]), torch.Size([5, 1, 2, 2]))
        >>> rows = Factorized(3, heads.Columns([heads.Poisson(), heads.Categorical(4), heads.Normal()]))
        >>> rows().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        head: heads.Head,
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.ReLU,
        *,
        network: nn.Module | None = None,
        shared: Sequence[int] | None = None,
    ) -> None:
        super().__init__(event_shape, head, context, hidden_features, activation, network, shared)


class DiagonalNormal(_Independent):
    r"""A normal distribution with independent features, its parameters free or read off the context by an MLP.

    The deviation is :math:`\sigma = \sigma_{\min} + \mathrm{softplus}(s)`, which starts at 1 and cannot collapse.

    Args:
        event_shape: Shape of one x, or a number of features.
        context: Width of the context, 0 for free parameters.
        hidden_features: Hidden widths of the MLP.
        activation: Class of its activation.
        network: A module in place of the MLP, from ``(*, context)`` to ``(*, 2 D)`` (means, then raw deviations);
            D is the number of elements of the event.
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
        shared = (1,) if shared_scale else None
        super().__init__(event_shape, heads.Normal(min_scale), context, hidden_features, activation, network, shared)


class IndependentBernoulli(_Independent):
    """Independent binary features, their logits free or read off the context by an MLP.

    Grey levels, values between 0 and 1, are refused, since their "likelihood" would be none: see
    ``heads.ContinuousBernoulli``.

    Args:
        event_shape: Shape of one x, or a number of features.
        context: Width of the context, 0 for free parameters.
        hidden_features: Hidden widths of the MLP.
        activation: Class of its activation.
        network: A module in place of the MLP, from ``(*, context)`` to ``(*, D)`` logits.

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
        super().__init__(event_shape, heads.Bernoulli(), context, hidden_features, activation, network)


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
