r"""The contract of a bijection: value and log-determinant in one pass.

A transform maps latent :math:`x` to data :math:`y = T(x; c)`, given a context :math:`c`. It offers

.. math::
    (y, \ell) = \bigl(T(x), \log|\det \partial y / \partial x|\bigr), \qquad
    (x, \ell) = \bigl(T^{-1}(y), \log|\det \partial x / \partial y|\bigr)

as ``forward_and_ladj`` and ``inverse_and_ladj``, each from a single evaluation of its networks. Nothing is
remembered between calls: there is no cache that an optimizer step could make stale, and
``copy.deepcopy``, ``pickle`` and ``state_dict`` see all there is.

To write one, inherit from :class:`Transform`, build the networks in ``__init__``, and implement those two
methods, and ``initialize`` if something is to be fitted to data before training. A
:math:`\ell` that is the same for every datum may be returned with shape ``()``. (The class is no ``ABC``: Pyro's
``to_pyro_module_`` mixes its own metaclass in.)
"""

from typing import Any

import torch
from pyro.distributions import TransformModule
from pyro.distributions.conditional import ConditionalTransform, _ConditionalInverseTransformModule
from pyro.distributions.util import sum_rightmost
from torch import Tensor, nn
from torch.distributions import ComposeTransform, constraints
from torch.distributions import Transform as TorchTransform
from torch.distributions.transforms import _InverseTransform

from .._config import Configured

Pass = tuple[Tensor, Tensor]


class Transform(Configured, TransformModule):
    r"""A learnable bijection :math:`y = T(x; c)`; also a ``torch.distributions`` transform when it has no context.

    Shapes: :math:`x` and :math:`y` are ``sample_shape + batch_shape + event_shape``, :math:`c` is ``(*, context)``
    and its batch dimensions broadcast against those of :math:`x`. A log-determinant has the broadcast
    ``sample_shape + batch_shape`` or, where it is the same for all, shape ``()``.
    """

    bijective = True
    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.real_vector

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Returns y = T(x; c) and log|det dy/dx|."""
        raise NotImplementedError(f"{type(self).__name__} lacks forward_and_ladj")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Returns x with T(x; c) = y, and log|det dx/dy|."""
        raise NotImplementedError(f"{type(self).__name__} lacks inverse_and_ladj")

    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Fits what depends on data, once, before training; most transforms have nothing to fit.

        Args:
            values: Data where they meet this transform, with shape (n, *event_shape).
            context: Their contexts, with shape (n, context).
            at_input: Whether the data stand at the transform's input instead of at its output.
        """

    def condition(self, context: Tensor | None) -> TorchTransform:
        """Binds a context; the result is a ``torch.distributions`` transform of one argument."""
        return self if context is None else Conditioned(self, context)

    @property
    def inv(self) -> "Transform":
        """The inverse, a module that owns the same parameters."""
        return Inverse(self)

    def with_cache(self, cache_size: int = 1) -> "Transform":
        """Returns the transform itself: there is nothing to cache."""
        return self

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns log|det dy/dx| with the batch shape of ``x``, in a pass of its own."""
        return _expand_ladj(self, x, self.forward_and_ladj(x)[1])


def _expand_ladj(transform: TorchTransform, x: Tensor, ladj: Tensor) -> Tensor:
    batch_shape = x.shape[: x.dim() - transform.domain.event_dim]
    return ladj.expand(torch.broadcast_shapes(batch_shape, ladj.shape))


class Conditioned(TorchTransform):
    """A transform with its context bound: what ``transform.condition(context)`` returns."""

    bijective = True

    def __init__(self, transform: Transform, context: Tensor) -> None:
        super().__init__()
        self.transform = transform
        self.context = context

    @property
    def domain(self) -> constraints.Constraint:
        """The domain of the transform."""
        return self.transform.domain

    @property
    def codomain(self) -> constraints.Constraint:
        """The codomain of the transform."""
        return self.transform.codomain

    def forward_and_ladj(self, x: Tensor) -> Pass:
        """Returns y and log|det dy/dx| under the bound context."""
        return self.transform.forward_and_ladj(x, self.context)

    def inverse_and_ladj(self, y: Tensor) -> Pass:
        """Returns x and log|det dx/dy| under the bound context."""
        return self.transform.inverse_and_ladj(y, self.context)

    def with_cache(self, cache_size: int = 1) -> "Conditioned":
        """Returns itself: there is nothing to cache."""
        return self

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns log|det dy/dx| under the bound context."""
        return _expand_ladj(self, x, self.forward_and_ladj(x)[1])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x."""
        return self.transform.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        return self.transform.inverse_shape(shape)


