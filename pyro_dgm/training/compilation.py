r"""When a run is compiled, and by what.

Inductor turns the graph of a traced step (:mod:`pyro_dgm.training.tracing`) into C++ or GPU kernels. That takes
seconds, and saves Python's and autograd's cost of every operation from then on, so with n operations in the graph it
pays after

.. math::
    \text{steps} > \frac{a + b\, n}{s\, n}

steps, where a graph takes about :math:`a + b n` seconds to trace and compile and every operation costs :math:`s`
seconds less. The constants were fitted to twelve models of 100 to 3500 operations on a CPU; the rule meets the numbers
of steps of most within a factor of two or three, and is late where a few large products are all the work
(``benchmarks/results/compilation.md``). It looks at nothing that differs
between two runs, so that a run that is resumed is compiled exactly if it was before. A run of fewer than :math:`b / s`
steps is not even traced.
"""

import copy
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.fx import GraphModule

from .graph import TensorFunction

COMPILE_SECONDS, COMPILE_SECONDS_PER_OPERATION, SAVED_PER_OPERATION = 5.0, 0.0065, 4e-6
LARGE_PRODUCT = 8_000_000  # operations; below, MKL's smaller cost per call wins, and in sums of many short products too
MANY_NUMBERS = 10_000  # fewer cost less than the call of an operation of ours
FEWEST_STEPS = round(COMPILE_SECONDS_PER_OPERATION / SAVED_PER_OPERATION)


def steps_to_repay(operations: int) -> int:
    """Returns after how many steps the compilation of a graph of so many operations has repaid itself."""
    cost = COMPILE_SECONDS + COMPILE_SECONDS_PER_OPERATION * operations
    return math.ceil(cost / (SAVED_PER_OPERATION * max(1, operations)))


def inductor(graph: GraphModule, inputs: Sequence[Tensor]) -> TensorFunction:
    """Compiles a graph for tensors of the shapes of ``inputs``.

    Random numbers are those that the program itself would draw from torch's generator. On a GPU the kernels are
    recorded as one CUDA graph. If there is nothing to compile with (no C++ compiler), the graph is returned as it is,
    with a warning.
    """
    validation = Distribution._validate_args
    try:
        if inputs[0].device.type == "cuda":
            return _cuda_graph(graph, inputs)
        import torch._inductor

        with torch.no_grad():
            prepared = _by_aten(graph)
            if _mkl_is_slow():
                prepared = _by_onednn(prepared, inputs)
            return torch._inductor.compile(prepared, list(inputs), options={"fallback_random": True})
    except Exception as error:  # a missing compiler, an operation without a kernel: the graph itself is right
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"training replays its graph without compiling it: {reason}", stacklevel=2)
        return graph
    finally:
        # torch.compile switches the argument checks of torch.distributions off in the whole process
        Distribution.set_default_validate_args(validation)


def inductor_if_it_repays(steps: int, graph: GraphModule, inputs: Sequence[Tensor]) -> TensorFunction:
    """Compiles a graph if that repays itself in so many steps; else the graph is replayed as it is."""
    return inductor(graph, inputs) if steps >= steps_to_repay(operations_of(graph)) else graph


def operations_of(graph: GraphModule) -> int:
    """Returns the number of operations in a graph."""
    return sum(node.op == "call_function" for node in graph.graph.nodes)


def _operation(schema: str, kernel: Callable[..., Tensor], shaped: Callable[..., Tensor]) -> Any:
    """Returns a kernel as an operation that Inductor calls as it is; ``shaped`` makes an empty result."""
    library, name = torch.library.Library("pyro_dgm", "FRAGMENT"), schema.partition("(")[0]
    library.define(schema)
    library.impl(name, kernel, "CPU")
    library.impl(name, shaped, "Meta")
    _libraries.append(library)
    return getattr(torch.ops.pyro_dgm, name).default


_libraries: list[Any] = []  # an operation lives as long as its library


@functools.cache
def _product() -> Any:
    """Returns oneDNN's product a W^T + b; Inductor's own call of it wants W constant."""
    linear = torch.ops.mkldnn._linear_pointwise.default
    return _operation(
        "product(Tensor a, Tensor weight, Tensor? bias) -> Tensor",
        lambda a, weight, bias: linear(a, weight, bias, "none", [], ""),
        lambda a, weight, bias: a.new_empty(a.shape[0], weight.shape[0]),
    )


@functools.cache
def _tanh() -> Any:
    """Returns ATen's hyperbolic tangent, which takes a sixth of the time of Inductor's."""
    return _operation("tanh(Tensor x) -> Tensor", torch.tanh, torch.empty_like)


@functools.cache
def _mkl_is_slow() -> bool:
    """Whether oneDNN is worth calling: on processors of AMD at up to twice MKL's speed, on Intel's never faster."""
    name = torch.cpu.get_capabilities().get("cpu_name", "") if hasattr(torch.cpu, "get_capabilities") else ""
    return torch.backends.mkldnn.is_available() and "Intel" not in name


def _by_aten(graph: GraphModule) -> GraphModule:
    """Returns the graph with hyperbolic tangents of many numbers computed by ATen."""
    graph = copy.deepcopy(graph)
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.tanh.default):
        made = node.meta["made"]
        if made.dtype == torch.float32 and made.device.type == "cpu" and math.prod(made.shape) >= MANY_NUMBERS:
            node.target = _tanh()
    graph.recompile()
    return graph


def _by_onednn(graph: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """Returns the graph with its larger matrix products computed by oneDNN."""
    graph, aten = copy.deepcopy(graph), torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, a, b = node.args
        values = [n.meta["made"] for n in node.args]
        (m, k), n = values[-2].shape, values[-1].shape[1]
        plain = all(v.dtype == torch.float32 and v.device.type == "cpu" for v in values) and all(
            v.strides in ((v.shape[1], 1), (1, v.shape[0])) for v in values[-2:]
        )  # of a slice, whose rows are further apart, oneDNN may take a thousand times as long
        if (
            not plain
            or 2 * m * k * n < LARGE_PRODUCT
            or k > 4 * max(m, n)
            or (bias and (values[0].shape, values[0].strides) != ((n,), (1,)))
        ):
            continue
        with graph.graph.inserting_before(node):
            weight = b.args[0] if b.target is aten.t.default else graph.graph.call_function(aten.t.default, (b,))
            linear = graph.graph.call_function(_product(), (a, weight, bias[0] if bias else None))
        linear.meta["made"] = node.meta["made"]
        node.replace_all_uses_with(linear)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _cuda_graph(graph: GraphModule, inputs: Sequence[Tensor]) -> TensorFunction:
    compiled = torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def step(*tensors: Tensor) -> Sequence[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*tensors)

    return step
