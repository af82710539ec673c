r"""How networks start whose output is to be zero at first.

.. math::
    \theta = W h + b, \qquad W = [V, -V], \quad h = [\sigma(u), \sigma(u)], \quad b = 0

With :math:`W = 0` the hidden layers have no gradient at first, and then one by which all their units move alike; a flow
of splines that starts so can miss much of a density. Instead, the units of the last hidden layer come in pairs: twins
see the same, and what one says the other takes back (Zhang, Xu, Luo and Ma, A type of generalization error induced by
initialization in deep neural networks, 2019, arXiv:1905.07777). The output is zero, to rounding, but twins have a
gradient at the first step, by which they part, each pair its own way; layers before them have theirs from the second.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import nn


def zero_(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Sets a layer's weight, and bias if any, to zero in place, so that what it parametrises starts at its neutral."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


@torch.no_grad()
def pair_(last: nn.Linear | nn.Conv2d, into: Sequence[nn.Module], kinds: Sequence[int] | None = None) -> None:
    """Makes pairs of hidden units in place, so that the last layer gives zero but learns with those before it.

    Args:
        last: The last layer; a unit that has no twin starts with weight zero in it.
        into: The layers whose outputs, added up, are the last hidden layer; all weights start at zero if there is none.
        kinds: Kinds of the hidden units, sorted, twins being of one; all alike when ``None``.

    Example:
        >>> hidden, last = nn.Linear(3, 8), nn.Linear(8, 2)
        >>> pair_(last, [hidden])
        >>> bool(last(hidden(torch.randn(3)).tanh()).abs().max() < 1e-6)
        True
    """
    weight, start = last.weight.clone(), 0
    zero_(last)
    for _, units in groupby(kinds or [0] * weight.shape[1]) if into else ():
        end = start + len([*units])
        middle = (start + end) // 2
        one, other = slice(start, middle), slice(middle, 2 * middle - start)
        for parameter in (p for layer in into for p in layer.parameters(recurse=False)):
            parameter[other] = parameter[one]
        last.weight[:, one], last.weight[:, other] = weight[:, one], -weight[:, one]
        start = end