class Inverse(Transform):
    r""":math:`T^{-1}` as a transform that registers the parameters of :math:`T`; made by ``transform.inv``."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    @property
    def domain(self) -> constraints.Constraint:
        """The codomain of the inverted transform."""
        return self.transform.codomain

    @property
    def codomain(self) -> constraints.Constraint:
        """The domain of the inverted transform."""
        return self.transform.domain

    @property
    def inv(self) -> Transform:
        """The transform this one inverts."""
        return self.transform

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Inverts the inner transform."""
        return self.transform.inverse_and_ladj(x, context)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Applies the inner transform."""
        return self.transform.forward_and_ladj(y, context)

    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Fits the inner transform, whose input is this one's output."""
        self.transform.initialize(values, context, at_input=not at_input)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x."""
        return self.transform.inverse_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        return self.transform.forward_shape(shape)


class Foreign(Transform):
    """A transform of Pyro's or torch's, conditional or not, under this contract; made by :func:`as_transform`.

    Its identity caches are emptied around every pass, so it gives no stale density after an optimizer
    step, can be scored twice on one tensor and can be copied; its context broadcasts like ours.
    """

    def __init__(self, transform: TorchTransform | ConditionalTransform) -> None:
        super().__init__()
        self.transform = transform

    @property
    def domain(self) -> constraints.Constraint:
        """The domain of the foreign transform."""
        return getattr(self.transform, "domain", constraints.real_vector)

    @property
    def codomain(self) -> constraints.Constraint:
        """The codomain of the foreign transform."""
        return getattr(self.transform, "codomain", constraints.real_vector)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Calls the transform, then asks for its log-determinant."""
        x, t = self._bind(x, context)
        y = t(x)
        return y, _forget(t.log_abs_det_jacobian(x, y), t, self.transform)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Calls the inverse, then asks for its log-determinant."""
        y, t = self._bind(y, context)
        x = t.inv(y)
        return x, -_forget(t.log_abs_det_jacobian(x, y), t, self.transform)

    def _bind(self, value: Tensor, context: Tensor | None) -> tuple[Tensor, TorchTransform]:
        if not isinstance(self.transform, ConditionalTransform):
            return value, _forget(self.transform, self.transform)
        if context is None:
            return value, self.transform.condition(None)
        batch_shape = torch.broadcast_shapes(value.shape[:-1], context.shape[:-1])
        value = value.expand(batch_shape + value.shape[-1:])
        return value, self.transform.condition(context.expand(batch_shape + context.shape[-1:]))

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x."""
        t = self.transform
        return t.forward_shape(shape) if isinstance(t, TorchTransform) else shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        t = self.transform
        return t.inverse_shape(shape) if isinstance(t, TorchTransform) else shape


def _forget(result: Any, *transforms: Any) -> Any:
    """Empties every cache that Pyro's and torch's transforms keep, and passes ``result`` through."""
    for transform in transforms:
        parts = [transform, *getattr(transform, "parts", ())]
        parts += transform.modules() if isinstance(transform, nn.Module) else ()
        for part in parts:
            for name in vars(part):
                if name == "_cached_x_y":
                    part._cached_x_y = None, None
                elif name == "_inv" or (name.startswith("_cache") and name != "_cache_size"):
                    setattr(part, name, None)
    return result


def as_transform(transform: TorchTransform | ConditionalTransform) -> Transform:
    """Returns ours as they are and others as :class:`Foreign`, their inverses as modules that own their parameters.

    Raises:
        ValueError: If the argument is no transform at all.
    """
    if isinstance(transform, Transform):
        return transform
    if isinstance(transform, _InverseTransform | _ConditionalInverseTransformModule):
        return Foreign(transform.inv).inv
    if isinstance(transform, TorchTransform | ConditionalTransform):
        return Foreign(transform)
    raise ValueError(
        f"transform: expected a pyro_dgm, Pyro or torch transform, conditional or not, got {type(transform).__name__}"
    )


class Compose(Transform):
    r"""The composition :math:`T = T_n \circ \dots \circ T_1`, log-determinants added as the values pass.

    Args:
        transforms: The parts in the order latent to data; Pyro's and torch's transforms are welcome.

    Example:
        >>> from pyro_dgm.transforms import LULinear, Permutation
        >>> t = Compose([LULinear(3), Permutation([2, 0, 1])])
        >>> y, ladj = t.forward_and_ladj(torch.zeros(5, 3))
    """

    def __init__(self, transforms: list[TorchTransform | ConditionalTransform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(as_transform(t) for t in transforms)
        parts = ComposeTransform(list(self.transforms))
        self._domain, self._codomain = parts.domain, parts.codomain

    @property
    def domain(self) -> constraints.Constraint:
        """The domain of the first part."""
        return self._domain

    @property
    def codomain(self) -> constraints.Constraint:
        """The codomain of the last part."""
        return self._codomain

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Applies the parts, first to last."""
        total, event_dim = x.new_zeros(()), self.domain.event_dim
        for t in self.transforms:
            x, ladj = t.forward_and_ladj(x, context)
            total = total + sum_rightmost(ladj, event_dim - t.domain.event_dim)
            event_dim += t.codomain.event_dim - t.domain.event_dim
        return x, total

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Inverts the parts, last to first."""
        total, event_dim = y.new_zeros(()), self.codomain.event_dim
        for t in reversed(self.transforms):
            y, ladj = t.inverse_and_ladj(y, context)
            total = total + sum_rightmost(ladj, event_dim - t.codomain.event_dim)
            event_dim += t.domain.event_dim - t.codomain.event_dim
        return y, total

    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Fits every part to the data as the parts between it and the data leave them."""
        for t in self.transforms if at_input else reversed(self.transforms):
            t.initialize(values, context, at_input=at_input)
            step = t.forward_and_ladj if at_input else t.inverse_and_ladj
            values = step(values, context)[0]

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x."""
        for t in self.transforms:
            shape = t.forward_shape(shape)
        return shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        for t in reversed(self.transforms):
            shape = t.inverse_shape(shape)
        return shape
