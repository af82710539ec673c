r"""Block neural autoregressive transforms: one network that is itself the bijection.

Every feature owns a block of hidden units in each layer. Weights between the blocks of one feature are positive, those
from later features zero, so output i increases in :math:`x_i` and depends on :math:`x_{\le i}` only:

.. math::
    h^{(0)} = x, \qquad h^{(l)} = \tanh\bigl(W^{(l)} h^{(l-1)} + b^{(l)} + V^{(l)} c\bigr), \qquad
    f = W^{(L)} h^{(L-1)} + b^{(L)} + V^{(L)} c

    y = \alpha \odot x + (1 - \alpha) \odot f, \qquad
    \frac{\partial f_i}{\partial x_i} = W^{(L)}_{ii}\, \mathrm{diag}(\tanh')\, W^{(L-1)}_{ii} \cdots W^{(1)}_{ii}

with the product of the diagonal blocks taken on a logarithmic scale. :math:`f` is bounded; it is the gate
:math:`\alpha \in (0, 1)` that makes the image all of :math:`R^D`, with affine tails, and an inverse exist for
every y. Each row of :math:`W` has norm :math:`e^{\gamma}` (weight normalisation). (De Cao, Titov and Aziz,
Block Neural Autoregressive Flow, 2019, arXiv:1904.04676.)
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import at_least_float32, leave_autocast, without_autocast
from .base import Pass, Transform, check_width
from .inversion import invert
from .monotone import soft_bound


class _BlockLinear(nn.Module):
    """A layer of D x D blocks of n outputs by m inputs: positive on the diagonal, zero above it."""

    def __init__(self, features: int, m: int, n: int, context: int) -> None:
        super().__init__()
        self.features, self.m, self.n = features, m, n
        self.weight = nn.Parameter(torch.randn(features, n, features, m) / math.sqrt(m))
        self.log_norm = nn.Parameter(torch.zeros(features, n))
        self.bias = nn.Parameter(torch.randn(features, n) / math.sqrt(m))
        self.context = nn.Linear(context, features * n, bias=False) if context else None
        eye = torch.eye(features)[:, None, :, None]
        self.register_buffer("diagonal", eye)
        self.register_buffer("below", torch.ones(features, features).tril(-1)[:, None, :, None])

    def weights(self) -> tuple[Tensor, Tensor]:
        """Returns W with shape (D, n, D, m), and the logarithm of its diagonal blocks, with shape (D, n, m)."""
        log_diagonal = soft_bound(self.weight, 10.0)
        w = log_diagonal.exp() * self.diagonal + self.weight * self.below
        scale = soft_bound(self.log_norm, 3.0) - 0.5 * w.square().sum((-1, -2)).log()
        log_diagonal = log_diagonal.diagonal(dim1=0, dim2=2).movedim(-1, 0)
        return w * scale.exp()[..., None, None], log_diagonal + scale.unsqueeze(-1)

    def offset(self, context: Tensor | None) -> Tensor:
        """Returns b + V c, with shape (*, D, n)."""
        if self.context is None:
            return self.bias
        return self.bias + self.context(context).unflatten(-1, (self.features, self.n))


class BlockAutoregressive(Transform):
    r"""A block neural autoregressive transform; features in their natural order.

    ``forward_and_ladj`` is one pass of the network. The inverse restores one feature after another: the other features'
    part in a block is computed once, and the root is searched in the network of one input and one output that is left.

    Args:
        features: Number of features D.
        hidden_factors: Hidden units per feature a of every hidden layer.
        context: Width of the context, 0 for none.
        min_slope: The least value of a gate :math:`\alpha`, and so of every :math:`\partial y_i / \partial x_i`;
            also the least of :math:`1 - \alpha`, whose logarithm is taken.

    Raises:
        ValueError: If there is no hidden layer, or an empty one.

    Example:
        >>> y, ladj = BlockAutoregressive(3).forward_and_ladj(torch.zeros(10, 3))
    """

    def __init__(
        self, features: int, hidden_factors: Sequence[int] = (8, 8), context: int = 0, min_slope: float = 1e-2
    ) -> None:
        super().__init__()
        if not hidden_factors or min(hidden_factors) < 1:
            raise ValueError(f"hidden_factors: expected at least one width, each at least 1, got {hidden_factors}")
        widths = [1, *hidden_factors, 1]
        self.layers = nn.ModuleList(_BlockLinear(features, m, n, context) for m, n in pairwise(widths))
        self.gate = nn.Parameter(torch.zeros(features))
        self.features, self.min_slope = features, min_slope

    def _parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Returns the gates, the weights of every layer, and the offsets b + V c of every layer."""
        check_width("BlockAutoregressive", x, self.features)
        context = None if context is None else leave_autocast(context)
        alpha = self.min_slope + (1 - 2 * self.min_slope) * at_least_float32(self.gate).sigmoid()
        weights = [tuple(at_least_float32(w) for w in layer.weights()) for layer in self.layers]
        return alpha, weights, [at_least_float32(layer.offset(context)) for layer in self.layers]

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Runs the network, and the product of its diagonal blocks beside it."""
        dtype, x = x.dtype, at_least_float32(x)
        with without_autocast(x):
            alpha, weights, offsets = self._parts(x, context)
            h, log_slope = x.unsqueeze(-1), None
            for k, ((w, log_diagonal), offset) in enumerate(zip(weights, offsets, strict=True)):
                h = F.linear(h.flatten(-2), w.flatten(2).flatten(0, 1)).unflatten(-1, offset.shape[-2:]) + offset
                h, log_slope = _activate(h, log_diagonal, log_slope, last=k == len(weights) - 1)
            y, ladj = _gated(x, h.squeeze(-1), log_slope.squeeze(-1), alpha)
            return y.to(dtype), ladj.sum(-1)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Restores the features one after another, each by a search in its own blocks."""
        dtype, y = y.dtype, at_least_float32(y)
        with without_autocast(y):
            alpha, weights, offsets = self._parts(y, context)
            known: list[Tensor] = []  # what every layer has received from the features restored so far
            found, total = [], y.new_zeros(())
            for i in range(self.features):
                own = []
                for k, ((w, log_diagonal), offset) in enumerate(zip(weights, offsets, strict=True)):
                    received = _from_earlier(w[i, :, :i], known[k] if i else None, offset[..., i, :])
                    own.append((w[i, :, i], log_diagonal[i], received))
                x_i, ladj = invert(lambda x, own=own, i=i: _scalar(x, own, alpha[i])[:2], y[..., i])
                inputs = _scalar(x_i, own, alpha[i])[2]
                known = [torch.cat([known[k], h], -2) if i else h for k, h in enumerate(inputs)]
                found.append(x_i)
                total = total + ladj
            return torch.stack(found, -1).to(dtype), total


