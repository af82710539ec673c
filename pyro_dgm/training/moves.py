r"""One player's step: the gradient of its loss on a batch, its norm, and the update.

.. math::
    g = \nabla_\theta L(x, c), \qquad
    \theta \leftarrow \mathrm{optimizer}\Bigl(\theta,\; g \min\bigl(1, \tfrac{a}{\|g\|}\bigr)\Bigr)

On one device loss, gradient, norm and clipping are one function of the batch (:class:`Direct`), which may be traced and
compiled. In a distributed run, or where half-precision gradients have to be scaled, the gradient goes through
autograd's hooks (:class:`Hooked`), and the loss alone is traced. Both split a batch into parts on request and add up
the parts' gradients: the same step in less memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..objectives import Player
from ..objectives.annealing import Counted
from .data import Batch
from .graph import TensorFunction
from .parts import copy_, full
from .tracing import Optimise, Replay, differentiable, loss_and_gradients
from .updates import FusedAdam

Tracing = tuple[Optimise | None, int | None]


class Game(nn.Module):
    """The players' losses as one module that owns whatever training changes.

    Args:
        module: The bound objective, or any module from a batch to a loss.
        players: Its players.
        stored: Further parameters, those in Pyro's parameter store that no module owns, by name.
        owners: Further modules that the loss uses.

    Attributes:
        whole: Makes a context in which modules and players hold whole parameters, as they always do unless those are
            shared out among processes (:mod:`pyro_dgm.training.sharding`).
    """

    def __init__(
        self,
        module: nn.Module,
        players: Sequence[Player],
        stored: dict[str, nn.Parameter] | None = None,
        owners: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.module = module
        self.players = list(players)
        self.stored = nn.ParameterDict({quote(name): p for name, p in (stored or {}).items()})
        self.owners = nn.ModuleList(owners)
        self.losses: list[Callable[..., Tensor]] = [player.loss for player in self.players]
        self.whole: Callable[[], AbstractContextManager[None]] = nullcontext

    def forward(self, player: int, *batch: Tensor) -> Tensor:
        """Returns a player's loss."""
        return self.losses[player](*batch)

    def tensors(self) -> dict[str, Tensor]:
        """Returns all that training changes, by name: also the buffers that a ``state_dict`` leaves out."""
        return {name: tensor.detach() for name, tensor in self._named()}

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters(remove_duplicate=False)
        yield from self.named_buffers(remove_duplicate=False)

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Puts back what :meth:`tensors` returned."""
        now = {
            **dict(self.named_parameters(remove_duplicate=False)),
            **dict(self.named_buffers(remove_duplicate=False)),
        }
        for name, value in values.items():
            if now[name].shape != value.shape:  # a buffer that has grown
                now[name].resize_(value.shape)
            copy_([now[name]], [value])


class Move:
    """What the two kinds of step share: the update, and the split of a batch.

    Attributes:
        count: Steps made so far.
        clocks: What counts steps by itself, such as a schedule of the objective.
        replay: What has been traced; ``None`` without tracing.
        step: The optimizer's step.
    """

    def __init__(
        self, player: Player, optimizer: Optimizer, schedule: LRScheduler | None, clip: float | None, accumulate: int
    ) -> None:
        self.player, self.optimizer, self.schedule = player, optimizer, schedule
        self.clip, self.accumulate = clip, accumulate
        self.count = 0
        self.clocks: list[Counted] = []
        self.replay: Replay | None = None
        self.step: Callable[[], None] = FusedAdam(optimizer)

    def gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Leaves the gradient in the parameters; returns the loss, and whether it and the gradient are finite."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Looks again at what Python holds, which may have changed since the last epoch."""
        if self.replay is not None:
            self.replay.refresh()
        if isinstance(self.step, FusedAdam):
            self.step.forget()

    def update(self) -> None:
        """Moves the parameters by the gradient; the learning rate changes before every step but the first."""
        if self.schedule is not None and self.count:
            self.schedule.step()
        self.step()
        if self.player.project is not None:
            self.player.project(self.player.parameters)
        self.count += 1

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """The parts of a batch, each with its share of the data."""
        n = len(batch[0])
        parts = zip(*(t.tensor_split(min(self.accumulate, n)) for t in batch), strict=True)
        now = [clock.step.clone() for clock in self.clocks]
        for part in parts:
            for clock, step in zip(self.clocks, now, strict=True):
                clock.step.copy_(step)  # all parts are of one step
            yield part, len(part[0]) / n


