r"""A network from an event to one number: an energy, a potential.

.. math::
    f(x, c) = w^\top \sigma(h_n), \qquad h_1 = W_1 x + V c + b_1, \quad h_{l+1} = W_{l+1} \sigma(h_l) + b_{l+1}

What is made of it are differences and slopes, so it has no constant, and computes in full
precision, also under autocast.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .precision import without_autocast


class Potential(nn.Module):
    r"""A multilayer perceptron from events of any shape to one number, which starts at zero.

    Args:
        event_shape: Shape of an event.
        hidden_features: Widths of the hidden layers, at least one.
        context: Width of the context, 0 for none.
        activation: Class of the activation; a smooth one, where slopes are to be smooth.

    Raises:
        ValueError: If there is no hidden layer.

    Example:
        >>> Potential((2, 2), (8,), context=3)(torch.zeros(5, 2, 2), torch.zeros(4, 1, 3)).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden_features: Sequence[int] = (128, 128),
        context: int = 0,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        if not hidden_features:
            raise ValueError("hidden_features: expected at least one hidden layer, got ()")
        self.event_dim = len(event_shape)
        widths = [torch.Size(event_shape).numel(), *hidden_features]
        self.layers = nn.ModuleList([nn.Linear(n, m) for n, m in pairwise(widths)])
        self.context = nn.Linear(context, widths[1], bias=False) if context else None
        self.last = nn.Linear(widths[-1], 1, bias=False)
        nn.init.zeros_(self.last.weight)
        self.activation = activation()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x``, with shape (*, *event_shape), and ``context``, with shape (*, context), to numbers (*)."""
        with without_autocast(x):
            first, *others = self.layers
            h = first(x.flatten(-self.event_dim) if self.event_dim else x.unsqueeze(-1))
            if self.context is not None:
                h = h + self.context(context.to(h.dtype))
            for layer in others:
                h = layer(self.activation(h))
            return self.last(self.activation(h)).squeeze(-1)
