r"""Networks that are no order's: the parameters of every unknown number, given any set of known ones.

.. math::
    \theta_i = f_i(x \odot m, m), \qquad i \text{ with } m_i = 0

with a mask m of the known numbers. In any order this is an autoregressive conditioner (:class:`Ordered`): one network
is thus one for all D! orders. A masked MLP too can be given another order and other degrees than its own
(:class:`Remasked`). (Uria, Murray and Larochelle, A Deep and Tractable Density Estimator, 2014, arXiv:1310.1757;
Uria, Cote, Gregor, Murray and Larochelle, Neural Autoregressive Distribution Estimation, 2016, arXiv:1605.02226.)
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from .._shapes import broadcast_shapes
from .convolution import ConvNet
from .masked import Degrees, MaskedMLP, MaskedWalk
from .nade import NADEWalk, activation_name, nade
from .precision import leave_autocast
from .walk import Conditioner, NaiveWalk, Walk, inverse

_CHUNK = 4096  # masked data that a network sees at a time


class Orderless(nn.Module):
    """A network that sees known numbers and which they are; subclasses define ``forward(x, mask, context)``.

    ``x``, zero where unknown, has shape (*, D s) or (*, C s, H, W), the mask, 1 where known, (*, D) or (*, C, H, W).

    Args:
        event_shape: Shape of an event.
        in_per_feature: Numbers s by which the network sees a number.
    """

    def __init__(self, event_shape: Sequence[int], in_per_feature: int = 1) -> None:
        super().__init__()
        self.event_shape, self.in_per_feature = torch.Size(event_shape), in_per_feature

    def hide(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns what is seen, zero where unknown."""
        return x * mask.repeat_interleave(self.in_per_feature, -len(self.event_shape))


