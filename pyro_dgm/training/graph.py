r"""A function of tensors as a graph: its operations, and the tensors from outside that it uses.

.. math::
    f(x) = G(s, x), \qquad s = \text{the tensors that } f \text{ finds elsewhere}

The function is run once, and its tensor operations are written down (:mod:`pyro_dgm.training.recorder`). Every tensor
that the function finds elsewhere (in a module, in Pyro's parameter store, in a closure) becomes an input: the very same
object, so that whoever changes it is seen, and so that what the function changes in place is changed in place.

That is right for later calls only if the operations and numbers do not depend on what this call happened to see. So
the function is traced twice and has to give the same both times, may change no number that Python holds, may ask for
the value of no tensor, and may have no shape that depends on one; and its graph, replayed once, has to give what the
function itself gives with the same random numbers, and draw as many. All of that leaves no tensor changed.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import pyro
import torch
from pyro.infer.util import Dice
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .data import Batch
from .python_state import changed, python_state
from .randomness import get_state, unchanged
from .recorder import UntraceableError, memory, recording, tensors_in

TensorFunction = Callable[..., Sequence[Tensor]]


_one_thread = threading.RLock()  # Pyro's functions are replaced while a program is traced


def capture(function: TensorFunction, batch: Batch, modules: Iterable[nn.Module]) -> tuple[GraphModule, list[Tensor]]:
    """Returns the graph of a function on a batch, and the tensors from outside that are its first inputs.

    Raises:
        UntraceableError: If the function cannot be replayed, with the reason.
    """
    modules = list(modules)
    with unchanged(batch[0].device), undone(buffers_of(modules)), pyro.validation_enabled(False):
        try:
            function(*batch)  # what a program makes at its first call with such a batch, a mask, say, is there then
        except Exception as error:
            raise UntraceableError(_reason(error)) from error
    numbers = python_state(modules, identities=False)
    with unchanged(batch[0].device):
        graph, state = _capture(function, batch, modules)
        again, state_again = _capture(function, batch, modules)
    if not same_graph((graph, state), (again, state_again)):
        raise UntraceableError(
            "two calls gave different operations or numbers; numbers that change from step to step (a counter, "
            "numpy's random numbers) belong in a buffer or have to be drawn by torch"
        )
    name = changed(numbers, python_state(modules, identities=False))
    if name is not None:
        raise UntraceableError(f"every call changes {name!r}, which Python holds; a graph cannot: make it a buffer")
    _check(function, graph, state, batch, modules)
    return graph, state


def same_graph(one: tuple[GraphModule, list[Tensor]], other: tuple[GraphModule, list[Tensor]]) -> bool:
    """Whether two captures are the same operations on the same tensors."""
    same = one[0].code == other[0].code and [*map(id, one[1])] == [*map(id, other[1])]
    return same and _same_constants(one[0], other[0])


def _capture(function: TensorFunction, batch: Batch, modules: list[nn.Module]) -> tuple[GraphModule, list[Tensor]]:
    buffers, batch = buffers_of(modules), tuple(t.detach() for t in batch)
    try:
        with undone(buffers), recording(batch) as recorder:
            with pyro.validation_enabled(False), _values_stay_tensors():
                outputs = function(*batch)
            _rebinding_becomes_copying(buffers)
        return recorder.graph(outputs), recorder.state
    except Exception as error:  # whatever the recorder or the program raises: the program itself decides what it meant
        raise UntraceableError(_reason(error)) from error


def _check(
    function: TensorFunction, graph: GraphModule, state: list[Tensor], batch: Batch, modules: list[nn.Module]
) -> None:
    """Compares one replay with the function itself, both from the same random state and the same tensors."""
    device = batch[0].device

    def run(call: Callable[[], Sequence[Tensor | None]]) -> tuple[list[Tensor | None], list[Any]]:
        buffers = buffers_of(modules)
        with unchanged(device), undone(buffers), pyro.validation_enabled(False):
            outputs = [*call(), *(module._buffers[name] for module, name, _ in buffers)]
            outputs = [None if t is None else t.detach().clone() for t in outputs]
            return outputs, tree_leaves(get_state(device))

    try:
        expected, drawn = run(lambda: function(*batch))
        with torch.no_grad():
            got, drawn_by_graph = run(lambda: graph(*state, *batch))
    except Exception as error:
        raise UntraceableError(f"its graph cannot be replayed ({_reason(error)})") from error
    same = all(map(_equal, drawn, drawn_by_graph)) and all(map(_close, expected, got))
    if not same:
        raise UntraceableError(
            "its graph gives something else than the program, which draws from another generator than torch's, sets "
            "the random state, recomputes random numbers (activation checkpoints), or depends on what calls change"
        )


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    one, other = (t.to(torch.complex128 if t.is_complex() else torch.float64).nan_to_num() for t in (one, other))
    return bool((one - other).norm() <= 1e-3 * one.norm() + 1e-6)


class _Undo(TorchDispatchMode):
    """Remembers every tensor from before that an operation is about to change in place."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.keep = False
        self.made: set[int] = set()  # memory that is new, such as that of a parameter made at the first call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for place, name in _written(func):
            for tensor in tensors_in(args[place] if place < len(args) else kwargs.get(name)):
                if id(tensor) not in self.before and memory(tensor) not in self.made:
                    self.before[id(tensor)] = (tensor, tensor.detach().clone())
        result = func(*args, **kwargs)
        seen = set() if "lift_fresh" in func.name() else {*map(memory, tensors_in(args, kwargs))}
        self.made |= {*map(memory, tensors_in(result))} - seen
        return result


