r"""Weights that are shared out among the processes: PyTorch's fully sharded data parallelism, around a game.

Of n processes each keeps the n-th part of every weight, cut along dimension 0, and so of its gradient, of the
optimizer's state, of the moving average and of the best weights so far. A step gathers the weights, computes the loss
of this process's data, and leaves to each process its part of

.. math::
    g = \frac{1}{n} \sum_{r=1}^n \nabla_\theta L(x_r; \theta)

so weights and gradients are whole during a step, and nothing is in between. Weights are gathered all at once: what a
model returns is a distribution, which calls the model's networks when it is asked for a density, so no part of a model
is known to be done with its weights before the loss is there. What is saved is the memory for the rest: with Adam, an
average and validation five more copies of the weights, the last finite ones among them.

FSDP works on a module of ours that holds the parameters under numbers, and never meets the user's modules. Those hold,
in the places of their parameters, the gathered weights during a step, the parts in between, and the parameters
themselves, which are whole again, whenever anybody else looks.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch import distributed as dist

from .moves import Game
from .parts import copy_, full

PATIENCE = timedelta(seconds=10)  # how long a process that fails waits for the others' parts


@dataclass
class Weight:
    """A parameter and what stands for it.

    Attributes:
        original: The parameter; empty while its weights are shared out.
        slots: The modules that hold it, and under which name.
        part: What this process has of it, for optimizers: a ``DTensor``.
        name: Its name in the module that FSDP works on; ``None`` if all processes keep the whole of it.
    """

    original: nn.Parameter
    slots: list[tuple[nn.Module, str]] = field(default_factory=list)
    part: Any = None
    name: str | None = None

    def place(self, tensor: nn.Parameter) -> None:
        """Puts a tensor into the places of the parameter."""
        for module, name in self.slots:
            module._parameters[name] = tensor
            if isinstance(module, nn.RNNBase):  # keeps a second list of its weights
                module._flat_weights = [module._parameters.get(n) for n in module._flat_weights_names]


class Sharded(nn.Module):
    """A game whose weights are shared out; called like the game, it gathers them first.

    All processes keep the whole of a parameter without dimensions, of one that is not contiguous or of another dtype
    than the first, and of those that Pyro's parameter store holds, since Pyro's programs look there.

    Args:
        game: The game; its players get the parts for parameters, and :attr:`Game.whole` gets a meaning.
        device: This process's device.
        world_size: Number of processes.
    """

    def __init__(self, game: Game, device: torch.device, world_size: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor, Replicate

        super().__init__()
        self._game = (game,)  # in a tuple FSDP looks for no modules
        self.world_size = world_size
        mesh = init_device_mesh(device.type, (world_size,))
        self._whole: Callable[[Tensor], Tensor] = lambda t: DTensor.from_local(t, mesh, [Replicate()], run_check=False)
        self._store = pyro.get_param_store().get_state()
        self.weights = _weights(game, {id(leaf) for leaf in self._store["params"].values()})
        for tensor in (*(weight.original for weight in self.weights), *game.buffers()):
            _broadcast(tensor)
        for weight in self.weights:
            weight.original.grad = None
            if weight.name is not None:
                self.register_parameter(weight.name, weight.original)
        self.cut = [weight for weight in self.weights if weight.name is not None]
        fully_shard(self, mesh=mesh, reshard_after_forward=False)
        for weight in self.weights:
            original = weight.original
            if weight.name is not None:
                weight.part = self._parameters[weight.name]
            else:
                part = self._whole(original.detach())  # the same memory: a step of the one is a step of the other
                weight.part = nn.Parameter(part, requires_grad=original.requires_grad)
        parts = {weight.original: weight.part for weight in self.weights}
        self._players = list(game.players)
        self._shares = [replace(p, parameters=tuple(parts[each] for each in p.parameters)) for p in game.players]
        self._versions = {buffer: buffer._version for buffer in game.buffers()}
        game.whole = self.whole
        self._give_up()

    def forward(self, index: int, *batch: Tensor) -> Tensor:
        """Returns a player's loss; the modules hold the gathered weights from now until :meth:`exchange`."""
        (game,) = self._game
        for weight in self.weights:
            weight.place(weight.original if weight.name is None else self._parameters[weight.name])
        try:
            # a store that knows the parameters it knew, and hears of no gathered ones
            with pyro.get_param_store().scope({key: dict(value) for key, value in self._store.items()}):
                return game(index, *batch)
        except BaseException:
            self._place_parts()
            raise

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within, gradients are added up in this process only."""
        unit: Any = self
        unit.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            unit.set_requires_gradient_sync(True)

    @torch.no_grad()
    def exchange(self) -> None:
        """After backward: averages the gradients that FSDP has not, and gives all processes the first one's buffers."""
        (game,) = self._game
        self._place_parts()
        whole = [w for w in self.weights if w.name is None and w.original.grad is not None]
        if whole:
            gradients = [weight.original.grad for weight in whole]
            mean = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(mean)
            mean /= self.world_size
            for weight, g, piece in zip(whole, gradients, mean.split([g.numel() for g in gradients]), strict=True):
                weight.part.grad = self._whole(g.copy_(piece.view(g.shape)))
                weight.original.grad = None
        for buffer in game.buffers():
            if self._versions.get(buffer) != buffer._version:
                _broadcast(buffer)
        self._versions = {buffer: buffer._version for buffer in game.buffers()}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, the modules and players hold the parameters themselves, whole; what is done to them stays."""
        self._gather()
        self._place_originals()
        try:
            yield
        finally:
            copy_([weight.part for weight in self.cut], [weight.original.detach() for weight in self.cut])
            self._give_up()

    def release(self, failed: bool) -> None:
        """Ends it: the modules hold what they held before, whole and alike on all processes.

        Args:
            failed: Whether there was an error. The processes then may have stopped in different places, which an
                exchange of their own, with a time limit, can bear.
        """
        (game,) = self._game
        try:
            if failed:
                self._say_farewell()
            else:
                self._gather()
        finally:
            self._place_originals()
            game.whole = nullcontext

    def _gather(self) -> None:
        for weight in self.cut:
            weight.original.data = full(weight.part.detach())

    @torch.no_grad()
    def _say_farewell(self) -> None:
        mine = [weight.part.detach().to_local().clone().cpu() for weight in self.weights]
        everyones: list[Any] = [None] * self.world_size
        try:
            group = dist.new_group(backend="gloo", timeout=PATIENCE)  # which all that fail come to make
            dist.all_gather_object(everyones, mine, group=group)
        except RuntimeError as error:
            warnings.warn(
                "the weights are lost, and NaN now, since this process failed and the others did not answer "
                f"({error}); go on from the last checkpoint",
                stacklevel=2,
            )
            everyones = [[torch.full(weight.part.shape, torch.nan, device="cpu") for weight in self.weights]]
        for weight, pieces in zip(self.weights, zip(*everyones, strict=True), strict=True):
            value = (pieces[0] if weight.name is None else torch.cat(pieces)).to(weight.part.to_local())
            if weight.name is None:
                weight.original.copy_(value)
            else:
                weight.original.data = value

    def _place_parts(self) -> None:
        for weight in self.weights:
            weight.place(weight.part)

    def _place_originals(self) -> None:
        (game,) = self._game
        for weight in self.weights:
            weight.place(weight.original)
        game.players[:] = self._players

    def _give_up(self) -> None:
        """Leaves to the modules the parts, and of the parameters themselves nothing."""
        (game,) = self._game
        for weight in self.weights:
            weight.original.grad = None
        for weight in self.cut:
            weight.original.data = weight.original.data.new_empty(0)
        self._place_parts()
        game.players[:] = self._shares


def _weights(game: Game, stored: set[int]) -> list[Weight]:
    """Returns the parameters of a game with the places where modules hold them, those named that can be cut."""
    found: dict[nn.Parameter, Weight] = {}
    for module in game.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(parameter, Weight(parameter)).slots.append((module, name))
    for parameter in (p for player in game.players for p in player.parameters):
        found.setdefault(parameter, Weight(parameter))
    dtype = game.players[0].parameters[0].dtype
    for number, (p, weight) in enumerate(found.items()):
        cut = p.numel() and p.dim() and p.is_contiguous() and p.dtype == dtype
        if cut and weight.slots and id(p) not in stored:
            weight.name = str(number)
    return list(found.values())


@torch.no_grad()
def _broadcast(tensor: Tensor) -> None:
    """Gives a tensor the first process's values."""
    value = tensor.detach().contiguous()
    dist.broadcast(value, 0)
    tensor.copy_(value)
