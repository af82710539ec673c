r"""Mixtures of distributions, of several families or of one.

.. math::
    p(x) = \sum_{k=1}^K w_k\, p_k(x), \qquad \log p(x) = \operatorname{logsumexp}_k \bigl(\log w_k + \log p_k(x)\bigr)

In :class:`Mixture` each component is a distribution by itself, a flow with weights of its own for instance. In
:class:`BatchMixture` they are one batch, scored in one pass. Torch's ``MixtureSameFamily`` does that too, but its
support has no bijection (so no autoguide, no NUTS), its weights must have the components' batch shape to be sampled,
and it would call a mixture of bounds exact.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .._shapes import broadcast_shapes
from .promise import Density, density_of, weakest


class Mixture(dist.TorchDistribution):
    r"""A finite mixture.

    Args:
        components: The distributions :math:`p_k`, of one event shape and support; batch shapes broadcast.
        logits: :math:`\log w_k` up to a constant, with shape (K,).

    Attributes:
        density: What all components promise.

    Raises:
        ValueError: If the event shapes differ, or there are not as many logits as components.

    Example:
        >>> p = Mixture([dist.Normal(-1.0, 1.0), dist.Laplace(torch.zeros(3), 1.0)], torch.zeros(2))
        >>> p.batch_shape, p.sample((5,)).shape
        (torch.Size([3]), torch.Size([5, 3]))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self, components: Sequence[dist.TorchDistribution], logits: Tensor, validate_args: bool | None = None
    ) -> None:
        shapes = {p.event_shape for p in components}
        if len(shapes) != 1:
            raise ValueError(f"components: expected distributions of one event shape, got {[*map(tuple, shapes)]}")
        if logits.shape != (len(components),):
            raise ValueError(f"logits: expected shape ({len(components)},), got {tuple(logits.shape)}")
        batch_shape = broadcast_shapes(*(p.batch_shape for p in components))
        self.components = [p.expand(batch_shape) for p in components]
        self.logits = logits
        super().__init__(batch_shape, shapes.pop(), validate_args=validate_args)

    @property
    def density(self) -> Density:
        """What all components promise."""
        return weakest(self.components)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The support of the components."""
        return self.components[0].support

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Mixture":
        """Returns the mixture with a larger batch shape."""
        components = [p.expand(torch.Size(batch_shape)) for p in self.components]
        return Mixture(components, self.logits, validate_args=self.__dict__.get("_validate_args"))

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws a component for every datum, and the datum from it; every component is drawn from, one is kept."""
        with torch.no_grad():
            shape = self.shape(sample_shape)
            draws = torch.stack([p.sample(torch.Size(sample_shape)) for p in self.components])
            which = dist.Categorical(logits=self.logits).sample(shape[: len(shape) - self.event_dim])
            index = which[(None, ..., *(None,) * self.event_dim)].expand(1, *shape)
            return draws.gather(0, index).squeeze(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        return self.component_log_probs(value).logsumexp(-1)

    def component_log_probs(self, value: Tensor) -> Tensor:
        """Returns log w_k + log p_k(x), with shape ``sample_shape + batch_shape + (K,)``.

        Normalised (``.softmax(-1)``), these are the posterior probabilities of the components.
        """
        return torch.stack([p.log_prob(value) for p in self.components], -1) + self.logits.log_softmax(-1)


class BatchMixture(dist.TorchDistribution):
    r"""A finite mixture whose components are the last batch dimension of one distribution.

    Sampling draws from every component and keeps one, so it takes K times the memory of the samples.

    Args:
        components: All :math:`p_k` at once, with batch shape ``batch_shape + (K,)``.
        logits: :math:`\log w_k` up to a constant, with shape (*, K); the batch shapes broadcast. Minus infinity
            excludes a component.

    Attributes:
        density: What the components promise: a mixture of lower bounds is a lower bound.

    Raises:
        ValueError: If there are not as many logits as components.

    Example:
        >>> p = BatchMixture(dist.Normal(torch.tensor([-1.0, 1.0]), 1.0), torch.zeros(3, 2))
        >>> p.batch_shape, p.sample((5,)).shape
        (torch.Size([3]), torch.Size([5, 3]))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, components: dist.TorchDistribution, logits: Tensor, validate_args: bool | None = None) -> None:
        if logits.shape[-1:] != components.batch_shape[-1:] or not logits.dim():
            raise ValueError(
                f"logits: expected one per component, shape (*, {', '.join(map(str, components.batch_shape[-1:]))}), "
                f"got {tuple(logits.shape)}"
            )
        shape = broadcast_shapes(components.batch_shape, logits.shape)
        self.components = components if shape == components.batch_shape else components.expand(shape)
        self.logits = logits.log_softmax(-1).expand(shape)
        super().__init__(shape[:-1], components.event_shape, validate_args=validate_args)

    @property
    def density(self) -> Density:
        """What the components promise."""
        return density_of(self.components)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The support of the components."""
        return self.components.support

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "BatchMixture":
        """Returns the mixture with a larger batch shape."""
        shape = torch.Size([*batch_shape, self.logits.shape[-1]])
        validate = self.__dict__.get("_validate_args")
        return BatchMixture(self.components.expand(shape), self.logits.expand(shape), validate_args=validate)

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws from every component and keeps one of the draws for every datum."""
        with torch.no_grad():
            draws = self.components.sample(torch.Size(sample_shape))
            which = dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape))
            index = which[(..., None, *(None,) * self.event_dim)]
            at = draws.dim() - self.event_dim - 1
            index = index.expand(*draws.shape[:at], 1, *self.event_shape)
            return draws.gather(at, index).squeeze(at)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density, or the components' bound on it, with shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        return self.component_log_probs(value).logsumexp(-1)

    def component_log_probs(self, value: Tensor) -> Tensor:
        """Returns log w_k + log p_k(x), with shape ``sample_shape + batch_shape + (K,)``."""
        return self.components.log_prob(value.unsqueeze(-1 - self.event_dim)) + self.logits
