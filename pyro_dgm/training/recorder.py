r"""Writes down the tensor operations of a function while it runs.

.. math::
    t_1 = o_1(x, s), \quad t_2 = o_2(t_1, x, s), \quad \dots

Below autograd, where nothing but tensor operations is left of a program, each of them is run and becomes a node
:math:`o_i` of a graph. A tensor is known by its identity: what no operation of the function has made comes from
elsewhere, and becomes an input :math:`s` when it is first used.

``make_fx`` of PyTorch records the same operations. It also makes a fake twin of every result and reads the call stack
for it, which compilers may ask for and replaying does not; that takes twenty times as long as all the rest.
"""

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .data import Batch

LIFTS = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)


class UntraceableError(RuntimeError):
    """A program that cannot be replayed as a fixed list of tensor operations."""


class Made(NamedTuple):
    """What is known of the result of an operation: ``node.meta["made"]``."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "Made":
        """Describes a tensor."""
        strides = tensor.stride() if tensor.layout == torch.strided else ()
        return cls(tensor.shape, strides, tensor.dtype, tensor.device)


class Recorder(TorchDispatchMode):
    """Within, tensor operations are written down.

    Numbers written in the program (``torch.tensor(0.5)``) are copied into the graph, and what is computed from such
    scalars alone may be asked for its value.

    Args:
        batch: The function's arguments.

    Attributes:
        state: The tensors from elsewhere, each once.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.state: list[Tensor] = []
        self._graph, self._constants = Graph(), nn.Module()
        self._nodes: Any = WeakTensorKeyDictionary()
        self._fixed: set[int] = set()  # the memory of scalars whose values are the same at every call
        for number, tensor in enumerate(batch):
            self._add(tensor, self._graph.placeholder(f"batch_{number}"))
        self._first = next(iter(self._graph.nodes))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for kind in types:
            if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
                raise UntraceableError(f"it computes with a {kind.__name__}, whose operations are not those of tensors")
        tensors = tensors_in(args, kwargs)
        made = [t for t in tensors if t in self._nodes]
        fixed = all(memory(t) in self._fixed for t in made)
        if torch.Tag.data_dependent_output in func.tags:
            if not fixed:
                raise UntraceableError(
                    "the program asks for the value of a tensor (a branch, a number, a solver that chooses its steps)"
                )
            return func(*args, **kwargs)
        self._refuse_dynamic_shapes(func, args)
        constant = func in LIFTS and not made
        if constant:
            node = self._graph.call_function(LIFTS[1], (self._constant(args[0]),))
        else:
            node = self._graph.call_function(func, map_aggregate(args, self._node), map_aggregate(kwargs, self._node))
        result = func(*args, **kwargs)
        self._add(result, node)
        results = tensors_in(result)
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        if fixed and (made or constant) and not drawn and all(t.numel() == 1 for t in results):
            self._fixed |= {*map(memory, results)} - {0}
        else:
            self._fixed -= {*map(memory, tensors + results if func._schema.is_mutable else results)}
        return result

    def graph(self, outputs: Sequence[Tensor | None]) -> GraphModule:
        """Returns what was recorded as a function of the tensors from elsewhere and the batch."""
        self._graph.output([None if t is None else self._node(t) for t in outputs])
        self._graph.eliminate_dead_code()
        return GraphModule(self._constants, self._graph)

    def _node(self, value: Any) -> Any:
        """Returns the node of a tensor; anything else is written down as it is."""
        if isinstance(value, torch.Generator | torch.ScriptObject):
            raise UntraceableError(f"it draws from or calls a {type(value).__name__} of its own")
        if not isinstance(value, Tensor):
            return value
        node = self._nodes.get(value)
        if node is None:
            with self._graph.inserting_before(self._first):
                node = self._graph.placeholder(f"state_{len(self.state)}")
            self.state.append(value)
            self._add(value, node)
        return node

    def _add(self, result: Any, node: Node) -> None:
        if isinstance(result, Tensor):
            self._nodes[result] = node
            node.meta["made"] = Made.of(result)
        elif isinstance(result, list | tuple):
            for place, each in enumerate(result):
                if isinstance(each, Tensor):
                    self._add(each, self._graph.call_function(operator.getitem, (node, place)))

    def _constant(self, value: Tensor) -> Node:
        name = f"constant_{len(self._constants._buffers)}"
        self._constants.register_buffer(name, value.detach().clone())
        return self._graph.create_node("get_attr", name)

    def _refuse_dynamic_shapes(self, func: Any, args: Any) -> None:
        if torch.Tag.dynamic_output_shape not in func.tags:
            return
        masks = [i for i in tensors_in(*args[1:]) if i.dtype in (torch.bool, torch.uint8)]
        if func is torch.ops.aten.index.Tensor and not masks:
            return
        raise UntraceableError(f"the shape of a result depends on data ({func}); use torch.where")


@contextmanager
def recording(batch: Batch) -> Iterator[Recorder]:
    """Within, tensor operations are written down, weights that autocast has cast before among them."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with Recorder(batch) as recorder:
            yield recorder
    finally:
        torch.set_autocast_cache_enabled(cached)


def memory(tensor: Tensor) -> int:
    """Which memory a tensor is a view of; 0 for one that has none."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else 0


def tensors_in(*values: Any) -> list[Tensor]:
    """Returns the tensors among the arguments or results of an operation."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found
