r"""The inverse of an increasing function that has none in closed form: bisection, then Newton's method.

For increasing :math:`y = g(x; \theta)` the root is bracketed from the start, on a scale on which that is cheap:
:math:`t = \operatorname{asinh} x` is as good as :math:`x` near zero and its logarithm far away, so that halving
:math:`|t| \le \operatorname{asinh} 10^{12}` is at once the doubling outward and the halving inward of a search on
:math:`x`, and a fixed number of steps reaches the last digits of any root. No step depends on a value of a tensor.

Two steps of Newton's method from there, kept within the bracket,

.. math::
    x \leftarrow x + \frac{y - g(x; \theta)}{g'(x; \theta)}

are done with gradients. As the error of a power series is squared by every step, the first gives the derivatives of
the implicit function theorem, :math:`\partial x / \partial y = 1 / g'` and :math:`\partial x / \partial \theta =
-g_\theta / g'`, and the second those of second order: no gradient passes through the bisection, and a second backward
pass, ``vmap`` and tracing find ordinary operations.

Where :math:`g' \ge \epsilon` the error is that of rounding :math:`y` and the parameters, over :math:`\epsilon`. For all
that is built on it here, with parameters of ordinary size, it is relative to :math:`1 + |x|` under 1e-5 in float32 and
1e-12 in float64 (the tests allow 1e-4 and 1e-9); with weights a hundred times as large, whose functions are flat
between cliffs, float32 may be left with a digit or two, which are finite still.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .base import Pass

LARGEST = 1e12
_HALVINGS = {torch.float64: 54}


def invert(g: Callable[[Tensor], Pass], y: Tensor) -> Pass:
    r"""Solves :math:`g(x) = y`, element by element.

    Args:
        g: An increasing function of x; returns its value and the log of its slope, each with the shape of x, or of x
            broadcast against the function's parameters.
        y: The values, with any shape.

    Returns:
        x, and the log-slope of the inverse :math:`-\log g'(x)`. A root beyond :math:`\pm 10^{12}` becomes that number.

    Example:
        >>> x, ladj = invert(lambda x: (x + x**3, torch.log1p(3 * x**2)), torch.tensor([2.0, 10.0]))
        >>> x
        tensor([1., 2.])
    """
    with torch.no_grad():
        lower, upper = _bracket(g, y)
    x = 0.5 * (lower + upper)
    for _ in range(2):
        value, log_slope = g(x)
        step = (y - value) * (-log_slope).exp()
        x = x + (step + (step.clamp(lower - x, upper - x) - step).detach())
    return x, -g(x)[1]


def _bracket(g: Callable[[Tensor], Pass], y: Tensor) -> Pass:
    """Returns bounds of the root that differ by little more than rounding."""
    largest = math.asinh(LARGEST)
    lower, upper = torch.full_like(y, -largest), torch.full_like(y, largest)
    for _ in range(_HALVINGS.get(y.dtype, 30)):
        middle = 0.5 * (lower + upper)
        below = g(middle.sinh())[0] < y
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return lower.sinh(), upper.sinh()
