r"""Velocity fields of continuous flows, and how they stretch space.

A field :math:`f(x, t, c)` moves points by :math:`dx/dt = f`. A volume that moves along grows at the rate
:math:`\mathrm{tr}\, J`, :math:`J = \partial f / \partial x`, so that a field must give more than its value:

.. math::
    \text{divergence:}\; (f, \mathrm{tr}\, J), \qquad \text{push:}\; (f, J v)

Both are exact and take one pass. Hutchinson's estimators need a push only: with independent entries of mean 0 and
variance 1 in :math:`v`, :math:`E[v^\top J v] = \mathrm{tr}\, J` and :math:`E|J v|^2 = |J|_F^2`.

For a perceptron with weights :math:`W_l` and slopes :math:`s_l = \sigma'(h_l)` the Jacobian is a product,
:math:`J = W_L\, \mathrm{diag}(s_{L-1})\, W_{L-1} \cdots \mathrm{diag}(s_1)\, W_1`, and with two hidden layers

.. math::
    \mathrm{tr}\, J = \sum_{ij} s_{2,i}\, \bigl[W_2 \odot (W_1 W_3)^\top\bigr]_{ij}\, s_{1,j}

one more matrix product per batch, whatever the number of features, where automatic differentiation needs a backward
pass per feature and training another one through each of those.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import MLP

_SLOPES: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {  # of h and a = sigma(h)
    nn.Tanh: lambda h, a: 1 - a * a,
    nn.Softplus: lambda h, a: h.sigmoid(),
    nn.SiLU: lambda h, a: a + h.sigmoid() * (1 - a),
    nn.Sigmoid: lambda h, a: a * (1 - a),
}


class MLPField(nn.Module):
    r"""A multilayer perceptron :math:`f(x, t, c)` with push and divergence in closed form; starts at zero.

    Time enters like a context, by an addition to the first hidden layer. Up to two hidden layers the divergence
    costs one matrix product at any number of features D; with more, D products per layer.

    Args:
        features: Number of features D.
        hidden_features: Widths of the hidden layers, at least one.
        context: Width of the context, 0 for none.
        activation: Class of the activation: ``Tanh``, ``Softplus``, ``SiLU`` or ``Sigmoid``.

    Raises:
        ValueError: If the activation has kinks, or no closed form here; if there is no hidden layer.

    Example:
        >>> f, trace = MLPField(3).divergence(torch.zeros(5, 3), torch.zeros(()))
        >>> f.shape, trace.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (64, 64),
        context: int = 0,
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        if activation not in _SLOPES:
            raise ValueError(
                f"activation: expected one of {', '.join(c.__name__ for c in _SLOPES)}, got {activation.__name__}; at "
                "a kink (ReLU) the divergence jumps, which stalls adaptive solvers and costs others their order; for "
                "any other network pass field=..."
            )
        if not hidden_features:
            raise ValueError("hidden_features: expected at least one hidden layer, since time enters there, got none")
        self.network = MLP(features, features, hidden_features, 1 + context, activation, zero=True)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns f(x, t, c), with the broadcast shape of x and the context."""
        h = self._first(x, t, context)
        for layer in self.network.layers[1:]:
            h = layer(self.network.activation(h))
        return h

    def push(self, v: Tensor, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns f(x, t, c) and J v."""
        h, v = self._first(x, t, context), F.linear(v, self.network.layers[0].weight)
        for layer in self.network.layers[1:]:
            a, slope = self._activate(h)
            h, v = layer(a), F.linear(slope * v, layer.weight)
        return h, v

    def divergence(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns f(x, t, c) and the trace of J."""
        h, slopes = self._first(x, t, context), []
        for layer in self.network.layers[1:]:
            a, slope = self._activate(h)
            slopes.append(slope)
            h = layer(a)
        return h, trace_of_product([layer.weight for layer in self.network.layers], slopes)

    def _first(self, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        weight = self.network.context.weight
        h = self.network.layers[0](x) + weight[:, 0] * t
        return h if context is None else h + F.linear(context, weight[:, 1:])

    def _activate(self, h: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.network.activation
        a = sigma(h)
        return a, _SLOPES[type(sigma)](h, a)


def trace_of_product(weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    r"""Returns :math:`\mathrm{tr}(W_L\, \mathrm{diag}(s_{L-1})\, W_{L-1} \cdots \mathrm{diag}(s_1)\, W_1)`.

    Args:
        weights: :math:`W_1, \dots, W_L`, at least two.
        slopes: :math:`s_1, \dots, s_{L-1}`, with shape (*, width).
    """
    first, *middle, last = weights
    if not middle:
        return slopes[0] @ (first * last.T).sum(-1)
    if len(middle) == 1:
        return (slopes[1] * F.linear(slopes[0], middle[0] * (first @ last).T)).sum(-1)
    rows = first.T  # row d is what the layers so far make of the d-th unit vector
    for weight, slope in zip(middle, slopes[:-1], strict=True):
        rows = F.linear(slope.unsqueeze(-2) * rows, weight)
    return (rows * slopes[-1].unsqueeze(-2) * last).sum((-2, -1))


class AutogradField(nn.Module):
    r"""Any network as a field, pushed by forward-mode differentiation; the divergence takes D pushes at once.

    Args:
        network: A module that maps x with shape (*, D), a scalar tensor t, and a context or ``None`` to (*, D). It
            treats data independently and, while a solver runs, always alike (no batch normalisation, no dropout).

    Example:
        >>> class Decay(nn.Module):
        ...     def forward(self, x, t, context=None):
        ...         return -x
        >>> AutogradField(Decay()).divergence(torch.zeros(5, 3), torch.zeros(()))[1]
        tensor([-3., -3., -3., -3., -3.])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns f(x, t, c)."""
        return self.network(x, t, context)

    def push(self, v: Tensor, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns f(x, t, c) and J v."""
        return torch.func.jvp(lambda x: self.network(x, t, context), (x,), (v,))

    def divergence(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns f(x, t, c) and the trace of J."""
        basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        f, columns = torch.func.vmap(lambda e: self.push(e.expand_as(x), x, t, context), out_dims=(None, 0))(basis)
        return f, columns.diagonal(dim1=0, dim2=-1).sum(-1)
