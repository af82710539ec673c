r"""A loss as one graph of tensor operations: traced once, replayed at every step.

Running a Pyro program costs more than its arithmetic where models are small: effect handlers, distributions, argument
checks and autograd's bookkeeping are Python. None of it depends on the values of tensors, so it is run once, under the
tracer, handlers and all; what is left is

.. math::
    (x, c) \mapsto (L, \nabla_\theta L)

as a list of tensor operations, forward and backward, that can be replayed, or optimised by Inductor
(:mod:`pyro_dgm.training.compilation`). Random draws are operations of that list, so they stay random. Every tensor
that lives outside the program, wherever it lives (a module, Pyro's parameter store, a closure), becomes an input of the
graph: the very same object, so an optimizer's updates are seen, and what the program changes in place (running
statistics, counters, chains) is changed in place.

A program is replayed only if that is right: it is traced twice and must give the same operations and numbers both
times, ask for the value of no tensor, and have no shape that depends on one. Anything else raises
:class:`UntraceableError` with the reason, and :class:`Replay` runs the program itself instead.

What Python holds (a number in an attribute, the length of a list) is read when the program is traced.
:meth:`Replay.refresh`, which ``fit`` calls at every epoch, notices that a number or mode of a module has changed, and
traces again; what changes at every step belongs in a buffer.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer.elbo import ELBO
from pyro.infer.util import Dice
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode

from .randomness import unchanged

Batch = tuple[Tensor, ...]
TensorFunction = Callable[..., Sequence[Tensor]]
Optimise = Callable[[GraphModule, Sequence[Tensor]], TensorFunction]

MAX_SHAPES = 16


class UntraceableError(RuntimeError):
    """A program that cannot be replayed as a fixed list of tensor operations."""


class Replay:
    """A function of tensors that is traced once per batch shape and then replayed.

    What cannot be traced is called as it is, with one warning that says why.

    Args:
        function: Maps a batch to a sequence of tensors; it may use any tensors from outside.
        modules: Modules that it uses, whose numbers and modes decide whether a trace is still valid, and whose
            buffers tracing leaves as they were.
        optimise: Compiles a graph; ``None`` for no compilation.
        rows: Data per batch for which compiling is worth its time; other batches, such as the last of an epoch, replay
            their graph as it is. ``None`` for those of the first batch.
    """

    def __init__(
        self,
        function: TensorFunction,
        modules: Sequence[nn.Module],
        optimise: Optimise | None = None,
        rows: int | None = None,
    ) -> None:
        self.function, self.modules, self.optimise, self.rows = function, list(modules), optimise, rows
        self.reason: str | None = None
        self._graphs: dict[Any, TensorFunction] = {}
        self._numbers = _numbers(self.modules)

    def __call__(self, *batch: Tensor) -> Sequence[Tensor]:
        """Returns what the function returns, without a history for autograd."""
        key = self._key(batch)
        run = self._graphs.get(key)
        if run is None:
            try:
                if len(self._graphs) >= MAX_SHAPES:
                    raise UntraceableError(f"batches come in more than {MAX_SHAPES} shapes")
                run = self.prepare(*batch)
            except UntraceableError as error:
                if self.reason is None:
                    self.reason = str(error)
                    message = f"training runs without a graph, since the loss cannot be traced: {self.reason}"
                    warnings.warn(message, stacklevel=3)
                run = self._graphs[key] = self.function
        return run(*batch)

    def prepare(self, *batch: Tensor) -> TensorFunction:
        """Traces, and perhaps compiles, for batches of this shape.

        Raises:
            UntraceableError: If the function cannot be replayed, with the reason.
        """
        if self.reason is not None:
            raise UntraceableError(self.reason)
        graph, state = capture(self.function, batch, self.modules)
        run: TensorFunction = graph
        self.rows = len(batch[0]) if self.rows is None else self.rows
        if self.optimise is not None and len(batch[0]) == self.rows:
            run = self.optimise(graph, [t.detach() for t in (*state, *batch)])

        @torch.no_grad()
        def replay(*batch: Tensor) -> Sequence[Tensor]:
            return run(*state, *batch)

        self._graphs[self._key(batch)] = replay
        return replay

    def refresh(self) -> None:
        """Forgets the graphs if a number or a mode of a module has changed since they were made."""
        numbers = _numbers(self.modules)
        if numbers != self._numbers:
            self._graphs.clear()
            self._numbers = numbers

    def _key(self, batch: Batch) -> Any:
        shapes = [(t.shape, t.stride(), t.dtype) for t in batch]
        return (*shapes, torch.is_autocast_enabled(batch[0].device.type), *(m.training for m in self.modules))


class Traced(nn.Module):
    """A loss whose forward and backward pass are one graph; made by :func:`trace`.

    Attributes:
        objective: The loss module, to which the parameters belong.
    """

    def __init__(self, objective: nn.Module, optimise: Optimise | None = None) -> None:
        super().__init__()
        self.objective = objective
        self.learned = [p for p in objective.parameters() if p.requires_grad]
        self._replay = Replay(loss_and_gradients(objective, self.learned), [objective], optimise)
        self._loss = differentiable(self._replay, self.learned)

    @property
    def reason(self) -> str | None:
        """Why the loss is not replayed but run; ``None`` if it is replayed."""
        return self._replay.reason

    def forward(self, *batch: Tensor) -> Tensor:
        """Returns the loss of the batch, differentiable once, towards the parameters."""
        return self._loss(*batch)


class _Loss(torch.autograd.Function):
    """The loss with the gradients that came with it."""

    @staticmethod
    def forward(ctx: Any, replay: Replay, batch: Batch, *parameters: Tensor) -> Tensor:
        loss, *ctx.gradients = replay(*batch)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(g if g is None else weight * g for g in ctx.gradients)


def differentiable(replay: Replay, parameters: Sequence[Tensor]) -> Callable[..., Tensor]:
    """Returns the function from a batch to the loss, differentiable once, of a replay of loss and gradients."""
    return lambda *batch: _Loss.apply(replay, batch, *parameters)


def trace(objective: nn.Module, example_batch: Tensor | Batch, optimise: Optimise | None = None) -> Traced:
    """Traces a loss and its gradient into one graph of tensor operations.

    Args:
        objective: A module that maps a batch to a scalar loss: an objective bound to a model, or Pyro's
            ``Trace_ELBO()(model, guide)``. It must have been called once if it creates parameters then.
        example_batch: A batch, x or (x, context), of the shape to trace; others are traced when they come.
        optimise: What compiles the graph, e.g. :func:`pyro_dgm.training.compilation.inductor`; ``None`` replays it as
            it is.

    Returns:
        A module that maps a batch to the loss, with ``backward`` at no further cost.

    Raises:
        UntraceableError: If the loss cannot be replayed, with the reason.

    Example:
        >>> from pyro_dgm.models import RealNVP
        >>> flow = RealNVP(2)
        >>> x = torch.randn(8, 2)
        >>> loss = trace(flow.objective()(flow), x)(x)
        >>> bool(loss == -flow().log_prob(x).mean())
        True
    """
    traced = Traced(objective, optimise)
    traced._replay.prepare(*(example_batch if isinstance(example_batch, tuple) else (example_batch,)))
    return traced


def loss_and_gradients(loss: Callable[..., Tensor], parameters: Sequence[Tensor]) -> TensorFunction:
    """Returns the function from a batch to the loss and its gradients, ``None`` where a parameter takes no part."""

    def function(*batch: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            value = loss(*batch)
        return [value.detach(), *torch.autograd.grad(value, parameters, allow_unused=True)]

    return function


def capture(function: TensorFunction, batch: Batch, modules: Iterable[nn.Module]) -> tuple[GraphModule, list[Tensor]]:
    """Returns the graph of a function on a batch, and the tensors from outside that are its first inputs.

    Raises:
        UntraceableError: If the function cannot be replayed, with the reason.
    """
    modules = list(modules)
    with unchanged(batch[0].device):
        graph, state = _capture(function, batch, modules)
        again, state_again = _capture(function, batch, modules)
    if graph.code != again.code or [*map(id, state)] != [*map(id, state_again)] or not _same_constants(graph, again):
        raise UntraceableError(
            "two calls gave different operations or numbers; numbers that change from step to step (a counter, "
            "numpy's random numbers) belong in a buffer or have to be drawn by torch"
        )
    return graph, state


def _capture(function: TensorFunction, batch: Batch, modules: list[nn.Module]) -> tuple[GraphModule, list[Tensor]]:
    from torch.fx.experimental.proxy_tensor import make_fx

    def kept(*batch: Tensor) -> list[Tensor]:
        with pyro.validation_enabled(False), _values_stay_tensors():
            outputs = function(*batch)
        _rebinding_becomes_copying(buffers)
        return list(outputs)

    buffers = [(m, name, b) for root in modules for m in root.modules() for name, b in m._buffers.items()]
    before = [b if b is None else b.detach().clone() for _, _, b in buffers]
    try:
        graph = make_fx(kept)(*(t.detach() for t in batch))
    except Exception as error:  # whatever the tracer or the program raises: the program itself decides what it meant
        raise UntraceableError(_reason(error)) from error
    finally:
        for (module, name, buffer), value in zip(buffers, before, strict=True):
            module._buffers[name] = buffer
            if buffer is not None:
                with torch.no_grad():
                    buffer.copy_(value)
    _refuse_dynamic_shapes(graph)
    return graph, _lift(graph)


def _rebinding_becomes_copying(buffers: list[tuple[nn.Module, str, Tensor | None]]) -> None:
    """``self.count = self.count + 1`` would change nothing when replayed; the copy that stands for it does."""
    for module, name, buffer in buffers:
        now = module._buffers.get(name)
        if now is buffer:
            continue
        if buffer is None or now is None or now.shape != buffer.shape:
            raise UntraceableError(f"the buffer {name!r} changes its shape")
        with torch.no_grad():
            buffer.copy_(now)


class _ValuesStayTensors(TorchFunctionMode):
    """Pyro's objectives look at values in two places, both of which tensor arithmetic can say.

    ``x.item()``, by which they cut gradients, gives a detached tensor. And where ``TraceEnum_ELBO`` leaves out terms
    of probability zero, they are kept and count nothing.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.item:
            return args[0].detach()
        if sys._getframe(1).f_code is Dice.compute_expectation.__code__:
            if func is torch.Tensor.all:
                return False
            if func is torch.Tensor.masked_select:
                return torch.where(args[1], args[0], 0.0)
        return func(*args, **(kwargs or {}))


