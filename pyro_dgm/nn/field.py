r"""Velocity fields of continuous flows, and how they stretch space.

A field :math:`f(x, t, c)` moves points by :math:`dx/dt = f`. A volume that moves along grows at the rate
:math:`\mathrm{tr}\, J`, :math:`J = \partial f / \partial x`, so that a field must give more than its value:

.. math::
    \text{divergence:}\; (f, \mathrm{tr}\, J), \qquad \text{push:}\; (f, J v)

Both are exact and take one pass, and ``field.at(context)``, which offers them as functions of x and t, computes once
what does not change along a path. Hutchinson's estimators need a push only: with independent entries of mean 0 and
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
        >>> f, trace = MLPField(3).at(None).divergence(torch.zeros(5, 3), torch.zeros(()))
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

    def at(self, context: Tensor | None = None) -> "Perceptron":
        """Returns the field at a context with shape (*, context)."""
        return Perceptron(self.network, context)


class Perceptron:
    r"""A perceptron as a field at one context, made by :meth:`MLPField.at`.

    Args:
        network: The perceptron, whose context is time and :math:`c`.
        context: The context :math:`c`.
    """

    def __init__(self, network: MLP, context: Tensor | None) -> None:
        first, *self.layers = network.layers
        by_time = network.context.weight
        self.sigma, self.rate, self.weight = network.activation, by_time[:, 0], first.weight
        self.slope = next(slope for kind, slope in _SLOPES.items() if isinstance(self.sigma, kind))
        self.offset = first.bias if context is None else F.linear(context, by_time[:, 1:], first.bias)
        last = self.layers[-1].weight
        if len(self.layers) == 1:
            self.kernel = (self.weight * last.T).sum(-1)
        elif len(self.layers) == 2:
            self.kernel = self.layers[0].weight * (self.weight @ last).T

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns f(x, t)."""
        h = F.linear(x, self.weight) + (self.offset + t * self.rate)
        for layer in self.layers:
            h = layer(self.sigma(h))
        return h

    def push(self, v: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns f(x, t) and J v."""
        f, slopes = self._run(x, t)
        v = F.linear(v, self.weight)
        for layer, slope in zip(self.layers, slopes, strict=True):
            v = F.linear(slope * v, layer.weight)
        return f, v

    def divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns f(x, t) and the trace of J."""
        f, slopes = self._run(x, t)
        if len(slopes) == 1:
            return f, slopes[0] @ self.kernel
        if len(slopes) == 2:
            return f, (slopes[1] * F.linear(slopes[0], self.kernel)).sum(-1)
        rows = self.weight.T  # row d is what the layers so far make of the d-th unit vector
        for layer, slope in zip(self.layers[:-1], slopes[:-1], strict=True):
            rows = F.linear(slope.unsqueeze(-2) * rows, layer.weight)
        return f, (rows * slopes[-1].unsqueeze(-2) * self.layers[-1].weight).sum((-2, -1))

    def _run(self, x: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns f(x, t) and the slopes of the hidden layers."""
        h, slopes = F.linear(x, self.weight) + (self.offset + t * self.rate), []
        for layer in self.layers:
            a = self.sigma(h)
            slopes.append(self.slope(h, a))
            h = layer(a)
        return h, slopes


class AutogradField(nn.Module):
    r"""Any network as a field, pushed by forward-mode differentiation; the divergence takes D pushes at once.

    Args:
        network: A module that maps x with shape (*, D), a scalar tensor t, and a context or ``None`` to (*, D). It
            treats data independently and, while a solver runs, always alike (no batch normalisation, no dropout).

    Example:
        >>> class Decay(nn.Module):
        ...     def forward(self, x, t, context=None):
        ...         return -x
        >>> AutogradField(Decay()).at(None).divergence(torch.zeros(5, 3), torch.zeros(()))[1]
        tensor([-3., -3., -3., -3., -3.])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def at(self, context: Tensor | None = None) -> "Differentiated":
        """Returns the field at a context with shape (*, context)."""
        return Differentiated(lambda x, t: self.network(x, t, context))


class Differentiated:
    """A function f(x, t) as a field, made by :meth:`AutogradField.at`.

    Args:
        function: Maps x with shape (*, D) and a scalar t to (*, D).
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns f(x, t)."""
        return self.function(x, t)

    def push(self, v: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns f(x, t) and J v."""
        return torch.func.jvp(lambda x: self.function(x, t), (x,), (v,))

    def divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns f(x, t) and the trace of J."""
        basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        f, columns = torch.func.vmap(lambda e: self.push(e.expand_as(x), x, t), out_dims=(None, 0))(basis)
        return f, columns.diagonal(dim1=0, dim2=-1).sum(-1)
