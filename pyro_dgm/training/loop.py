"""The loop: players in turn, one optimizer each, no host synchronisation per step.

Whether losses and gradients are finite is decided on the device. On a CPU the answer is read at once; on an
accelerator the optimizers are told (``found_inf`` of torch's fused optimizers) to leave the weights alone from the
first bad step on, and the answer is read every few steps, so the weights that remain are the last finite ones either
way.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..objectives import Player
from .data import Batch, Batches


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; the model holds its last finite weights, or the best by validation.

    Attributes:
        step: The step, counted from 0 over the whole run.
        batch: The index of the batch in its epoch.
        player: The player whose loss it was.
    """

    def __init__(self, message: str, step: int, batch: int, player: str) -> None:
        super().__init__(message)
        self.step, self.batch, self.player = step, batch, player


class Game(nn.Module):
    """The players' losses as one module, so that precision and distribution wrap a single forward.

    Args:
        module: The bound objective, or any module from a batch to a loss.
        players: Its players.
    """

    def __init__(self, module: nn.Module, players: Sequence[Player]) -> None:
        super().__init__()
        self.module = module
        self.players = list(players)

    def forward(self, player: int, *batch: Tensor) -> Tensor:
        """Returns a player's loss."""
        return self.players[player].loss(*batch)


class Loop:
    """Steps the players of a game over batches.

    Args:
        fabric: The Lightning Fabric that knows device and precision.
        game: The players.
        optimizers: Maps a player's parameters to its optimizer.
        schedules: Maps an optimizer to its schedule, stepped after every step; ``None`` for none.
        gradient_clip: Largest norm of a player's gradient; ``None`` for no clipping.
        check_every: Steps between reads of the finite flag.
    """

    def __init__(
        self,
        fabric: Any,
        game: Game,
        optimizers: Sequence[Optimizer],
        schedules: Sequence[LRScheduler | None],
        gradient_clip: float | None,
        check_every: int,
    ) -> None:
        self.fabric, self.game = fabric, game
        self.optimizers, self.schedules = optimizers, schedules
        self.wrapped_optimizers = [fabric.setup_optimizers(o) for o in optimizers]
        self.gradient_clip, self.check_every = gradient_clip, check_every
        self.step, self.moves = 0, [0] * len(game.players)
        self.recent: deque[tuple[int, int, int, Batch]] = deque(maxlen=check_every * len(game.players))
        self.bad = torch.full((), -1, device=fabric.device)
        for optimizer in optimizers if check_every > 1 else ():
            optimizer.found_inf = torch.zeros((), device=fabric.device)
            optimizer.grad_scale = None

    def epoch(self, batches: Batches, after_step: Callable[[], None]) -> dict[str, float]:
        """Runs over the batches once and returns every player's mean loss."""
        players = self.game.players
        totals = torch.zeros(len(players), device=self.fabric.device)
        before = list(self.moves)
        self._snapshot = {k: v.detach().clone() for k, v in self.game.state_dict().items()}
        with ExitStack() as stack:
            for number, batch in enumerate(batches):
                if self.step == 1 or (self.step and number == 0):
                    # the first step has validated the model; a check of every argument synchronises the host
                    stack.enter_context(pyro.validation_enabled(False))
                for k, player in enumerate(players):
                    if (self.step + 1) % player.every == 0:
                        totals[k] += self._move(k, number, batch)
                self.step += 1
                if self.step % self.check_every == 0:
                    self._raise_if_bad()
                after_step()
        self._raise_if_bad()
        if not bool(get_total_norm(self._parameters()).isfinite()):  # the last update may have overflowed
            self.bad.fill_(self._code(*self.recent[-1][:2]))
            self._raise_if_bad()
        counts = [now - then for now, then in zip(self.moves, before, strict=True)]
        means = (totals.cpu() / torch.tensor(counts, device="cpu")).tolist()  # NaN for a player that did not move
        return {player.name: mean for player, mean in zip(players, means, strict=True)}

    def loss(self, k: int, batch: Batch) -> Tensor:
        """Returns a player's loss on a batch, in the run's precision."""
        with self.fabric.autocast():  # around the loss only: the data keep their own precision
            return self.game(k, *batch)

    def _scored(self, k: int, number: int, batch: Batch) -> Tensor:
        """Returns the loss; what validation refuses because it is not finite is reported like any such loss."""
        try:
            return self.loss(k, batch)
        except ValueError:
            with pyro.validation_enabled(False):
                loss = self.loss(k, batch)
            if bool(loss.isfinite()):
                raise
            self._note(k, number, batch, loss.detach().isfinite())
            self._raise_if_bad()
            raise

    def _move(self, k: int, number: int, batch: Batch) -> Tensor:
        player, optimizer = self.game.players[k], self.wrapped_optimizers[k]
        with _only(player, self.game.players):
            loss = self._scored(k, number, batch)
            self.fabric.backward(loss)
        gradients = [p.grad for p in player.parameters if p.grad is not None]
        norm = get_total_norm(gradients)
        loss = loss.detach()
        self._note(k, number, batch, loss.isfinite() & norm.isfinite())
        if self.gradient_clip is not None:
            clip_grads_with_norm_(player.parameters, self.gradient_clip, norm)
        if self.check_every == 1:
            self._raise_if_bad()
        if self.schedules[k] is not None and self.moves[k]:
            self.schedules[k].step()  # before every step but the first, so that the last has the last rate
        optimizer.step()
        self.moves[k] += 1
        optimizer.zero_grad(set_to_none=True)
        return loss

    def _parameters(self) -> list[Tensor]:
        return [p.detach() for player in self.game.players for p in player.parameters]

    def _code(self, step: int, k: int) -> int:
        return step * len(self.game.players) + k

    def _note(self, k: int, number: int, batch: Batch, finite: Tensor) -> None:
        self.recent.append((self.step, k, number, batch))
        self.bad = torch.where((self.bad < 0) & ~finite, self._code(self.step, k), self.bad)
        if self.check_every > 1:
            for optimizer in self.optimizers:
                optimizer.found_inf = torch.maximum(optimizer.found_inf, (~finite).to(optimizer.found_inf))

    def _raise_if_bad(self) -> None:
        code = int(self.bad)
        if code < 0:
            return
        step, k = divmod(code, len(self.game.players))
        number, batch = next(entry[2:] for entry in self.recent if entry[:2] == (step, k))
        player = self.game.players[k]
        offenders = self._offenders(k, batch)
        self._restore()
        message = (
            f"the {player.name} or its gradient was not finite at step {step} (batch {number} of its epoch); "
            f"{offenders}. The model holds finite weights: the last, or with validation data the best. Look for "
            "outliers in that batch, lower the learning rate or gradient_clip, or use double precision"
        )
        raise NonFiniteError(message, step, number, player.name)

    def _restore(self) -> None:
        """Gives tensors that an update or a running statistic has spoiled their values at the start of the epoch."""
        for name, tensor in self.game.state_dict().items():
            if not bool(tensor.isfinite().all()):
                tensor.copy_(self._snapshot[name])
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        for player in self.game.players:
            for p in player.parameters:
                p.grad = None

    def _offenders(self, k: int, batch: Batch) -> str:
        """Runs the bad batch again and tells what is not finite, and the range of the data."""
        player = self.game.players[k]
        with _only(player, self.game.players), pyro.validation_enabled(False):
            loss = player.loss(*batch)
            loss.backward()
        names = {id(p): name for name, p in self.game.module.named_parameters()}
        bad = [names[id(p)] for p in player.parameters if p.grad is not None and not bool(p.grad.isfinite().all())]
        self._forget_gradients()
        x = batch[0]
        largest = max((float(p.detach().abs().max()) for p in player.parameters), default=0.0)
        found = f"loss {float(loss.detach()):g}; not finite are the gradients of {len(bad)} parameters"
        found += f", first {bad[0]}" if bad else ""
        return (
            f"{found}; x in that batch ranges from {float(x.min()):g} to {float(x.max()):g}; the largest weight "
            f"is {largest:g}"
        )


@contextmanager
def _only(player: Player, players: Sequence[Player]) -> Iterator[None]:
    """Asks autograd for the gradients of one player's parameters only."""
    mine = {id(p) for p in player.parameters}
    others = [p for other in players for p in other.parameters if id(p) not in mine]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)
