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

import torch
from pyro.distributions import TransformModule
from pyro.distributions.util import sum_rightmost
from torch import Tensor, nn
from torch.distributions import Transform as TorchTransform
from torch.distributions import constraints

from .._config import Configured
from .._shapes import broadcast_shapes

Pass = tuple[Tensor, Tensor]


class Transform(Configured, TransformModule):
    r"""A learnable bijection :math:`y = T(x; c)`; also a ``torch.distributions`` transform when it has no context.

    Shapes: :math:`x` and :math:`y` are ``sample_shape + batch_shape + event_shape``, :math:`c` is ``(*, context)``
    and its batch dimensions broadcast against those of :math:`x`. A log-determinant has the broadcast
    ``sample_shape + batch_shape`` or, where it is the same for all, shape ``()``.

    Attributes:
        invertible: Whether ``inverse_and_ladj`` is implemented. Without it a flow scores only what it sampled.
        applicable: Whether ``forward_and_ladj`` is implemented, which the inverse of one without an inverse lacks.
    """

    bijective = True
    invertible: bool = True
    applicable: bool = True
    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.real_vector

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Returns y = T(x; c) and log|det dy/dx|."""
        raise NotImplementedError(f"{type(self).__name__} lacks forward_and_ladj")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Returns x with T(x; c) = y, and log|det dx/dy|."""
        raise NotImplementedError(f"{type(self).__name__} lacks inverse_and_ladj")

    def forward_value(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns y alone, at less cost where the log-determinant is work of its own."""
        return self.forward_and_ladj(x, context)[0]

    def inverse_value(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns x alone, at less cost where the log-determinant is work of its own."""
        return self.inverse_and_ladj(y, context)[0]

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
        return self.forward_value(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_value(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns log|det dy/dx| with the batch shape of ``x``, in a pass of its own."""
        return _expand_ladj(self, x, self.forward_and_ladj(x)[1])


def _expand_ladj(transform: TorchTransform, x: Tensor, ladj: Tensor) -> Tensor:
    """Gives a log-determinant that may be the same for all data the batch shape of the transform's input."""
    batch_shape = x.shape[: x.dim() - transform.domain.event_dim]
    return ladj.expand(broadcast_shapes(batch_shape, ladj.shape))


def sum_ladj(transform: TorchTransform, x: Tensor, ladj: Tensor, event_dim: int) -> Tensor:
    """Sums the log-determinant of a transform over the dimensions by which an event exceeds the transform's own.

    Args:
        transform: The transform.
        x: Its input.
        ladj: Its log-determinant at x.
        event_dim: Number of dimensions of an event of x.
    """
    extra = event_dim - transform.domain.event_dim
    return sum_rightmost(_expand_ladj(transform, x, ladj), extra) if extra > 0 else ladj


def initialized_flags(module: nn.Module) -> list[Tensor]:
    """Returns the buffers that say of the parts that depend on data whether they have been fitted."""
    return [flag for name, flag in module.named_buffers() if name.endswith("initialized")]


def check_width(name: str, x: Tensor, features: int) -> None:
    """Refuses vectors of another width.

    Raises:
        ValueError: With what was expected and what came.
    """
    if x.shape[-1:] != (features,):
        raise ValueError(f"{name}: expected vectors of {features} features, got shape {tuple(x.shape)}")


class Conditioned(TorchTransform):
    """A transform with its context bound: what ``transform.condition(context)`` returns."""

    bijective = True

    def __init__(self, transform: Transform, context: Tensor) -> None:
        super().__init__()
        self.transform = transform
        self.context = context
        self.domain, self.codomain = transform.domain, transform.codomain
        self.invertible = transform.invertible

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
        return self.transform.forward_value(x, self.context)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.transform.inverse_value(y, self.context)

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
        self.domain, self.codomain = transform.codomain, transform.domain
        self.invertible, self.applicable = transform.applicable, transform.invertible

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

    def forward_value(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Inverts the inner transform."""
        return self.transform.inverse_value(x, context)

    def inverse_value(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Applies the inner transform."""
        return self.transform.forward_value(y, context)

    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Fits the inner transform, whose input is this one's output."""
        self.transform.initialize(values, context, at_input=not at_input)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x."""
        return self.transform.inverse_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        return self.transform.forward_shape(shape)