@contextmanager
def _values_stay_tensors() -> Iterator[None]:
    """Within, nothing in Pyro's objectives looks at the value of a tensor; the loop looks for NaN itself."""
    import pyro.util

    names = ("torch_isnan", "torch_isinf")
    functions = [getattr(pyro.util, name) for name in names]
    try:
        for name in names:
            setattr(pyro.util, name, lambda _: False)
        with _ValuesStayTensors():
            yield
    finally:
        for name, function in zip(names, functions, strict=True):
            setattr(pyro.util, name, function)


def _lift(graph: GraphModule) -> list[Tensor]:
    """Turns the tensors that the graph holds into its first inputs, each once, and returns them."""
    state: list[Tensor] = []
    inputs: dict[int, Node] = {}
    start = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        if node.op != "get_attr" or _is_constant(node):
            continue
        tensor = getattr(graph, node.target)
        if id(tensor) not in inputs:
            with graph.graph.inserting_before(start):
                inputs[id(tensor)] = graph.graph.placeholder(f"state_{len(state)}")
            state.append(tensor)
        node.replace_all_uses_with(inputs[id(tensor)])
        graph.graph.erase_node(node)
        if not any(n.op == "get_attr" and n.target == node.target for n in graph.graph.nodes):
            delattr(graph, node.target)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return state


