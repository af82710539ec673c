r"""Masked networks: an MLP whose output i depends on earlier inputs only (MADE).

Give every input :math:`x_d` its place in an ordering as its *degree* :math:`d = 1 \dots D`, and every
hidden unit a degree :math:`m`. A connection is kept where information flows upwards:

.. math::
    \text{hidden } m \leftarrow \text{unit } m' \iff m \ge m', \qquad
    \text{output } d \leftarrow \text{hidden } m \iff d > m, \qquad
    \text{output } d \leftarrow \text{input } d' \iff d > d'

so output :math:`d` sees exactly :math:`x_{<d}`. The last kind, direct connections, is optional. Degrees of the hidden
units cycle through 1..D-1 (in a narrower layer they are spread out over them); with a context they cycle through
0..D-1, a unit of degree 0 seeing the context alone, and the first output is a non-linear function of the context too.
(Germain, Gregor, Murray and Larochelle, MADE: Masked Autoencoder for Distribution Estimation, 2015, arXiv:1502.03509.)

Units are sorted by degree. What an output may see is then a prefix of every layer, and where inputs become known one
after another, as in the inverse of a transform or in sampling, all outputs cost one pass in all (:class:`MaskedWalk`):
a hidden unit is computed when the last input it sees is known, and never again.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activation import in_place
from .mlp import Table, amplified, of_rows, table, zero_
from .walk import Conditioner, Prefix, Walk, inverse, permutation


class MaskedLinear(nn.Linear):
    """A linear map whose weight is multiplied by a 0/1 mask.

    Args:
        mask: The connections to keep, with shape (out_features, in_features).
        features: The features that rows run over in turn, as in a :class:`~pyro_dgm.nn.mlp.Table`; none when ``None``.
        gains: With ``features``, what each of a feature's numbers is multiplied by; nothing when ``None``.
    """

    def __init__(self, mask: Tensor, features: int | None = None, gains: Sequence[float] | None = None) -> None:
        out_features, in_features = mask.shape
        super().__init__(in_features, out_features)
        self.register_buffer("mask", mask.to(self.weight.dtype))
        self.features = features
        self.register_buffer("gains", of_rows(gains, self))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (*, in_features) to (*, out_features), or to (*, features, out_features / features).

        Args:
            x: The input.
            mask: Another mask in place of its own.
        """
        weight, bias = amplified(self)
        weight = (self.mask if mask is None else mask) * weight
        return F.linear(x, weight, bias) if self.features is None else table(x, weight, bias, self.features)


class Degrees(NamedTuple):
    """Who sees whom: a degree for every input, 1..D, and for every hidden unit."""

    inputs: Tensor
    hidden: tuple[Tensor, ...]

    def masks(self, per_feature: int, out_per_feature: int) -> list[Tensor]:
        """Returns the masks of all layers, first to last, and that of the direct connections."""
        inputs = self.inputs.repeat_interleave(per_feature)
        between = [m[:, None] >= n for n, m in pairwise([inputs, *self.hidden])]
        ends = [self.hidden[-1], inputs] if self.hidden else [inputs, inputs]
        return between + [(self.inputs[:, None] > units).repeat(out_per_feature, 1) for units in ends]


