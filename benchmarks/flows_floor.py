r"""The floor below the flows of ``benchmarks.flows``: the products :math:`W_3 W_2 W_1 x` of their conditioners."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Products(nn.Module):
    """The products of conditioners of these widths, dense, and nothing else.

    Args:
        widths: Widths of a conditioner, input to output.
        transforms: Number of conditioners.
    """

    def __init__(self, widths: list[int], transforms: int) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        pairs = list(pairwise(widths)) * transforms
        self.weights = nn.ParameterList(torch.randn(m, n) / math.sqrt(n) for n, m in pairs)
        self.biases = nn.ParameterList(torch.zeros(m) for _, m in pairs)
        self.layers = list(zip(self.weights, self.biases, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies; every conditioner gets ``x``."""
        total = x.new_zeros(())
        for k in range(0, len(self.layers), self.depth):
            h = x
            for weight, bias in self.layers[k : k + self.depth]:
                h = F.linear(h, weight, bias)
            total = total + h[0, 0]
        return total

    def backward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Multiplies forwards and backwards: towards the weights and, but for the layer next to the data, ``x``."""
        outputs = []
        for k in range(0, len(self.layers), self.depth):
            h = x.detach().requires_grad_(k > 0)
            for weight, bias in self.layers[k : k + self.depth]:
                h = F.linear(h, weight, bias)
            outputs.append(h)
        return torch.autograd.grad(outputs, [*self.parameters()], [torch.ones_like(h) for h in outputs])
