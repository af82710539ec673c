r"""Mixtures of distributions that need not be of one family.

.. math::
    p(x) = \sum_{k=1}^K w_k\, p_k(x), \qquad \log p(x) = \operatorname{logsumexp}_k \bigl(\log w_k + \log p_k(x)\bigr)

Torch's ``MixtureSameFamily`` holds its components as one batch; here each is a distribution by itself, a flow with
weights of its own for instance.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .promise import Density


class Mixture(dist.TorchDistribution):
    r"""A finite mixture.

    Args:
        components: The distributions :math:`p_k`, of one event shape and support; batch shapes broadcast.
        logits: :math:`\log w_k` up to a constant, with shape (K,).

    Attributes:
        density: ``"exact"``.

    Raises:
        ValueError: If the event shapes differ, or there are not as many logits as components.

    Example:
        >>> p = Mixture([dist.Normal(-1.0, 1.0), dist.Laplace(torch.zeros(3), 1.0)], torch.zeros(2))
        >>> p.batch_shape, p.sample((5,)).shape
        (torch.Size([3]), torch.Size([5, 3]))
    """

    density: Density = "exact"
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
        batch_shape = torch.broadcast_shapes(*(p.batch_shape for p in components))
        self.components = [p.expand(batch_shape) for p in components]
        self.logits = logits
        super().__init__(batch_shape, shapes.pop(), validate_args=validate_args)

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