def _is_constant(node: Node) -> bool:
    """Whether the node is a number written in the program (``torch.tensor(0.5)``)."""
    lifts = (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default)
    return all(user.target in lifts for user in node.users)


def _same_constants(one: GraphModule, other: GraphModule) -> bool:
    names = {n.target for n in one.graph.nodes if n.op == "get_attr"}
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def _refuse_dynamic_shapes(graph: GraphModule) -> None:
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.dynamic_output_shape not in tags:
            continue
        if node.target is torch.ops.aten.index.Tensor and not any(_is_mask(i) for i in node.args[1]):
            continue
        raise UntraceableError(f"the shape of a result depends on data ({node.target}); use torch.where")


def _is_mask(index: Node | None) -> bool:
    return index is not None and index.meta["val"].dtype in (torch.bool, torch.uint8)


def _reason(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    if "get a value out of a tracing tensor" in text or "_local_scalar_dense" in text:
        return "the program asks for the value of a tensor (a branch, a number, a solver that chooses its steps)"
    return text if isinstance(error, UntraceableError) else f"{type(error).__name__}: {text}"


def _numbers(modules: Iterable[nn.Module]) -> dict[tuple[int, str], Any]:
    """The modes and numbers that modules and objectives hold: what a trace has read and cannot see change."""
    plain = (bool, int, float, str, type(None))
    parts: list[Any] = [part for root in modules for part in root.modules()]
    parts += [value for part in parts for value in vars(part).values() if isinstance(value, ELBO)]
    return {(id(part), name): value for part in parts for name, value in vars(part).items() if isinstance(value, plain)}