def hidden_degrees(features: int, width: int, lowest: int) -> list[int]:
    """Returns the degrees of a hidden layer, sorted: as many of each as can be, spread out where there are too few."""
    count = max(features - lowest, 1)
    spread = width if width < count else count
    return sorted((i % spread) * count // spread + lowest for i in range(width))


class MaskedMLP(Conditioner):
    r"""An autoregressive MLP: output i, a vector of ``out_per_feature`` numbers, sees the inputs before i.

    Args:
        features: Number of inputs D.
        out_per_feature: Numbers given per input.
        hidden_features: Hidden widths, each at least D - 1 (D with a context), else an earlier input
            would be invisible to some output; narrower layers need ``direct``.
        order: Degree of every input, a permutation of 0..D-1; natural order when ``None``.
        context: Width of the context, 0 for none. All hidden units see it.
        activation: Class of the activation.
        in_per_feature: Numbers that stand for an input, next to each other; they share its degree.
        direct: Whether outputs see the inputs before them directly too, by a linear map.
        residual: Whether a hidden layer adds to the one before, :math:`h_{l+1} = h_l + W \sigma(h_l) + b`; all hidden
            widths must be equal then.
        gains: What each number given for an input is multiplied by; nothing when ``None``.

    Raises:
        ValueError: If a hidden layer is too narrow, ``order`` is no permutation, or residual layers differ in width.

    Example:
        >>> f = MaskedMLP(3, 2, hidden_features=(16,))
        >>> f(torch.zeros(5, 3)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        features: int,
        out_per_feature: int,
        hidden_features: Sequence[int] = (64, 64),
        order: Sequence[int] | None = None,
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        *,
        in_per_feature: int = 1,
        direct: bool = False,
        residual: bool = False,
        gains: Sequence[float] | None = None,
    ) -> None:
        super().__init__((features,), in_per_feature, order)
        self.lowest = lowest = 0 if context or features == 1 else 1
        for width in hidden_features:
            if width < features - lowest and not direct:
                raise ValueError(
                    f"hidden_features: expected every width >= {features - lowest} for {features} features, "
                    f"so that each output can depend on all inputs before it, got {width}; widen the layer"
                )
        if residual and len(set(hidden_features)) > 1:
            raise ValueError(f"hidden_features: expected equal widths with residual=True, got {[*hidden_features]}")
        hidden = [hidden_degrees(features, width, lowest) for width in hidden_features]
        degrees = Degrees(torch.tensor(self.order) + 1, tuple(torch.tensor(layer) for layer in hidden))
        *masks, seen = degrees.masks(in_per_feature, out_per_feature)
        kinds = [*[MaskedLinear] * len(hidden), partial(MaskedLinear, features=features, gains=gains)]
        self.layers = nn.ModuleList(kind(mask) for kind, mask in zip(kinds, masks, strict=True))
        zero_(self.layers[-1])
        self.direct = zero_(MaskedLinear(seen, features, gains)) if direct and hidden else None
        self.context = None
        if context and hidden:
            self.context = nn.Linear(context, len(masks[0]), bias=False)
        elif context:
            self.context = Table(context, features, out_per_feature, bias=False, gains=gains)
            nn.init.zeros_(self.context.weight)
        self.residual = residual
        self.activation = activation() if residual else in_place(activation)
        self.features, self.in_per_feature, self.out_per_feature = features, in_per_feature, out_per_feature
        self.register_load_state_dict_post_hook(_order_again)
        self.ends = [[bisect_right(layer, d) for d in range(features)] for layer in hidden]

    def walk(self, context: Tensor | None, size: int) -> "MaskedWalk":
        """Returns the walk through the inputs, in their order, of ``size`` data."""
        return MaskedWalk(self, self.sequence, self.ends, context, size)

    def forward(self, x: Tensor, context: Tensor | None = None, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Maps ``x``, (*, D in_per_feature), and ``context``, (*, context), to (*, D, out_per_feature).

        Args:
            x: The inputs.
            context: The context.
            masks: Other masks in place of the network's own, as :meth:`Degrees.masks` gives them.
        """
        first, *others = self.layers
        first_mask, *masks = masks or [None] * (len(self.layers) + 1)
        h = first(x, first_mask)
        if self.context is not None:
            h = h + self.context(context)
        for layer, mask in zip(others, masks, strict=False):
            stream = h if self.residual and layer.features is None else None
            h = layer(self.activation(h), mask)
            h = h if stream is None else stream + h
        return h if self.direct is None else h + self.direct(x, masks[-1])


def _order_again(network: MaskedMLP, _: Any) -> None:
    """Goes by the masks that were loaded: the place of an input is the number of inputs that its output sees."""
    first, *others = (layer.mask for layer in network.layers)
    if not first.is_meta:
        seen = first
        for mask in others:
            seen = (mask @ seen).clamp_max(1)
        seen = seen if network.direct is None else network.direct.mask
        places = (seen[: network.features] > 0).sum(1) // network.in_per_feature
        network.order = permutation(places.tolist(), network.features)
        network.sequence = inverse(network.order)


class MaskedWalk(Walk):
    """The outputs of a masked MLP, one input after another becoming known; made by :meth:`MaskedMLP.walk`.

    Data are the last dimension here, so that a prefix of units is a contiguous piece of memory.

    Args:
        network: The network.
        sequence: The inputs in the order in which they become known.
        ends: For every hidden layer, how many of its units see no more than the first 0, 1, ..., D-1 of these.
        context: The context, with shape (n, context) or (1, context).
        size: Number n of data.
        orders: Orders of the units of every hidden layer by degree, where they are not sorted.
    """

    def __init__(
        self,
        network: MaskedMLP,
        sequence: list[int],
        ends: list[list[int]],
        context: Tensor | None,
        size: int,
        orders: list[Tensor] | None = None,
    ) -> None:
        self.activation, self.residual, self.step = network.activation.forward, network.residual, 0
        per, features = network.in_per_feature, network.features
        columns = [i * per + j for i in sequence for j in range(per)]
        weights, offsets = zip(*map(amplified, network.layers), strict=True)
        weights, offsets = [*weights], [b[:, None] for b in offsets]
        if network.context is not None:
            offsets[0] = offsets[0] + amplified(network.context)[0] @ context.mT
        weights[0] = weights[0][:, columns]
        for k, units in enumerate(orders or ()):
            weights[k], offsets[k] = weights[k][units], offsets[k][units]
            weights[k + 1] = weights[k + 1][:, units]
        counts = [[end - start for start, end in pairwise([0, *layer])] for layer in ends]
        self.known = [Prefix(weights[0], rows, size) for rows in ([per] * features, *counts)]

        def rows(t: Tensor) -> tuple[Tensor, ...]:
            return t.unflatten(0, (-1, features))[:, sequence].unbind(1)

        blocks = [partial(torch.split, split_size_or_sections=n) for n in counts]
        self.hidden = [_steps(*layer) for layer in zip(weights, offsets, blocks, strict=False)]
        self.last = _steps(weights[-1], offsets[-1], rows)
        self.direct = None
        if network.direct is not None:
            weight, bias = amplified(network.direct)
            self.direct = _steps(weight[:, columns], bias[:, None], rows)

    def output(self) -> Tensor:
        """Returns the numbers given for the next input in the order, with shape (n, out_per_feature)."""
        h = None
        for layer, known, units in zip(self.hidden, self.known, self.known[1:], strict=False):
            new = known.through(*layer[self.step], out=None if self.residual else units.room)
            h = h + new if self.residual and h is not None else new
            units.append(self.activation(h))
        out = self.known[-1].through(*self.last[self.step])
        return (out if self.direct is None else out + self.known[0].through(*self.direct[self.step])).mT

    def see(self, x: Tensor) -> None:
        """Makes the next input known, with shape (in_per_feature, n)."""
        self.known[0].append(x)
        self.step += 1

    def select(self, index: Tensor) -> None:
        """Goes on with these data, in this order, repeated or left out as the index says."""
        for known in self.known:
            known.select(index)
        first = self.hidden[0] if self.hidden else self.last
        first[:] = [(w, None if b is None else b[:, index]) for w, b in first]


def _steps(
    weight: Tensor, offset: Tensor, take: Callable[[Tensor], Sequence[Tensor]]
) -> list[tuple[Tensor, Tensor | None]]:
    """Returns each step's weight, whose first column is the offset, and the offset where it differs between data."""
    if offset.shape[-1] == 1:
        weights = take(torch.cat([offset, weight], 1))
        return [(w, None) for w in weights]
    return list(zip(take(F.pad(weight, (1, 0))), take(offset), strict=True))