class OrderlessMLP(Orderless):
    """An MLP on known numbers and their mask; with one hidden layer, NADE in every order.

    Args:
        features: Number of inputs D.
        out_per_feature: Numbers given per input.
        hidden_features: Hidden widths.
        context: Width of the context, 0 for none.
        activation: Class of the activation: ``Sigmoid``, ``Tanh`` or ``ReLU``.
        in_per_feature: Numbers that stand for an input.

    Example:
        >>> f = OrderlessMLP(3, 1, (8,))
        >>> f(torch.zeros(5, 3), torch.tensor([1.0, 0.0, 0.0])).shape
        torch.Size([5, 3, 1])
    """

    def __init__(
        self,
        features: int,
        out_per_feature: int,
        hidden_features: Sequence[int] = (64,),
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        *,
        in_per_feature: int = 1,
    ) -> None:
        super().__init__((features,), in_per_feature)
        if not hidden_features:
            raise ValueError("hidden_features: expected at least one hidden layer, got none")
        activation_name(activation)
        first, last = hidden_features[0], hidden_features[-1]
        bound = (features * in_per_feature) ** -0.5
        self.w = nn.Parameter(torch.empty(features, in_per_feature + 1, first).uniform_(-bound, bound))
        self.c = nn.Parameter(torch.zeros(first))
        self.deeper = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(hidden_features))
        self.v = nn.Parameter(torch.zeros(features, out_per_feature, last))
        self.b = nn.Parameter(torch.zeros(features, out_per_feature))
        self.context = nn.Linear(context, first, bias=False) if context else None
        self.activation = activation()

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x``, its mask and ``context`` to (*, D, out_per_feature)."""
        a = self.first(context) + self.hide(x, mask) @ self.w[:, :-1].flatten(0, 1) + mask @ self.w[:, -1]
        h = self.activation(a)
        for layer in self.deeper:
            h = self.activation(layer(h))
        out = h @ self.v.flatten(0, 1).mT
        return out.unflatten(-1, self.b.shape) + self.b

    def first(self, context: Tensor | None) -> Tensor:
        """Returns the first layer where nothing is known."""
        return self.c if self.context is None else self.c + self.context(context)


class OrderlessConvNet(Orderless):
    """A convolutional network on known pixels and their mask.

    Args:
        event_shape: Shape of an image, (C, H, W).
        out_per_feature: Numbers given per number of the image.
        hidden_channels: Channels of the hidden layers.
        blocks: Number of residual blocks.
        context: Width of the context, 0 for none.
        activation: Class of the activation.
        in_per_feature: Numbers that stand for a number.

    Example:
        >>> f = OrderlessConvNet((1, 4, 4), 1, 8, 1)
        >>> f(torch.zeros(5, 1, 4, 4), torch.zeros(1, 4, 4)).shape
        torch.Size([5, 1, 4, 4, 1])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_per_feature: int,
        hidden_channels: int = 32,
        blocks: int = 2,
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        *,
        in_per_feature: int = 1,
    ) -> None:
        super().__init__(event_shape, in_per_feature)
        channels = self.event_shape[0]
        self.network = ConvNet(
            channels * (in_per_feature + 1), channels * out_per_feature, hidden_channels, blocks, context, activation
        )
        self.out_per_feature = out_per_feature

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x``, its mask and ``context`` to (*, C, H, W, out_per_feature)."""
        seen = self.hide(x, mask)
        out = self.network(torch.cat([seen, mask.expand(*seen.shape[:-3], *mask.shape[-3:])], -3), context)
        return out.unflatten(-3, (-1, self.out_per_feature)).movedim(-3, -1)


class Ordered(Conditioner):
    """An orderless network in one order.

    Args:
        network: The network.
        order: Place of every number in the order.
    """

    def __init__(self, network: Orderless, order: Sequence[int]) -> None:
        super().__init__(network.event_shape, network.in_per_feature, order)
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps data to the parameters of every number given those before it: one recursion, or D masks of the data."""
        network = self.network
        if isinstance(network, OrderlessMLP) and not network.deeper:
            seen = x.unflatten(-1, (-1, self.in_per_feature))
            seen = torch.cat([seen, torch.ones_like(seen[..., :1])], -1).flatten(-2)
            name = type(network.activation).__name__
            first = leave_autocast(network.first(context))
            return nade(seen, first, network.w, network.v, name, self.sequence) + network.b
        return self._by_masks(x, context)

    def _by_masks(self, x: Tensor, context: Tensor | None) -> Tensor:
        size, event_dim = self.event_shape.numel(), len(self.event_shape)
        batch_shape = broadcast_shapes(x.shape[:-event_dim], () if context is None else context.shape[:-1])
        x = x.expand(*batch_shape, *x.shape[-event_dim:])
        place = torch.tensor(self.order, device=x.device)
        steps = max(1, _CHUNK // max(1, batch_shape.numel()))
        out = []
        for numbers in torch.arange(size, device=x.device).split(steps):
            known = (place < place[numbers, None]).to(x.dtype)
            known = known.reshape(len(numbers), *(1,) * len(batch_shape), *self.event_shape)
            theta = self.network(x, known, context).flatten(-event_dim - 1, -2)
            index = numbers.reshape(-1, *(1,) * (len(batch_shape) + 2))
            out.append(theta.gather(-2, index.expand(-1, *batch_shape, 1, theta.shape[-1]))[..., 0, :])
        return torch.cat(out).movedim(0, -2).unflatten(-2, self.event_shape)

    def walk(self, context: Tensor | None, size: int) -> Walk:
        """Returns the walk through the numbers: the first layer of an MLP grows, a convolution is run anew."""
        network = self.network
        if not isinstance(network, OrderlessMLP):
            return _MaskWalk(self, context, size)
        a = leave_autocast(network.first(context)).expand(size, -1)
        return _OneMore(a, network.w, network.v, network.b, network.activation, self.sequence, network.deeper)


class _OneMore(NADEWalk):
    """The walk of an orderless MLP: an input is seen with the one that says that it is known."""

    def see(self, x: Tensor) -> None:
        super().see(torch.cat([x, torch.ones_like(x[:1])]))


class _MaskWalk(NaiveWalk):
    """The walk of a network that is run anew, with the mask of what is known."""

    def _run(self, x: Tensor) -> Tensor:
        known = x.new_zeros(self.conditioner.event_shape.numel())
        known[self.conditioner.sequence[: self.step]] = 1
        return self.conditioner.network(x, known.reshape(self.conditioner.event_shape), self.context)


class Remasked(Conditioner):
    """A masked MLP with another order, and other degrees of its hidden units, than its own.

    Args:
        network: The network.
        degrees: The degrees; those of the inputs, 1..D, are the order.
    """

    def __init__(self, network: MaskedMLP, degrees: Degrees) -> None:
        nn.Module.__init__(self)
        self.event_shape, self.in_per_feature = network.event_shape, network.in_per_feature
        self.network, self.degrees = network, degrees

    @cached_property
    def order(self) -> list[int]:
        """Place of every input; read when a walk asks for it, since that waits for the device."""
        return (self.degrees.inputs - 1).tolist()

    @cached_property
    def sequence(self) -> list[int]:
        """The inputs in their order."""
        return inverse(self.order)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps data to the parameters of every number given those before it."""
        network = self.network
        masks = self.degrees.masks(network.in_per_feature, network.out_per_feature)
        return network(x, context, [mask.to(x.dtype) for mask in masks])

    def walk(self, context: Tensor | None, size: int) -> MaskedWalk:
        """Returns the walk through the inputs, units sorted by their degrees first."""
        units = [layer.argsort(stable=True) for layer in self.degrees.hidden]
        degrees = [layer[order].tolist() for layer, order in zip(self.degrees.hidden, units, strict=True)]
        ends = [[bisect_right(layer, d) for d in range(self.network.features)] for layer in degrees]
        return MaskedWalk(self.network, self.sequence, ends, context, size, units)
