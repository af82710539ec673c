r"""Stacks of transforms, and the transforms of Pyro and torch within them.

.. math::
    T = T_n \circ \dots \circ T_1, \qquad
    \log|\det J_T(x)| = \sum_i \log|\det J_{T_i}(x_{i-1})|, \quad x_0 = x,\; x_i = T_i(x_{i-1})

A transform of Pyro's becomes one of ours (:class:`Foreign`) when it enters a stack: its identity caches, which give
stale densities after an optimizer step and break ``copy.deepcopy``, are emptied around every pass, its inverse owns its
parameters, and tensors that it holds outside of modules (a random permutation, say) become buffers.
"""

from functools import reduce
from itertools import accumulate
from typing import Any

import torch
from pyro.distributions import transforms as pyro_transforms
from pyro.distributions.conditional import ConditionalTransform, _ConditionalInverseTransformModule
from torch import Tensor, nn
from torch.distributions import ComposeTransform, constraints
from torch.distributions import Transform as TorchTransform
from torch.distributions.transforms import _InverseTransform

from .._shapes import broadcast_shapes
from ..nn import leave_autocast, without_autocast
from .base import Inverse, Pass, Transform, initialized_flags, sum_ladj

_ONE_WAY = (
    pyro_transforms.Planar,
    pyro_transforms.ConditionalPlanar,
    pyro_transforms.Radial,
    pyro_transforms.ConditionalRadial,
    pyro_transforms.Sylvester,
    pyro_transforms.NeuralAutoregressive,
    pyro_transforms.ConditionalNeuralAutoregressive,
    pyro_transforms.BlockAutoregressive,
    pyro_transforms.Polynomial,
)


class Foreign(Transform):
    """A transform of Pyro's or torch's, conditional or not, under this contract; made by :func:`as_transform`.

    Its identity caches are emptied around every pass, so it gives no stale density after an optimizer
    step, can be scored twice on one tensor and can be copied; its context broadcasts like ours. Under autocast it keeps
    full precision altogether, since where its networks end is known to itself alone. Pyro's planar, radial, Sylvester,
    polynomial, neural and block autoregressive transforms have no inverse.
    """

    def __init__(self, transform: TorchTransform | ConditionalTransform) -> None:
        super().__init__()
        self.transform = transform
        self.domain = getattr(transform, "domain", constraints.real_vector)
        self.codomain = getattr(transform, "codomain", constraints.real_vector)
        inverse = getattr(type(transform), "_inverse", None)
        self.invertible = not isinstance(transform, _ONE_WAY) and inverse is not TorchTransform._inverse
        self._tensors: list[tuple[Any, str, str]] = []
        for k, holder in enumerate(_plain_parts(transform)):
            for name, value in list(vars(holder).items()):
                own = f"of_{k}_{name}" if k else f"of_{name}"
                if isinstance(value, nn.Module):
                    self.add_module(own, value)
                elif isinstance(value, Tensor):
                    self.register_buffer(own, value)
                    self._tensors.append((holder, name, own))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Calls the transform, then asks for its log-determinant."""
        x, context = leave_autocast(x), context if context is None else leave_autocast(context)
        with without_autocast(x):
            x, t = self._bind(x, context)
            y = t(x)
            return y, _forget(t.log_abs_det_jacobian(x, y), t, self.transform)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Calls the inverse, then asks for its log-determinant."""
        y, context = leave_autocast(y), context if context is None else leave_autocast(context)
        with without_autocast(y):
            y, t = self._bind(y, context)
            try:
                x = t.inv(y)
            except (KeyError, NotImplementedError) as error:
                raise NotImplementedError(one_way(self)) from error
            return x, -_forget(t.log_abs_det_jacobian(x, y), t, self.transform)

    def _bind(self, value: Tensor, context: Tensor | None) -> tuple[Tensor, TorchTransform]:
        for holder, name, own in self._tensors:  # saved and moved as buffers, used by the transform as its own
            setattr(holder, name, getattr(self, own))
        if not isinstance(self.transform, ConditionalTransform):
            return value, _forget(self.transform, self.transform)
        if context is None:
            return value, self.transform.condition(None)
        batch_shape = broadcast_shapes(value.shape[:-1], context.shape[:-1])
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


