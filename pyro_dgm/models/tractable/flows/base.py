r"""What all normalizing flows share: a stack of transforms on a base, which is standard normal unless another is given.

.. math::
    z \sim N(0, I), \qquad x = (b_S \circ \mathrm{std} \circ T_n \circ \dots \circ T_1)(z; c)

The learned transforms :math:`T_i` are followed by the standardisation of the training data and the bijection onto
the support S, so that densities are in data units and samples obey the constraint.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import AffineTransform, constraints

from ....distributions import Flow, Proposal
from ....transforms import Compose, Standardize, Support, Transform, as_transform
from ....transforms.base import initialized_flags
from ....transforms.compose import one_way, pass_on
from ....transforms.support import elementwise, is_real
from ...base import TractableModel
from ...parametric import StandardNormal

Layers = Sequence[Transform]


class FlowModel(TractableModel):
    """A flow; subclasses say which layers.

    Args:
        event_shape: Shape of one datum, or a number of features.
        context: Width of the context, 0 for none.
        layers: Maps the number of unconstrained features D to the learned transforms, latent to data.
        support: Where the data live, or the transform from the reals that leads there, such as ``Logit(0.05)``.
        standardize: Whether data, which are vectors then, are standardised by the moments that ``initialize`` finds.
        base: The model of z, a vector of as many features, without a context or with the flow's;
            :class:`StandardNormal` when ``None``.
        invertible: Whether every layer must have an inverse, as it takes to score data.
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context: int,
        layers: Callable[[int], Layers],
        support: constraints.Constraint | Transform,
        standardize: bool,
        base: TractableModel | None = None,
        invertible: bool = True,
    ) -> None:
        end = support if isinstance(support, Transform) else None
        if end is None and not isinstance(support, type(constraints.real)):
            end = Support(support)
        super().__init__(event_shape, context, constraints.real if end is None else end.codomain)
        if self.event_shape.numel() < 1 or context < 0:
            raise ValueError(
                f"features, context: expected features >= 1 and context >= 0, got {event_shape}, {context}"
            )
        ends = [] if end is None else [end]
        latent = Compose(ends).inverse_shape(self.event_shape).numel()
        ends = [Standardize(latent), *ends] if standardize else ends
        learned = Compose(list(layers(latent)))
        image = elementwise(learned.codomain)
        if not is_real(image):
            raise ValueError(f"transforms: expected layers from reals to reals, got {image}; say support=... instead")
        self.transform = Compose([*learned.transforms, *ends])
        for t in learned.transforms:
            if not t.applicable:
                raise ValueError(f"transforms: the inverse of a layer cannot be sampled from, since {one_way(t)}")
            if invertible and not t.invertible:
                raise ValueError(f"transforms: {one_way(t)}, or say invertible=False if this flow is a guide")
        self.base = base or StandardNormal(latent)
        _check_base(self.base, latent, context)

    def _base(self, context: Tensor | None) -> TorchDistribution:
        return self.base._distribution(context if self.base.context else None)

    def _distribution(self, context: Tensor | None) -> Flow | Proposal:
        base = self._base(context)
        weights = self._random_weights()
        transform = _Realized(self.transform, partial(self._with_weights, weights)) if weights else self.transform
        flow = Flow(base, transform, context)
        return flow if transform.invertible else Proposal(flow)

    def tempered(self, temperature: float, context: Tensor | None = None) -> Flow | Proposal:
        r"""Returns the flow whose latent is scaled, :math:`z \sim N(0, T^2 I)` where the base is standard normal.

        Samples at T < 1 are more typical and less varied, which is how images of flows are usually shown. It is a
        distribution like any other, with the exact density of its own samples, though not the one that was fitted.

        Args:
            temperature: The scale T of the latent.
            context: The context, with shape ``batch_shape + (context,)``.

        Raises:
            ValueError: If the temperature is not positive.
        """
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: expected a positive number, got {temperature}")
        if not is_real(self.base.support):
            raise ValueError(f"temperature: expected a flow with a latent of reals to scale, got {self.base.support}")
        p = self(context)
        flow = p.flow if isinstance(p, Proposal) else p
        scaling = AffineTransform(0.0, float(temperature), event_dim=1)
        scaled = Flow(self._base(context), [scaling, flow.transforms[0]], None).expand(p.batch_shape)
        return Proposal(scaled) if isinstance(p, Proposal) else scaled

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the latent z of data x, with shape (*, D): distributed as the base if the flow fits."""
        self._check_context(context)
        return self.transform.inverse_value(x, context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the data x of a latent z; the inverse of :meth:`encode`."""
        self._check_context(context)
        return self.transform.forward_value(z, context)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the standardisation, the activation normalisations and what the base has to fit to training data."""
        self.transform.initialize(x, context)
        if not all(initialized_flags(self.base)):
            self.base.initialize(pass_on(self.transform, x, context, False), context if self.base.context else None)

    def with_support(self, constraint: constraints.Constraint) -> "FlowModel":
        """Returns this flow, parameters copied, over another support of as many unconstrained features.

        Args:
            constraint: Where the data live, e.g. ``constraints.positive``.

        Raises:
            ValueError: If the flow has a support of its own, or other unconstrained features in another number.
        """
        if "support" not in self.config:
            raise ValueError(f"constraint: {type(self).__name__} has one support, {self.support}, got {constraint}")
        latent = Compose([Support(constraint)]).inverse_shape(self.event_shape).numel()
        own = self.base.event_shape.numel()
        if latent != own:
            raise ValueError(
                f"constraint: {constraint} leaves {latent} unconstrained features of {self.event_shape.numel()}, this "
                f"flow has {own}; construct a new one with support=..."
            )
        new = type(self)(**copy.deepcopy({**self.config, "support": constraint}))
        new.to(next(t for t in itertools.chain(self.parameters(), self.buffers()) if t.is_floating_point()))
        new.load_state_dict(self.state_dict())
        for copied, parameter in zip(new.parameters(), self.parameters(), strict=True):
            copied.requires_grad_(parameter.requires_grad)
        return new.train(self.training)


def _check_base(base: TractableModel, latent: int, context: int) -> None:
    """Refuses what cannot be the latent of a flow.

    Raises:
        ValueError: If it is no exact density of as many reals, or has another context than the flow.
    """
    if not isinstance(base, TractableModel) or base.support.is_discrete or base.event_shape != (latent,):
        shape = f" of shape {tuple(base.event_shape)}" if isinstance(base, TractableModel) else ""
        raise ValueError(
            f"base: expected a model with an exact density of {latent} continuous numbers, got "
            f"{type(base).__name__}{shape}"
        )
    if base.context not in (0, context):
        raise ValueError(f"base: expected a model without context or with context={context}, got {base.context}")


class _Realized(Transform):
    """A transform whose random weights are those drawn when the model was called, whenever it is evaluated.

    A flow's networks run when it scores data, after the Pyro program has ended; by then the weights that the program
    sampled would be forgotten.
    """

    def __init__(self, transform: Transform, drawn: Callable[[], AbstractContextManager]) -> None:
        super().__init__()
        self.transform, self.drawn = transform, drawn
        self.domain, self.codomain = transform.domain, transform.codomain
        self.invertible = transform.invertible

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with self.drawn():
            return self.transform.forward_and_ladj(x, context)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with self.drawn():
            return self.transform.inverse_and_ladj(y, context)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.inverse_shape(shape)


class NormalizingFlow(FlowModel):
    r"""A flow of your own layers.

    Args:
        features: Number of features of the data.
        transforms: The layers, latent to data; those of Pyro and torch are welcome beside ours.
        context: Width of the context, 0 for none.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.
        base: The model of the latent, with as many features; :class:`StandardNormal` when ``None``. One that reads the
            flow's context, ``DiagonalNormal(features, context)``, makes the posteriors of variational autoencoders,
            :math:`z_0 \sim N(\mu(x), \operatorname{diag} \sigma^2(x))` and then the transforms.
        invertible: Whether every layer must have an inverse, as it takes to score data. ``False`` makes a guide, whose
            layers need none (Pyro's planar transform, say): it samples, and scores what it sampled.

    Raises:
        ValueError: If a layer has no inverse and ``invertible`` is true, or is the inverse of one that has none.

    Example:
        >>> from pyro_dgm.transforms import LULinear
        >>> NormalizingFlow(2, [LULinear(2)])().log_prob(torch.zeros(2)).shape
        torch.Size([])
    """

    def __init__(
        self,
        features: int,
        transforms: Sequence[nn.Module],
        context: int = 0,
        *,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
        base: TractableModel | None = None,
        invertible: bool = True,
    ) -> None:
        def layers(_: int) -> Layers:
            return [as_transform(t) for t in transforms]

        super().__init__(features, context, layers, support, standardize, base, invertible)
