r"""Conditioners, which give the parameters of :math:`p(x_i | x_{<i}, c)`, and the walk through one, number by number.

.. math::
    \theta_i = f_i(x_{<i}, c), \qquad i = 1 \dots D

in an order of the D numbers of an event. A conditioner gives all :math:`\theta_i` of known data in one pass. Where the
numbers become known one after another, in sampling, it gives a *walk*:

    walk = conditioner.walk(context, n)
    for i in conditioner.sequence:
        theta = walk.output()  # (n, out_per_feature): from what has been seen
        ...  # x_i, of n data
        walk.see(x_i)

What a walk has computed it keeps; a conditioner that says nothing of its own is run anew for every number
(:class:`NaiveWalk`), which is the definition that every other walk must agree with.

Networks may see a number through several that stand for it (its classes, its harmonics); these are folded into the
first dimension of the event: an event of shape (D,) or (C, H, W) enters as (D s,) or (C s, H, W).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Walk:
    """The outputs of a conditioner for n data, one number after another becoming known; see the module."""

    def output(self) -> Tensor:
        """Returns the parameters of the next number, with shape (n, out_per_feature); to be asked once for each."""
        raise NotImplementedError(f"{type(self).__name__} lacks output")

    def see(self, x: Tensor) -> None:
        """Makes the next number known.

        Args:
            x: What the network sees of it, with shape (in_per_feature, n).
        """
        raise NotImplementedError(f"{type(self).__name__} lacks see")

    def select(self, index: Tensor) -> None:
        """Goes on with other data: those of the index, in its order, repeated or left out.

        Args:
            index: Places 0..n-1, with shape (m,).
        """
        raise NotImplementedError(f"{type(self).__name__} lacks select")


class Conditioner(nn.Module):
    """A network that is autoregressive in an order of the numbers of an event.

    A subclass defines ``forward(x, context)``, from x with shape ``(*, D s)`` or ``(*, C s, H, W)`` to parameters with
    shape ``(*) + event_shape + (out_per_feature,)``; and ``walk``, if it can do better than being run anew.

    Args:
        event_shape: Shape of an event: (D,) or (C, H, W).
        in_per_feature: Numbers s by which the network sees a number.
        order: Place of every number in the order, a permutation of 0..D-1; natural order when ``None``.

    Attributes:
        sequence: The numbers (their places in the flat event) in the order in which they become known.

    Raises:
        ValueError: If ``order`` is no permutation.
    """

    def __init__(self, event_shape: Sequence[int], in_per_feature: int = 1, order: Sequence[int] | None = None) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        size = self.event_shape.numel()
        self.in_per_feature = in_per_feature
        self.order = list(range(size)) if order is None else permutation(order, size)
        self.sequence = inverse(self.order)

    def like(self) -> Tensor:
        """Returns a tensor of the network's dtype and device."""
        return next(itertools.chain(self.parameters(), self.buffers()))

    def walk(self, context: Tensor | None, size: int) -> Walk:
        """Returns a walk through the numbers of ``size`` data.

        Args:
            context: The context, with shape (size, context) or (1, context).
            size: Number of data.
        """
        return NaiveWalk(self, context, size)


def raster(event_shape: Sequence[int]) -> list[int]:
    """Returns the place of every number of a flat image: row by row, pixel by pixel, colour by colour."""
    colours, height, width = event_shape
    return [(i * width + j) * colours + c for c in range(colours) for i in range(height) for j in range(width)]


def permutation(order: Sequence[int], size: int) -> list[int]:
    """Returns an order as a list.

    Raises:
        ValueError: If it is no permutation of 0..size-1.
    """
    places = [int(place) for place in order]
    if sorted(places) != list(range(size)) or any(a != b for a, b in zip(places, order, strict=True)):
        raise ValueError(f"order: expected a permutation of 0..{size - 1}, got {[*order]}")
    return places


def inverse(order: Sequence[int]) -> list[int]:
    """Returns the inverse of a permutation: of places the sequence, of a sequence the places."""
    return sorted(range(len(order)), key=order.__getitem__)


class NaiveWalk(Walk):
    """The walk that runs the conditioner anew for every number: the definition.

    Args:
        conditioner: The conditioner.
        context: The context, with shape (n, context) or (1, context).
        size: Number n of data.
    """

    def __init__(self, conditioner: Conditioner, context: Tensor | None, size: int) -> None:
        self.conditioner, self.context, self.step = conditioner, context, 0
        first, *rest = conditioner.event_shape
        self.x = conditioner.like().new_zeros(size, first, conditioner.in_per_feature, torch.Size(rest).numel())

    def output(self) -> Tensor:
        """Runs the network, and returns its parameters of the next number, with shape (n, out_per_feature)."""
        first, *rest = self.conditioner.event_shape
        theta = self._run(self.x.reshape(len(self.x), first * self.x.shape[2], *rest))
        return theta.flatten(1, -2)[:, self.conditioner.sequence[self.step]]

    def _run(self, x: Tensor) -> Tensor:
        return self.conditioner(x, self.context)

    def see(self, x: Tensor) -> None:
        """Makes the next number known, with shape (in_per_feature, n)."""
        place, column = divmod(self.conditioner.sequence[self.step], self.x.shape[-1])
        self.x = self.x.clone() if torch.is_grad_enabled() else self.x
        self.x[:, place, :, column] = x.mT
        self.step += 1

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.x = self.x[index]
        if self.context is not None and len(self.context) > 1:
            self.context = self.context[index]


class Prefix:
    """Rows that become known from the first on: written into a table of zeros, or joined where gradients are recorded.

    Before them stands a row of ones, whose weight is a bias.

    Args:
        like: A tensor of their dtype and device.
        counts: How many rows become known at a time.
        size: Number of columns.
    """

    def __init__(self, like: Tensor, counts: Sequence[int], size: int) -> None:
        self.joined = torch.is_grad_enabled()
        self.counts, self.at = [1, *counts], 1
        value = like.new_zeros(1 if self.joined else sum(self.counts), size)
        value[0] = 1
        self._hold(value)

    def _hold(self, value: Tensor) -> None:
        self.value = value
        self.parts = () if self.joined else value.split(self.counts)

    @property
    def room(self) -> Tensor | None:
        """Where the next rows will be, to be computed in place; ``None`` where they are joined."""
        return None if self.joined else self.parts[self.at]

    def append(self, block: Tensor) -> None:
        """Adds rows."""
        if self.joined:
            self.value = torch.cat([self.value, block])
        elif block is not self.parts[self.at]:
            self.parts[self.at].copy_(block)
        self.at += 1

    def through(self, weight: Tensor, offset: Tensor | None, out: Tensor | None = None) -> Tensor:
        """Applies rows of the layer that reads these; the offset is what it adds beside its bias."""
        if self.joined:
            weight = weight[:, : len(self.value)]
        if offset is None:
            return torch.mm(weight, self.value, out=out)
        return torch.addmm(offset, weight, self.value, out=out)

    def select(self, index: Tensor) -> None:
        """Keeps these columns."""
        self._hold(self.value[:, index])
