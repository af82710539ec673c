r"""Mixtures of models: clusters that are found together, or an ensemble of models fitted one by one.

.. math::
    p(x | c) = \sum_{k=1}^K w_k\, p_k(x | c)

Fitted together, the components share out the data among them, each a cluster. Fitted one by one, from other seeds or on
resampled data, they are an ensemble, whose density on held-out data is never below the mean of its members',
:math:`\log \sum_k w_k p_k \ge \sum_k w_k \log p_k`, and where data are few usually well above it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..distributions import Mixture as MixtureDistribution
from ..transforms.base import initialized_flags
from .base import TractableModel


class Mixture(TractableModel):
    """A mixture of models with exact densities, whose weights are learned.

    Components that start alike, as free :class:`~pyro_dgm.models.DiagonalNormal` do, stay alike when they are fitted
    together; a mixture of those is :class:`~pyro_dgm.models.GaussianMixture`, which is also much the faster.

    Args:
        components: The models, at least two, of one event shape, context and support; trained already, or not.

    Raises:
        ValueError: If a component has no exact density, or they do not fit together.

    Example:
        >>> from pyro_dgm.models import DiagonalNormal
        >>> p = Mixture([DiagonalNormal(2), DiagonalNormal(2)])()
        >>> p.component_log_probs(torch.zeros(5, 2)).softmax(-1).shape
        torch.Size([5, 2])
    """

    def __init__(self, components: Sequence[TractableModel]) -> None:
        if len(components) < 2:
            raise ValueError(f"components: expected at least two models, got {len(components)}")
        first, *others = components
        for k, model in enumerate(components):
            if not isinstance(model, TractableModel):
                raise ValueError(
                    f"components: expected models with exact densities, got {type(model).__name__} at place {k}"
                )
        for model in others:
            if (model.event_shape, model.context) != (first.event_shape, first.context) or str(model.support) != str(
                first.support
            ):
                raise ValueError(
                    "components: expected models of one event shape, context and support, got "
                    f"{tuple(first.event_shape)}, {first.context}, {first.support} and "
                    f"{tuple(model.event_shape)}, {model.context}, {model.support}"
                )
        super().__init__(first.event_shape, first.context, first.support)
        self.components = nn.ModuleList(components)
        self.logits = nn.Parameter(torch.zeros(len(components)))

    def _distribution(self, context: Tensor | None) -> MixtureDistribution:
        return MixtureDistribution([model._distribution(context) for model in self.components], self.logits)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialises the components that have not been yet."""
        for model in self.components:
            if not all(initialized_flags(model)):
                model.initialize(x, context)
