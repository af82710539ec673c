r"""The neural autoregressive distribution estimator's network: one hidden layer for every number, at the cost of one.

.. math::
    a_1 = c + U y, \qquad h_d = \sigma(a_d), \qquad \theta_d = b_d + V_d h_d, \qquad a_{d+1} = a_d + W_d x_d

with context :math:`y`. The hidden layers share :math:`W`, so that each is one product away from the one before: O(D H)
in all (Larochelle and Murray, The Neural Autoregressive Distribution Estimator, 2011). Autograd would keep D hidden
layers; the recursion here keeps every eighth :math:`a_d` and goes backwards by

.. math::
    \delta_d = \delta_{d+1} + (V_d^\top g_d) \odot \sigma'(a_d), \qquad
    \partial_{W_d} = \delta_{d+1} x_d^\top, \qquad \partial_{x_d} = W_d^\top \delta_{d+1}, \qquad
    \partial_{V_d} = g_d h_d^\top, \qquad g_d = \partial_{\theta_d}

with the hidden layers between computed again. It is a single operation to a tracer, and has first derivatives only.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.library import CustomOpDef

from .._shapes import broadcast_shapes
from .precision import leave_autocast, without_autocast
from .walk import Conditioner, Walk, inverse

_BLOCK = 8
_aten = torch.ops.aten
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "Sigmoid": (torch.sigmoid, _aten.sigmoid_backward.grad_input),
    "Tanh": (torch.tanh, _aten.tanh_backward.grad_input),
    "ReLU": (
        lambda a, out=None: torch.clamp_min(a, 0, out=out),
        lambda g, h, grad_input: _aten.threshold_backward.grad_input(g, h, 0, grad_input=grad_input),
    ),
}


def recursion(x: Tensor, a: Tensor, w: Tensor, v: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Returns V_d h_d of all numbers, with shape (D, n, P), and every eighth a_d.

    Args:
        x: What is seen of the numbers, with shape (D, n, s).
        a: The first a, with shape (n, H).
        w: The weights W, with shape (D, s, H).
        v: The weights V, with shape (D, P, H).
        activation: ``"Sigmoid"``, ``"Tanh"`` or ``"ReLU"``.
    """
    sigma, _ = _ACTIVATIONS[activation]
    out, kept = x.new_empty(len(x), x.shape[1], v.shape[1]), a.new_empty(-(-len(x) // _BLOCK), *a.shape)
    a, h = a.clone(), torch.empty_like(a)
    for d, (x_d, w_d, v_d, out_d) in enumerate(zip(x, w, v.mT, out, strict=True)):
        if d % _BLOCK == 0:
            kept[d // _BLOCK].copy_(a)
        torch.mm(sigma(a, out=h), v_d, out=out_d)
        _add_product(a, x_d, w_d, out=a)
    return out, kept


def _add_product(a: Tensor, x: Tensor, w: Tensor, out: Tensor) -> Tensor:
    """Returns a + x w; of one number each, without the call of a matrix product."""
    return torch.addcmul(a, x, w, out=out) if len(w) == 1 else torch.addmm(a, x, w, out=out)


def _shapes(x: Tensor, a: Tensor, w: Tensor, v: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), x.shape[1], v.shape[1]), x.new_empty(-(-len(x) // _BLOCK), *a.shape)


def recursion_backward(
    g: Tensor, kept: Tensor, x: Tensor, w: Tensor, v: Tensor, activation: str, of_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of x (if wanted), a, w and v, given that of the output, with shape (D, n, P)."""
    sigma, slope = _ACTIVATIONS[activation]
    dx, dw, dv = torch.empty_like(x) if of_x else x.new_empty(0), torch.empty_like(w), torch.empty_like(v)
    delta = torch.zeros_like(kept[0])
    h, t = (delta.new_empty(size, *delta.shape) for size in (_BLOCK, _BLOCK + 1))
    for k in reversed(range(len(kept))):
        block = slice(k * _BLOCK, min((k + 1) * _BLOCK, len(x)))
        size = block.stop - block.start
        h[0].copy_(kept[k])
        for j in range(size - 1):
            _add_product(h[j], x[block.start + j], w[block.start + j], out=h[j + 1])
        hidden = sigma(h[:size], out=h[:size])
        torch.bmm(g[block].mT, hidden, out=dv[block])
        torch.bmm(g[block], v[block], out=t[:size])
        slope(t[:size], hidden, grad_input=t[:size])
        t[size].copy_(delta)
        for j in reversed(range(size)):
            t[j].add_(t[j + 1])  # now delta of number j
        torch.bmm(x[block].mT, t[1 : size + 1], out=dw[block])
        if of_x:
            torch.bmm(t[1 : size + 1], w[block].mT, out=dx[block])
        delta.copy_(t[0])
    return dx, delta, dw, dv


def _backward_shapes(
    g: Tensor, kept: Tensor, x: Tensor, w: Tensor, v: Tensor, activation: str, of_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x) if of_x else x.new_empty(0),
        torch.empty_like(kept[0]),
        torch.empty_like(w),
        torch.empty_like(v),
    )


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    x, _, w, v, ctx.activation = inputs
    ctx.save_for_backward(output[1], x, w, v)


def _backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor, _: Tensor) -> tuple:
    of_x = ctx.needs_input_grad[0]
    _, backward = operators()
    dx, *others = backward(g.contiguous(), *ctx.saved_tensors, ctx.activation, of_x)
    return dx if of_x else None, *others, None


@functools.cache
def operators() -> tuple[CustomOpDef, CustomOpDef]:
    """Returns the recursion and its gradient as operators of torch, registered when they are first asked for."""
    forward = torch.library.custom_op("pyro_dgm::nade", recursion, mutates_args=())
    backward = torch.library.custom_op("pyro_dgm::nade_backward", recursion_backward, mutates_args=())
    forward.register_fake(_shapes)
    backward.register_fake(_backward_shapes)
    forward.register_autograd(_backward, setup_context=_setup)
    return forward, backward


class NADENetwork(Conditioner):
    """The network of NADE: a hidden layer for every number, all at the cost of one.

    Args:
        features: Number of inputs D.
        out_per_feature: Numbers P given per input.
        hidden_features: Width H of the hidden layers.
        order: Place of every input in the order; natural order when ``None``.
        context: Width of the context, 0 for none.
        activation: Class of the activation: ``Sigmoid``, ``Tanh`` or ``ReLU`` of ``torch.nn``.
        in_per_feature: Numbers s that stand for an input.

    Raises:
        ValueError: If the activation is another.

    Example:
        >>> NADENetwork(3, 2, 8)(torch.zeros(5, 3)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        features: int,
        out_per_feature: int,
        hidden_features: int = 64,
        order: Sequence[int] | None = None,
        context: int = 0,
        activation: type[nn.Module] = nn.Sigmoid,
        *,
        in_per_feature: int = 1,
    ) -> None:
        super().__init__((features,), in_per_feature, order)
        self.activation = activation_name(activation)
        bound = (features * in_per_feature) ** -0.5
        self.w = nn.Parameter(torch.empty(features, in_per_feature, hidden_features).uniform_(-bound, bound))
        self.c = nn.Parameter(torch.zeros(hidden_features))
        self.v = nn.Parameter(torch.zeros(features, out_per_feature, hidden_features))
        self.b = nn.Parameter(torch.zeros(features, out_per_feature))
        self.context = nn.Linear(context, hidden_features, bias=False) if context else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x``, (*, D in_per_feature), and ``context``, (*, context), to (*, D, out_per_feature)."""
        return nade(x, self._first(context), self.w, self.v, self.activation, self.sequence) + self.b

    def walk(self, context: Tensor | None, size: int) -> "NADEWalk":
        """Returns the walk through the inputs, in their order, of ``size`` data."""
        a = self._first(context)
        return NADEWalk(a.expand(size, -1), self.w, self.v, self.b, _ACTIVATIONS[self.activation][0], self.sequence)

    def _first(self, context: Tensor | None) -> Tensor:
        return self.c if self.context is None else self.c + leave_autocast(self.context(context))


def nade(x: Tensor, a: Tensor, w: Tensor, v: Tensor, activation: str, sequence: Sequence[int]) -> Tensor:
    """Runs the recursion on data with any batch dimensions, in any order.

    Args:
        x: The data, with shape (*, D s).
        a: The first a, with shape (*, H); it broadcasts against the data.
        w: The weights W, with shape (D, s, H).
        v: The weights V, with shape (D, P, H).
        activation: The activation's name.
        sequence: The inputs in their order.

    Returns:
        V_d h_d, with shape (*, D, P).
    """
    batch_shape = broadcast_shapes(x.shape[:-1], a.shape[:-1])
    natural = list(sequence) == list(range(len(w)))
    with without_autocast(x):
        x = leave_autocast(x).to(w.dtype)
        x = x.expand(*batch_shape, -1).reshape(batch_shape.numel(), *w.shape[:2]).movedim(1, 0)
        a = a.expand(*batch_shape, -1).reshape(batch_shape.numel(), a.shape[-1])
        if not natural:
            x, w, v = (t[list(sequence)] for t in (x, w, v))
        forward, _ = operators()
        out, _ = forward(x.contiguous(), a.contiguous(), w.contiguous(), v.contiguous(), activation)
        if not natural:
            out = out[inverse(sequence)]
    return out.movedim(0, 1).reshape(*batch_shape, *out.shape[::2])


def activation_name(activation: type[nn.Module]) -> str:
    """Returns the name of an activation that the recursion knows."""
    if activation.__name__ not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of torch.nn's {', '.join(_ACTIVATIONS)}, got {activation.__name__}")
    return activation.__name__


class NADEWalk(Walk):
    """The outputs of NADE, one input after another becoming known: O(H) each.

    Args:
        a: The first a, with shape (n, H).
        w: The weights W, with shape (D, s, H).
        v: The weights V, with shape (D, P, H).
        b: The offsets, with shape (D, P).
        sigma: The activation.
        sequence: The inputs in their order.
        deeper: Layers between the hidden layer and V, each applied to an activation.
    """

    def __init__(
        self,
        a: Tensor,
        w: Tensor,
        v: Tensor,
        b: Tensor,
        sigma: Callable[[Tensor], Tensor],
        sequence: Sequence[int],
        deeper: Sequence[nn.Module] = (),
    ) -> None:
        self.a, self.sigma, self.step, self.deeper = a, sigma, 0, deeper
        self.w, self.v, self.b = ([t[i] for i in sequence] for t in (w, v.mT, b))

    def output(self) -> Tensor:
        """Returns the numbers given for the next input, with shape (n, out_per_feature)."""
        h = self.sigma(self.a)
        for layer in self.deeper:
            h = self.sigma(layer(h))
        return torch.addmm(self.b[self.step], h, self.v[self.step])

    def see(self, x: Tensor) -> None:
        """Adds what the next input does to a."""
        self.a = torch.addmm(self.a, x.mT.to(self.a.dtype), self.w[self.step])
        self.step += 1

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.a = self.a[index]
