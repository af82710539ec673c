r"""Masked networks: an MLP whose output i depends on earlier inputs only (MADE).

Give every input :math:`x_d` its place in an ordering as its *degree* :math:`d = 1 \dots D`, and every
hidden unit a degree :math:`m`. A connection is kept where information flows upwards:

.. math::
    \text{hidden } m \leftarrow \text{unit } m' \iff m \ge m', \qquad
    \text{output } d \leftarrow \text{hidden } m \iff d > m

so output :math:`d` sees exactly :math:`x_{<d}`. Degrees of the hidden units cycle through 1..D-1; with a
context they cycle through 0..D-1, a unit of degree 0 seeing the context alone, and the first
output is a non-linear function of the context too. (Germain, Gregor, Murray and Larochelle,
MADE: Masked Autoencoder for Distribution Estimation, 2015, arXiv:1502.03509.)

Units are sorted by degree. What an output may see is then a prefix of every layer, and where inputs become known one
after another, as in the inverse of a transform, all outputs cost one pass in all (:class:`Walk`): a hidden unit is
computed when the last input it sees is known, and never again.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import Table, in_place, table, zero_


class MaskedLinear(nn.Linear):
    """A linear map whose weight is multiplied by a fixed 0/1 mask.

    Args:
        mask: The connections to keep, with shape (out_features, in_features).
        features: The features that rows run over in turn, as in a :class:`~pyro_dgm.nn.mlp.Table`; none when ``None``.
    """

    def __init__(self, mask: Tensor, features: int | None = None) -> None:
        out_features, in_features = mask.shape
        super().__init__(in_features, out_features)
        self.register_buffer("mask", mask.to(self.weight.dtype))
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """Maps (*, in_features) to (*, out_features), or to (*, features, out_features / features)."""
        weight = self.mask * self.weight
        return F.linear(x, weight, self.bias) if self.features is None else table(x, weight, self.bias, self.features)


class MaskedMLP(nn.Module):
    """An autoregressive MLP: output i, a vector of ``out_per_feature`` numbers, sees the inputs before i.

    Args:
        features: Number of inputs D.
        out_per_feature: Numbers given per input.
        hidden_features: Hidden widths, each at least D - 1 (D with a context), else an earlier input
            would be invisible to some output.
        order: Degree of every input, a permutation of 0..D-1; natural order when ``None``.
        context: Width of the context, 0 for none. All hidden units see it.
        activation: Class of the activation.
        in_per_feature: Numbers that stand for an input, next to each other; they share its degree.

    Raises:
        ValueError: If a hidden layer is too narrow, or ``order`` is no permutation.

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
    ) -> None:
        super().__init__()
        order = list(range(features)) if order is None else [int(d) for d in order]
        if sorted(order) != list(range(features)):
            raise ValueError(f"order: expected a permutation of 0..{features - 1}, got {order}")
        lowest = 0 if context or features == 1 else 1
        for width in hidden_features:
            if width < features - lowest:
                raise ValueError(
                    f"hidden_features: expected every width >= {features - lowest} for {features} features, "
                    f"so that each output can depend on all inputs before it, got {width}; widen the layer"
                )
        degrees = [[d + 1 for d in order]]
        for width in hidden_features:
            degrees.append(sorted(i % max(features - lowest, 1) + lowest for i in range(width)))
        inputs, *hidden = (torch.tensor(layer) for layer in degrees)
        units = [inputs.repeat_interleave(in_per_feature), *hidden]
        masks = [m[:, None] >= n for n, m in pairwise(units)]
        masks.append((inputs[:, None] > units[-1]).repeat(out_per_feature, 1))
        kinds = [*[MaskedLinear] * len(hidden), partial(MaskedLinear, features=features)]
        self.layers = nn.ModuleList(kind(mask) for kind, mask in zip(kinds, masks, strict=True))
        zero_(self.layers[-1])
        self.context = None
        if context and hidden:
            self.context = nn.Linear(context, len(masks[0]), bias=False)
        elif context:
            self.context = Table(context, features, out_per_feature, bias=False)
            nn.init.zeros_(self.context.weight)
        self.activation = in_place(activation)
        self.features, self.in_per_feature = features, in_per_feature
        self.sequence = sorted(range(features), key=order.__getitem__)
        self.ends = [[bisect_right(layer, d) for d in range(features)] for layer in degrees[1:]]

    def walk(self, context: Tensor | None, size: int) -> "Walk":
        """Returns the walk through the inputs, in their order, of ``size`` data.

        Args:
            context: The context, with shape (size, context) or (1, context).
            size: Number of data.
        """
        return Walk(self, context, size)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x``, (*, D in_per_feature), and ``context``, (*, context), to (*, D, out_per_feature)."""
        first, *others = self.layers
        h = first(x)
        if self.context is not None:
            h = h + self.context(context)
        for layer in others:
            h = layer(self.activation(h))
        return h


class Walk:
    """The outputs of a masked MLP, one input after another becoming known; made by :meth:`MaskedMLP.walk`.

    Data are the last dimension here, so that a prefix of units is a contiguous piece of memory.

    Args:
        network: The network.
        context: The context, with shape (n, context) or (1, context).
        size: Number n of data.
    """

    def __init__(self, network: MaskedMLP, context: Tensor | None, size: int) -> None:
        self.activation, self.sequence, per = network.activation, network.sequence, network.in_per_feature
        columns = [i * per + j for i in self.sequence for j in range(per)]
        weights = [layer.weight for layer in network.layers]
        weights[0] = weights[0][:, columns]
        offsets = [layer.bias[:, None] for layer in network.layers]
        if network.context is not None:
            offsets[0] = offsets[0] + network.context.weight @ context.mT
        counts = [[end - start for start, end in pairwise([0, *ends])] for ends in network.ends]
        self.known = [Prefix(weights[0], rows, size) for rows in ([per] * network.features, *counts)]
        *hidden, last = zip(weights, offsets, strict=True)
        self.hidden = [zip(w.split(n), b.split(n), strict=True) for (w, b), n in zip(hidden, counts, strict=True)]
        rows = (t.unflatten(0, (-1, network.features))[:, self.sequence].unbind(1) for t in last)
        self.last = zip(*rows, strict=True)

    def output(self) -> Tensor:
        """Returns the numbers given for the next input in the order, with shape (n, out_per_feature)."""
        for layer, known, units in zip(self.hidden, self.known, self.known[1:], strict=False):
            units.append(self.activation(known.through(*next(layer))))
        return self.known[-1].through(*next(self.last)).mT

    def see(self, x: Tensor) -> None:
        """Makes the next input known, with shape (in_per_feature, n)."""
        self.known[0].append(x)


class Prefix:
    """Rows that become known from the first on: written into a table of zeros, or joined where gradients are recorded.

    Args:
        like: A tensor of their dtype and device.
        counts: How many rows become known at a time.
        size: Number of columns.
    """

    def __init__(self, like: Tensor, counts: Sequence[int], size: int) -> None:
        self.joined = torch.is_grad_enabled()
        self.value = like.new_zeros(0 if self.joined else sum(counts), size)
        self.rest = iter(() if self.joined else self.value.split(list(counts)))

    def append(self, block: Tensor) -> None:
        """Adds rows."""
        if self.joined:
            self.value = torch.cat([self.value, block])
        else:
            next(self.rest).copy_(block)

    def through(self, weight: Tensor, offset: Tensor) -> Tensor:
        """Applies rows of the layer that reads these."""
        return torch.addmm(offset, weight[:, : len(self.value)] if self.joined else weight, self.value)
