r"""A loss as one graph of tensor operations: traced once, replayed at every step.

Running a Pyro program costs more than its arithmetic where models are small: effect handlers, distributions, argument
checks and autograd's bookkeeping are Python. None of it depends on the values of tensors, so it is run once, under the
tracer, handlers and all; what is left is

.. math::
    (x, c) \mapsto (L, \nabla_\theta L)

as a list of tensor operations (:mod:`pyro_dgm.training.graph`), forward and backward, that can be replayed, or
optimised by Inductor (:mod:`pyro_dgm.training.compilation`). Random draws are operations of that list, so they stay
random. What cannot be replayed is run as it is.

What Python holds (a number in an attribute, an entry of a list, which tensor a name stands for) is read when the
program is traced. :meth:`Replay.refresh`, which ``fit`` calls after its callbacks, notices that something of that has
changed (:mod:`pyro_dgm.training.python_state`), and traces again; what changes at every step belongs in a buffer.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from .data import Batch
from .graph import Buffers, TensorFunction, UntraceableError, buffers_of, capture, same_graph
from .python_state import changed, python_state

Optimise = Callable[[GraphModule, Sequence[Tensor]], TensorFunction]

MAX_SHAPES = 16
MOST_TRACES, STEPS_PER_TRACE = 8, 50


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
        self._captures: dict[Any, tuple[GraphModule, list[Tensor], TensorFunction]] = {}
        self._state: dict[str, Any] | None = None
        self._adopted: Buffers = []
        self._learned = self._flags()
        self._traces = self._calls = 0

    def __call__(self, *batch: Tensor) -> Sequence[Tensor]:
        """Returns what the function returns, without a history for autograd."""
        key = self._key(batch)
        run = self._graphs.get(key)
        self._calls += 1
        if run is None:
            try:
                if len(self._graphs) >= MAX_SHAPES:
                    raise UntraceableError(f"batches come in more than {MAX_SHAPES} shapes")
                run = self.prepare(*batch)
            except UntraceableError as error:
                self._refuse(str(error))
                run = self._graphs[key] = self.function
        return run(*batch)

    def prepare(self, *batch: Tensor) -> TensorFunction:
        """Traces, and perhaps compiles, for batches of this shape.

        Raises:
            UntraceableError: If the function cannot be replayed, with the reason.
        """
        if self.reason is not None:
            raise UntraceableError(self.reason)
        key = self._key(batch)
        graph, state = capture(self.function, batch, self.modules)
        if self._state is None:
            self._state, self._adopted = python_state(self.modules), buffers_of(self.modules)
        self._traces += 1
        run: TensorFunction = graph
        self.rows = len(batch[0]) if self.rows is None else self.rows
        if key in self._captures and same_graph((graph, state), self._captures[key][:2]):
            run = self._captures[key][2]  # what has changed does not matter
        elif self.optimise is not None and len(batch[0]) == self.rows:
            run = self.optimise(graph, [t.detach() for t in (*state, *batch)])
        self._captures[key] = graph, state, run

        def replay(*batch: Tensor) -> Sequence[Tensor]:
            if not torch.is_grad_enabled():  # as in the loop, where entering a context would cost more than the step
                return run(*state, *batch)
            with torch.no_grad():
                return run(*state, *batch)

        self._graphs[key] = replay
        return replay

    def refresh(self) -> None:
        """Forgets the graphs if something that Python holds has changed since they were made."""
        before, self._learned = self._learned, self._flags()
        if self._state is None:
            return
        self._adopt()
        name = changed(self._state, python_state(self.modules))
        if name is None and before != self._learned:
            name = "requires_grad"
        if name is None:
            return
        self._graphs.clear()
        self._state = None
        if self._traces > MOST_TRACES and self._calls < STEPS_PER_TRACE * self._traces:
            self._refuse(f"{name!r} changes too often to trace again whenever it does; make it a buffer")

    def _flags(self) -> list[bool]:
        return [p.requires_grad for module in self.modules for p in module.parameters()]

    def _adopt(self) -> None:
        """A buffer that has been bound anew (``model.beta = torch.tensor(0.5)``) gives its value to the graph's."""
        values = [(m, name, buffer, m._buffers.get(name)) for m, name, buffer in self._adopted]
        values = [(m, name, b, now if now is b or now is None else now.clone()) for m, name, b, now in values]
        for module, name, buffer, now in values:  # cloned first: two may have changed places
            if now is buffer or now is None or buffer is None:
                continue
            if (now.shape, now.dtype, now.device) != (buffer.shape, buffer.dtype, buffer.device):
                self._state = {}  # another buffer altogether
                continue
            with torch.no_grad():
                module._buffers[name] = buffer.copy_(now)

    def _refuse(self, reason: str) -> None:
        """Says once why there will be no graph."""
        if self.reason is None:
            self.reason = reason
            message = f"training runs without a graph, since the loss cannot be traced: {reason}"
            warnings.warn(message, stacklevel=4)

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

    def refresh(self) -> None:
        """Traces again at the next call if a number, list or mode that Python holds has been changed since."""
        self._replay.refresh()

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
        A module that maps a batch to the loss, with ``backward`` at no further cost. It follows its tensors; after
        changing anything else that the objective reads, call its ``refresh()``.

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
        learned = [p for p in parameters if p.requires_grad]
        gradients: Sequence[Tensor | None] = torch.autograd.grad(value, learned, allow_unused=True) if learned else ()
        if len(learned) < len(parameters):  # some have been frozen since the start
            found = iter(gradients)
            gradients = [next(found) if p.requires_grad else None for p in parameters]
        return [value.detach(), *(_in_layout(g, p) for g, p in zip(gradients, parameters, strict=True))]

    return function


def _in_layout(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """Gives a gradient the strides of its parameter, as ``backward`` does and fused optimizers take for granted."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
