"""The loop: players in turn, one optimizer each, no host synchronisation per step.

Whether losses and gradients are finite is decided on the device. On a CPU the answer is read at once; on an
accelerator the optimizers are told (``found_inf`` of torch's fused optimizers) to leave the weights alone from the
first bad step on, and the answer is read every few steps, so the weights that remain are the last finite ones either
way.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pyro
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from .data import Batch, Batches
from .moves import Game, Move
from .parts import full

SNAPSHOT_SECONDS = 1.0  # an epoch may be a single step of microseconds


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


class Loop:
    """Steps the players of a game over batches.

    Args:
        game: The players.
        moves: How each player steps.
        device: Where the weights are.
        agree: Returns the first process's value on all of them: clocks differ, and all have to check weights at once.
        check_every: Steps between reads of the finite flag.

    Attributes:
        after_update: Called after the players have moved, e.g. to average the weights; nothing when ``None``.
        watched: Whether code of the user's runs between epochs, so that what Python holds may have changed.
        step: Steps so far.
        position: Batches of the current epoch so far.
        totals: Each player's sum of losses over the data of the current epoch.
        counts: How many data those were.
    """

    def __init__(
        self,
        game: Game,
        moves: Sequence[Move],
        device: torch.device,
        agree: Callable[[bool], bool],
        check_every: int,
    ) -> None:
        self.game, self.moves, self.check_every, self.agree = game, moves, check_every, agree
        self.after_update: Callable[[], None] | None = None
        self.watched = True
        self.step = self.position = 0
        self.totals = [torch.zeros((), device=device) for _ in moves]
        self.counts = [0] * len(moves)
        self._snapshot: dict[str, Tensor] | None = None
        self.recent: deque[tuple[int, int, int, Batch]] = deque(maxlen=check_every * len(moves))
        self.bad = torch.full((), -1, device=device)
        for move in moves if check_every > 1 else ():
            move.optimizer.found_inf = torch.zeros((), device=device)
            move.optimizer.grad_scale = None

    def epoch(
        self,
        batches: Batches,
        number: int,
        after_step: Callable[[], None],
        after_skip: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Runs over the batches once, or over what is left of them, and returns every player's mean loss.

        Args:
            batches: The batches.
            number: The epoch.
            after_step: Called after every step; what it raises leaves everything as it is after that step.
            after_skip: Called when the batches that a resumed run has seen already have been skipped.
        """
        if self._snapshot is None:
            self._take_snapshot()
        for move in self.moves if self.watched else ():
            move.refresh()
        with torch.no_grad(), ExitStack() as stack:
            if self.step:
                stack.enter_context(pyro.validation_enabled(False))
            for batch in batches.epoch(number, self.position, after_skip):
                self._turn(batch)
                if self.step == 1:
                    # the first step has validated the model; a check of every argument synchronises the host
                    stack.enter_context(pyro.validation_enabled(False))
                after_step()
        self._raise_if_bad()
        if self.agree(time.monotonic() - self._taken > SNAPSHOT_SECONDS):
            self.check_weights()
        return self._means()

    def check_weights(self) -> None:
        """Refuses weights that the last update has spoiled, though loss and gradient were finite.

        Raises:
            NonFiniteError: If weights are not finite; they then are what they were at the last check.
        """
        self._raise_if_bad()
        if self.recent and not bool(full(get_total_norm(self._parameters())).isfinite()):
            self.bad.fill_(self._code(*self.recent[-1][:2]))
            self._raise_if_bad()
        self._take_snapshot()

    def _take_snapshot(self) -> None:
        self._snapshot = {name: tensor.clone() for name, tensor in self.game.tensors().items()}
        self._taken = time.monotonic()

    def _turn(self, batch: Batch) -> None:
        """Every player whose turn it is moves."""
        for k, move in enumerate(self.moves):
            if (self.step + 1) % move.player.every == 0:
                self.recent.append((self.step, k, self.position, batch))
                n = len(batch[0])
                self.totals[k] = torch.add(self.totals[k], self._move(k, batch), alpha=n)
                self.counts[k] += n
        if self.after_update is not None:
            self.after_update()
        self.step += 1
        self.position += 1
        if self.check_every > 1 and self.step % self.check_every == 0:
            self._raise_if_bad()

    def _move(self, k: int, batch: Batch) -> Tensor:
        move = self.moves[k]
        try:
            loss, finite = move.gradient(batch)
        except ValueError:  # what validation refuses because it is not finite is reported like any such loss
            with pyro.validation_enabled(False):
                loss, finite = move.gradient(batch)
            if bool(finite):
                raise
        if self.check_every > 1:
            self.bad = torch.where((self.bad < 0) & ~finite, self._code(self.step, k), self.bad)
            for other in self.moves:
                found = other.optimizer.found_inf
                other.optimizer.found_inf = torch.maximum(found, (~finite).to(found))
        elif not finite:
            self.bad.fill_(self._code(self.step, k))
            self._raise_if_bad()
        move.update()
        return loss

    def _means(self) -> dict[str, float]:
        """Every player's mean loss over the epoch, NaN for one that did not move; the next epoch starts at zero."""
        means = {}
        for k, move in enumerate(self.moves):
            means[move.player.name] = float(self.totals[k]) / self.counts[k] if self.counts[k] else float("nan")
            self.totals[k], self.counts[k] = torch.zeros_like(self.totals[k]), 0
        self.position = 0
        return means

    def _parameters(self) -> list[Tensor]:
        return [p.detach() for move in self.moves for p in move.player.parameters]

    def _code(self, step: int, k: int) -> int:
        return step * len(self.moves) + k

    def _raise_if_bad(self) -> None:
        code = int(self.bad)
        if code < 0:
            return
        step, k = divmod(code, len(self.moves))
        number, batch = next(entry[2:] for entry in self.recent if entry[:2] == (step, k))
        player = self.moves[k].player
        with self.game.whole():
            offenders = self._offenders(k, batch)
        self._restore()
        message = (
            f"the {player.name} or its gradient was not finite at step {step} (batch {number} of its epoch); "
            f"{offenders}. The model holds finite weights: the last, or with validation data the best. Look for "
            "outliers in that batch, lower the learning rate or gradient_clip, or use double precision"
        )
        raise NonFiniteError(message, step, number, player.name)

    def _restore(self) -> None:
        """Gives tensors that an update or a running statistic has spoiled their values at the last check."""
        bad = [name for name, tensor in self.game.tensors().items() if not bool(full(tensor).isfinite().all())]
        self.game.restore({name: self._snapshot[name] for name in bad})
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Frees the gradients."""
        for move in self.moves:
            for p in move.player.parameters:
                p.grad = None

    def _offenders(self, k: int, batch: Batch) -> str:
        """Runs the bad batch again and tells what is not finite, and the range of the data."""
        player = self.game.players[k]
        with pyro.validation_enabled(False), torch.enable_grad():
            loss = player.loss(*batch)
            gradients = torch.autograd.grad(loss, player.parameters, allow_unused=True)
        names = {id(p): name.partition(".")[2] for name, p in self.game.named_parameters()}
        pairs = zip(player.parameters, gradients, strict=True)
        bad = [names[id(p)] for p, g in pairs if g is not None and not bool(g.isfinite().all())]
        x = batch[0].abs() if batch[0].is_complex() else batch[0]
        largest = max((float(p.detach().abs().max()) for p in player.parameters), default=0.0)
        found = f"loss {float(loss.detach()):g}; not finite are the gradients of {len(bad)} parameters"
        found += f", first {bad[0]}" if bad else ""
        return (
            f"{found}; x in that batch ranges from {float(x.min()):g} to {float(x.max()):g}; the largest weight "
            f"is {largest:g}"
        )