@cache
def _written(func: Any) -> list[tuple[int, str]]:
    """The places and names of the arguments that an operation changes in place."""
    undeclared = ("running_mean", "running_var")  # of batch_norm
    arguments = enumerate(func._schema.arguments)
    return [(i, a.name) for i, a in arguments if (a.alias_info and a.alias_info.is_write) or a.name in undeclared]


Buffers = list[tuple[nn.Module, str, Tensor | None]]


@contextmanager
def undone(buffers: Buffers = ()) -> Iterator[_Undo]:
    """Within, tensors may be changed in place and buffers bound anew: at the end all are what they were.

    Unless ``keep`` of what it yields is set.
    """
    undo = _Undo()
    try:
        with undo:
            yield undo
    finally:
        for module, name, buffer in () if undo.keep else buffers:
            module._buffers[name] = buffer
        with torch.no_grad():
            for tensor, value in () if undo.keep else reversed(undo.before.values()):
                if tensor.shape == value.shape:
                    tensor.copy_(value)


def buffers_of(modules: Iterable[nn.Module]) -> Buffers:
    """Returns every buffer with its module and name."""
    return [(m, name, b) for root in modules for m in root.modules() for name, b in m._buffers.items()]


def _rebinding_becomes_copying(buffers: Buffers) -> None:
    """``self.count = self.count + 1`` would change nothing when replayed; the copy that stands for it does."""
    copies: list[tuple[Tensor, Tensor]] = []
    for module, name, buffer in buffers:
        now = module._buffers.get(name)
        if now is buffer:
            continue
        if buffer is None or now is None or now.shape != buffer.shape:
            raise UntraceableError(f"the buffer {name!r} changes its shape")
        copies.append((buffer, now.clone()))  # before any is overwritten: two may change places
    with torch.no_grad():
        for buffer, value in copies:
            buffer.copy_(value)


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
    _one_thread.acquire()
    functions = [getattr(pyro.util, name) for name in names]
    try:
        for name in names:
            setattr(pyro.util, name, lambda _: False)
        with _ValuesStayTensors():
            yield
    finally:
        for name, function in zip(names, functions, strict=True):
            setattr(pyro.util, name, function)
        _one_thread.release()


def _same_constants(one: GraphModule, other: GraphModule) -> bool:
    names = {n.target for n in one.graph.nodes if n.op == "get_attr"}
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def _reason(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, UntraceableError) else f"{type(error).__name__}: {text}"
