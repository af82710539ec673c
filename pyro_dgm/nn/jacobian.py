r"""The squared Frobenius norm of a network's Jacobian, in one way to be differentiated.

.. math::
    \|J\|_F^2 = \sum_{l} \Bigl|\frac{\partial f_l}{\partial x}\Bigr|^2
        = E_v \bigl|J^\top v\bigr|^2 \quad \text{for } E\, v v^\top = I

Exact, it takes a backward pass for each of the L outputs; by Hutchinson's estimate with random signs v, one for each
probe. For one layer :math:`f = s(W x + b)` it is there without any: :math:`\sum_l s'(a_l)^2 |W_l|^2` (Rifai, Vincent,
Muller, Glorot and Bengio, Contractive Auto-Encoders, 2011).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .precision import at_least_float32, leave_autocast, without_autocast


def squared_jacobian_norm(
    f: Callable[[Tensor], Tensor], x: Tensor, event_dim: int = 1, probes: int | None = None
) -> Tensor:
    """Returns the squared Frobenius norm of the Jacobian df/dx at every datum, in float32 at least.

    Args:
        f: Maps x to outputs with one or more dimensions behind those of the batch, every datum by itself.
        x: Data, with shape batch + event; f is computed in full precision.
        event_dim: Number of dimensions of an event.
        probes: Number of random directions of Hutchinson's estimate; ``None`` for the exact norm.

    Returns:
        The norms, with the shape of the batch, differentiable with respect to the parameters of f.

    Example:
        >>> squared_jacobian_norm(lambda x: 3 * x, torch.zeros(4, 2))
        tensor([18., 18., 18., 18.])
    """
    x = leave_autocast(x)
    batch = x.shape[: x.dim() - event_dim]
    layer = _single_layer(f) if probes is None and event_dim == 1 else None
    with torch.enable_grad(), without_autocast(x):
        if layer is not None:
            return at_least_float32(_of_layer(*layer, x))
        x = x.detach().requires_grad_()
        y = f(x)
        y = y.reshape(*batch, y.shape[len(batch) :].numel())
        total: Tensor | None = None
        for v in range(y.shape[-1]) if probes is None else range(probes):
            along = y[..., v] if probes is None else (y * (2 * torch.randint_like(y, 2) - 1)).sum(-1)
            (rows,) = torch.autograd.grad(along.sum(), x, create_graph=True)
            squares = at_least_float32(rows).flatten(-event_dim).square().sum(-1)
            total = squares if total is None else total + squares
        return total / (probes or 1)


def _single_layer(f: Callable[[Tensor], Tensor]) -> tuple[nn.Linear, nn.Module] | None:
    """Returns a linear map and its sigmoid or hyperbolic tangent, if that is all there is to f."""
    if isinstance(f, nn.Sequential) and [*map(type, f)] in ([nn.Linear, nn.Sigmoid], [nn.Linear, nn.Tanh]):
        return f[0], f[1]
    return None


def _of_layer(linear: nn.Linear, sigma: nn.Module, x: Tensor) -> Tensor:
    s = sigma(linear(x))
    slope = s * (1 - s) if isinstance(sigma, nn.Sigmoid) else 1 - s.square()
    return (slope.square() * linear.weight.square().sum(-1)).sum(-1)
