r"""Normalizing flows as distributions.

With a base distribution :math:`p_0` and a bijection :math:`x = T(z; c)`,

.. math::
    \log p(x | c) = \log p_0(z) + \log|\det \partial z / \partial x|, \qquad z = T^{-1}(x; c)

(Rezende and Mohamed, Variational Inference with Normalizing Flows, 2015, arXiv:1505.05770.) Value and determinant come
out of one pass, in either direction: :meth:`Flow.log_prob` for data, :meth:`Flow.rsample_and_log_prob` for
the flow's own samples.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from pyro.distributions.conditional import ConditionalTransform
from torch import Tensor
from torch.distributions import Transform as TorchTransform
from torch.distributions import constraints

from .._shapes import broadcast_shapes
from ..transforms import Compose, as_transform
from ..transforms.base import sum_ladj
from .promise import Density


class Flow(dist.TransformedDistribution):
    r"""A base distribution pushed through a bijection, with an exact density.

    Args:
        base: The distribution of z, with event shape (D,).
        transform: The bijection latent to data, ours or Pyro's or torch's, conditional or not, or a list of them.
        context: The context c, with shape ``batch_shape + (context,)``; it broadcasts against the base.

    Attributes:
        density: ``"exact"``; ``"implicit"`` for a transform without an inverse, which can score its own samples only.

    Example:
        >>> from pyro_dgm.transforms import Coupling
        >>> base = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
        >>> p = Flow(base, Coupling([True, False], context=3), context=torch.zeros(5, 3))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(4, 1, 2)).shape
        (torch.Size([5]), torch.Size([2]), torch.Size([4, 5]))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        base: dist.TorchDistribution,
        transform: TorchTransform | ConditionalTransform | Sequence[TorchTransform | ConditionalTransform],
        context: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        stack = Compose(list(transform)) if isinstance(transform, Sequence) else as_transform(transform)
        if context is not None:
            base = base.expand(broadcast_shapes(base.batch_shape, context.shape[:-1]))
        bound = stack.condition(context)
        if len(base.event_shape) == bound.domain.event_dim:  # as nearly always: torch takes long for what is plain then
            shape = bound.forward_shape(base.batch_shape + base.event_shape)
            cut = len(shape) - bound.codomain.event_dim
            if shape[:cut] == base.batch_shape:
                self.base_dist, self.transforms = base, [bound]
                super(torch.distributions.TransformedDistribution, self).__init__(
                    shape[:cut], shape[cut:], validate_args
                )
                return
        super().__init__(base, [bound], validate_args=validate_args)

    @property
    def density(self) -> Density:
        """What ``log_prob`` promises of data."""
        return "exact" if self.transforms[0].invertible else "implicit"

    def expand(self, batch_shape: torch.Size, _instance: "Flow | None" = None) -> "Flow":
        """Returns the flow with a larger batch shape."""
        return super().expand(batch_shape, self._get_checked_instance(Flow, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``, in one pass."""
        if self._validate_args:
            self._validate_sample(value)
        z, ladj = self.transforms[0].inverse_and_ladj(value)
        return self.base_dist.log_prob(z) + self._sum(z, ladj)

    def rsample_and_log_prob(self, sample_shape: torch.Size | Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Returns reparameterised samples and their log-densities, in one pass."""
        z = self.base_dist.rsample(torch.Size(sample_shape))
        x, ladj = self.transforms[0].forward_and_ladj(z)
        return x, self.base_dist.log_prob(z) - self._sum(z, ladj)

    def _sum(self, z: Tensor, ladj: Tensor) -> Tensor:
        return sum_ladj(self.transforms[0], z, ladj, len(self.base_dist.event_shape))


class Proposal(dist.TorchDistribution):
    """A flow, or what else samples with density, that a guide samples from and scores at once.

    Pyro draws a guide's sample and then asks for its density; a flow that samples in one pass may need D
    passes for that (IAF), or be unable to tell. This wrapper, made afresh for every draw, keeps the density of its
    latest sample at hand, and is the flow itself in every other respect.

    Args:
        flow: The flow, or another distribution with ``rsample_and_log_prob``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, flow: dist.TorchDistribution) -> None:
        self.flow = flow
        self._latest: tuple[Tensor, Tensor] | None = None
        super().__init__(flow.batch_shape, flow.event_shape, validate_args=False)

    @property
    def density(self) -> Density:
        """What the flow promises of data."""
        return self.flow.density

    @property
    def has_rsample(self) -> bool:
        """Whether the flow is reparameterised."""
        return self.flow.has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The support of the flow."""
        return self.flow.support

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Proposal":
        """Returns a proposal from the expanded flow."""
        return Proposal(self.flow.expand(batch_shape))

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws reparameterised samples and keeps their densities."""
        self._latest = self.flow.rsample_and_log_prob(sample_shape)
        return self._latest[0]

    def rsample_and_log_prob(self, sample_shape: torch.Size | Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Returns reparameterised samples and their log-densities."""
        return self.flow.rsample_and_log_prob(sample_shape)

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples, and keeps their densities if the flow is reparameterised."""
        with torch.no_grad():
            return self.rsample(sample_shape) if self.has_rsample else self.flow.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, at no cost for the latest sample."""
        if self._latest is not None and value is self._latest[0]:
            return self._latest[1]
        return self.flow.log_prob(value)