class Direct(Move):
    """A step on one device: a function of the batch.

    Args:
        player: The player.
        optimizer: Its optimizer.
        schedule: The optimizer's schedule.
        clip: Largest norm of the gradient.
        accumulate: Parts that a batch is split into.
        modules: Modules that the loss uses.
        autocast: Makes the context in which the loss is computed.
        tracing: What compiles a trace and for how many data, if steps after the first replay one; else ``None``.
    """

    def __init__(
        self,
        player: Player,
        optimizer: Optimizer,
        schedule: LRScheduler | None,
        clip: float | None,
        accumulate: int,
        modules: Sequence[nn.Module],
        autocast: Callable[[], Any],
        tracing: Tracing | None,
    ) -> None:
        super().__init__(player, optimizer, schedule, clip, accumulate)
        gradients = loss_and_gradients(_within(autocast, player.loss), player.parameters)
        self.clocks = _clocks(modules)
        one = accumulate == 1
        self.function = _then_clip(gradients, clip, _all_finite) if one else gradients
        if tracing is not None:
            self.replay = Replay(_then_clip(gradients, clip) if one else gradients, modules, *tracing)

    def gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the function, or its replay from the second step on: the first is checked by Pyro's validation."""
        function = self.replay if self.replay is not None and self.count else self.function
        for p in self.player.parameters:  # so that two gradients never take memory at once
            p.grad = None
        if self.accumulate == 1:
            loss, finite, *gradients = function(*batch)
        else:
            loss, finite, *gradients = _then_clip(self._sum(function), self.clip)(*batch)
        for p, g in zip(self.player.parameters, gradients, strict=True):
            p.grad = g
        return loss, finite

    def _sum(self, function: TensorFunction) -> TensorFunction:
        def summed(*batch: Tensor) -> Sequence[Tensor]:
            totals: list[Tensor] = []
            for part, weight in self._parts(batch):
                outputs = [weight * t if t is not None else None for t in function(*part)]
                totals = outputs if not totals else [_add(a, b) for a, b in zip(totals, outputs, strict=True)]
            return totals

        return summed