def _plain_parts(transform: Any) -> list[Any]:
    """Returns the transform, if it is no module, and those like it that it is made of."""
    if isinstance(transform, nn.Module) or transform is None:
        return []
    inner = [getattr(transform, "base_transform", None), *getattr(transform, "parts", ())]
    inner += getattr(transform, "transforms", ())
    return [transform, *(part for each in inner for part in _plain_parts(each))]


def one_way(transform: Transform) -> str:
    """Says of a transform without an inverse what it cannot do, and what can."""
    name = type(_culprit(transform)).__name__
    return (
        f"{name} has no inverse, so it scores only what it sampled itself, as a guide does, and no data: take the "
        "transforms of pyro_dgm (Planar, Radial, Sylvester, BlockAutoregressive, MaskedAutoregressive), which have one"
    )


def _culprit(transform: Any) -> Any:
    """Returns the innermost part of a transform to which the lack of an inverse is due."""
    if isinstance(transform, Compose):
        return _culprit(next((t for t in transform.transforms if not (t.invertible and t.applicable)), None))
    return _culprit(transform.transform) if isinstance(transform, Foreign | Inverse) else transform


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
        return as_transform(transform.inv).inv
    if isinstance(transform, ComposeTransform):
        return Compose(list(transform.parts))
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
        self.domain, self.codomain = parts.domain, parts.codomain
        self.invertible = all(t.invertible for t in self.transforms)
        self.applicable = all(t.applicable for t in self.transforms)
        changes = (t.codomain.event_dim - t.domain.event_dim for t in self.transforms)
        self._event_dims = list(accumulate(changes, initial=self.domain.event_dim))[:-1]  # of the inputs

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Applies the parts, first to last."""
        ladjs = []
        for t, event_dim in zip(self.transforms, self._event_dims, strict=True):
            y, ladj = t.forward_and_ladj(x, context)
            ladjs.append(sum_ladj(t, x, ladj, event_dim))
            x = y
        return x, reduce(torch.add, ladjs) if ladjs else x.new_zeros(())

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Inverts the parts, last to first."""
        ladjs = []
        for t, event_dim in reversed(list(zip(self.transforms, self._event_dims, strict=True))):
            y, ladj = t.inverse_and_ladj(y, context)
            ladjs.append(sum_ladj(t, y, ladj, event_dim))
        return y, reduce(torch.add, ladjs) if ladjs else y.new_zeros(())

    def forward_value(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Applies the parts, first to last."""
        return reduce(lambda x, t: t.forward_value(x, context), self.transforms, x)

    def inverse_value(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Inverts the parts, last to first."""
        return reduce(lambda y, t: t.inverse_value(y, context), [*self.transforms][::-1], y)

    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Fits every part to the data as the parts between it and the data leave them.

        Data are passed on in chunks, and no further than the last part that has something to fit.
        """
        parts = list(self.transforms if at_input else reversed(self.transforms))
        fitted = [bool(initialized_flags(t)) for t in parts]
        for k, t in enumerate(parts):
            if not any(fitted[k:]):
                return
            t.initialize(values, context, at_input=at_input)
            if any(fitted[k + 1 :]):
                values = pass_on(t, values, context, at_input)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x."""
        return reduce(lambda shape, t: t.forward_shape(shape), self.transforms, shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        return reduce(lambda shape, t: t.inverse_shape(shape), [*self.transforms][::-1], shape)


@torch.no_grad()
def pass_on(t: Transform, values: Tensor, context: Tensor | None, at_input: bool) -> Tensor:
    """Returns the data on the other side of a transform, computed in chunks.

    Args:
        t: The transform.
        values: Data, with shape (n, *event_shape).
        context: Their contexts, with shape (n, context).
        at_input: Whether the data stand at its input.
    """
    step = t.forward_and_ladj if at_input else t.inverse_and_ladj
    chunks = values.split(4096)
    contexts = [None] * len(chunks) if context is None else context.split(4096)
    return torch.cat([step(v, c)[0] for v, c in zip(chunks, contexts, strict=True)])