def _activate(h: Tensor, log_diagonal: Tensor, log_slope: Tensor | None, *, last: bool) -> tuple[Tensor, Tensor]:
    """Applies tanh, but for the last layer, and extends the logarithm of the product of diagonal blocks."""
    if log_slope is None:
        log_slope = log_diagonal.squeeze(-1)
    else:
        log_slope = (log_diagonal + log_slope.unsqueeze(-2)).logsumexp(-1)
    if last:
        return h, log_slope
    return h.tanh(), log_slope + 2 * (math.log(2) - h - F.softplus(-2 * h))


def _gated(x: Tensor, f: Tensor, log_slope: Tensor, alpha: Tensor) -> Pass:
    """Returns alpha x + (1 - alpha) f and the logarithm of its slope."""
    return alpha * x + (1 - alpha) * f, torch.logaddexp(alpha.log(), (-alpha).log1p() + log_slope)


def _from_earlier(w: Tensor, h: Tensor | None, offset: Tensor) -> Tensor:
    """Returns what one feature's block receives from the features before it, with shape (*, n)."""
    return offset if h is None else offset + F.linear(h.flatten(-2), w.flatten(1))


def _scalar(x: Tensor, own: list[tuple[Tensor, Tensor, Tensor]], alpha: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Runs the network of one feature: its output, its log-slope, and the inputs of every layer, (*, 1, m)."""
    h, log_slope, inputs = x.unsqueeze(-1), None, []
    for k, (w, log_diagonal, offset) in enumerate(own):
        inputs.append(h.unsqueeze(-2))
        h, log_slope = _activate(F.linear(h, w) + offset, log_diagonal, log_slope, last=k == len(own) - 1)
    return *_gated(x, h.squeeze(-1), log_slope.squeeze(-1), alpha), inputs