class Hooked(Move):
    """A step through ``backward``, which distributed modules hook into and scaled losses need.

    Args:
        player: The player.
        optimizer: Its optimizer.
        schedule: The optimizer's schedule.
        clip: Largest norm of the gradient.
        accumulate: Parts that a batch is split into.
        game: The game.
        wrapped: The game in its distributed wrapper, or as it is.
        autocast: Makes the context in which the loss is computed.
        scaler: Scales a half-precision loss, and skips steps whose gradient overflowed; ``None`` for none.
        replay: What the game replays for this player's loss, if anything.
        mean: Returns the mean of a tensor over the processes.
    """

    def __init__(
        self,
        player: Player,
        optimizer: Optimizer,
        schedule: LRScheduler | None,
        clip: float | None,
        accumulate: int,
        game: Game,
        wrapped: nn.Module,
        autocast: Callable[[], Any],
        scaler: Any,
        replay: Replay | None,
        mean: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(player, optimizer, schedule, clip, accumulate)
        self.game, self.wrapped, self.autocast, self.scaler = game, wrapped, autocast, scaler
        self.index = game.players.index(player)
        self.replay, self.mean, self.clocks = replay, mean, _clocks([game])
        if scaler is not None:
            self.step = self._scaled_step

    def gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Runs backward on every part of the batch, the processes exchanging gradients and losses at the last."""
        self.optimizer.zero_grad(set_to_none=True)
        total: Tensor | float = 0.0
        parts = list(self._parts(batch))
        for number, (part, weight) in enumerate(parts):
            last = number == len(parts) - 1
            silent = nullcontext() if last or not hasattr(self.wrapped, "no_sync") else self.wrapped.no_sync()
            moved = (p for each in self.game.players for p in each.parameters)
            with torch.enable_grad(), silent, only(self.player, moved):
                with self.autocast():
                    loss = weight * self.wrapped(self.index, *part)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total = total + loss.detach()
        if hasattr(self.wrapped, "exchange"):
            self.wrapped.exchange()
        total = self.mean(total)  # so that all processes find it finite, or none
        return total, self._clip(total)

    def _clip(self, loss: Tensor) -> Tensor:
        """Clips the gradient and returns whether it and the loss are finite."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.player.parameters if p.grad is not None]
        norm = full(get_total_norm(gradients))
        if self.clip is not None:
            torch._foreach_mul_(gradients, _shrink(norm, self.clip))
        # a scaler lowers its scale where a scaled gradient overflows, and goes on
        return loss.isfinite() if self.scaler is not None else loss.isfinite() & norm.isfinite()

    def _scaled_step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _clocks(modules: Sequence[nn.Module]) -> list[Counted]:
    return [part for module in modules for part in module.modules() if isinstance(part, Counted)]


def quote(name: str) -> str:
    """Returns a parameter's name in Pyro's store as one that a module can hold: no dots, none of its own."""
    return "param_" + name.replace("_", "__").replace(".", "_dot_")


@contextmanager
def only(player: Player, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Asks autograd for the gradients of one player's parameters only, not of others among these."""
    mine = {id(p) for p in player.parameters}
    others = [p for p in parameters if id(p) not in mine and p.requires_grad]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)


def replayed(
    game: Game, index: int, autocast: Callable[[], Any], tracing: Tracing
) -> tuple[Callable[..., Tensor], Replay]:
    """Returns a player's loss as a replay that autograd can differentiate once, for :class:`Hooked`."""
    player = game.players[index]
    replay = Replay(loss_and_gradients(_within(autocast, player.loss), player.parameters), [game], *tracing)
    return differentiable(replay, player.parameters), replay


def _within(autocast: Callable[[], Any], loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a loss that is computed in a precision, the data keeping their own."""

    def within(*batch: Tensor) -> Tensor:
        with autocast():
            return loss(*batch)

    return within


def _norm_finite(gradients: list[Tensor]) -> Tensor:
    return get_total_norm(gradients).isfinite()


def _then_clip(
    gradients: TensorFunction, clip: float | None, all_finite: Callable[[list[Tensor]], Tensor] = _norm_finite
) -> TensorFunction:
    """Returns the function from a batch to the loss, whether all is finite, and the clipped gradients."""

    def function(*batch: Tensor) -> list[Tensor]:
        loss, *found = gradients(*batch)
        there = [g for g in found if g is not None]
        if clip is None:
            return [loss, loss.isfinite() & all_finite(there), *found]
        norm = get_total_norm(there)
        shrink = _shrink(norm, clip)
        found = [g if g is None else g * shrink.to(g.dtype) for g in found]
        return [loss, loss.isfinite() & norm.isfinite(), *found]

    return function


def _all_finite(gradients: list[Tensor]) -> Tensor:
    """What :func:`_norm_finite` tells, by the one kernel of torch's gradient scaler."""
    if len({(g.device, g.layout) for g in gradients}) != 1 or gradients[0].layout != torch.strided:
        return _norm_finite(gradients)
    found, one = (make((), device=gradients[0].device) for make in (torch.zeros, torch.ones))
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, one)
    return found == 0


def _shrink(norm: Tensor, clip: float) -> Tensor:
    return (clip / (norm + 1e-6)).clamp(max=1.0)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b
