r"""Multilayer perceptrons with a context, and parameters that may depend on one.

.. math::
    h_1 = W_1 x + V c + b_1, \qquad h_{l+1} = W_{l+1} \sigma(h_l) + b_{l+1}

with input :math:`x`, context :math:`c`, activation :math:`\sigma`. The last :math:`h` is the output.
Input and context are batched independently and broadcast.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .precision import leave_autocast


def zero_(linear: nn.Linear) -> nn.Linear:
    """Sets a layer's weight and bias to zero in place, so that what it parametrises starts at its neutral."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class MLP(nn.Module):
    r"""A multilayer perceptron :math:`f(x, c)`.

    Args:
        in_features: Width of the input :math:`x`.
        out_features: Width of the output.
        hidden_features: Widths of the hidden layers; empty for a linear map.
        context: Width of the context :math:`c`, 0 for none.
        activation: Class of the activation, e.g. ``torch.nn.SiLU``.
        zero: Whether the last layer starts at zero, so that the output does.

    Example:
        >>> f = MLP(3, 2, hidden_features=(8,), context=5)
        >>> f(torch.zeros(10, 3), torch.zeros(4, 1, 5)).shape
        torch.Size([4, 10, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (64, 64),
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        *,
        zero: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden_features, out_features]
        layers = [nn.Linear(n, m) for n, m in pairwise(widths)]
        if zero:
            zero_(layers[-1])
        self.layers = nn.ModuleList(layers)
        self.context = nn.Linear(context, widths[1], bias=False) if context else None
        if zero and self.context is not None and len(layers) == 1:
            nn.init.zeros_(self.context.weight)
        self.activation = activation()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x`` with shape (*, in_features) and ``context`` with shape (*, context) to (*, out_features)."""
        first, *others = self.layers
        h = first(x)
        if self.context is not None:
            h = h + self.context(context)
        sigma = self.activation
        for layer in others:
            h = layer(sigma(h))
        return h


class Parameters(nn.Module):
    r"""A parameter vector that is free, or a function of the context: :math:`\theta` or :math:`\theta(c)`.

    Free parameters start at zero, and so does the network with ``zero``: give zero a neutral meaning.

    Args:
        size: Number of parameters.
        context: Width of the context, 0 for free parameters.
        hidden_features: Hidden widths of the network that reads the context.
        activation: Class of its activation.
        zero: Whether the network starts at zero, whatever the context.
    """

    def __init__(
        self,
        size: int,
        context: int = 0,
        hidden_features: Sequence[int] = (),
        activation: type[nn.Module] = nn.ReLU,
        *,
        zero: bool = True,
    ) -> None:
        super().__init__()
        if context:
            self.network = MLP(context, size, hidden_features, activation=activation, zero=zero)
        else:
            self.value = nn.Parameter(torch.zeros(size))

    def forward(self, context: Tensor | None = None) -> Tensor:
        """Returns the parameters, with shape (size,) when free, else ``context.shape[:-1] + (size,)``."""
        return leave_autocast(self.network(context)) if "network" in self._modules else self.value
