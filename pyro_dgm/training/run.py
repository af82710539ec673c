"""A run: its epochs from wherever it stands to its end, and its whole state as one dictionary.

An epoch trains, validates, records, tells, and decides whether to go on. After every step a checkpoint may be written;
a run made anew in the same way that loads it goes on from that step, with the same data to come, the same random
numbers and the same weights, bit for bit on a CPU.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..objectives.reports import reports
from . import randomness
from .average import Average
from .checkpoint import Checkpoint
from .data import Batches
from .history import History, Row
from .launch import Launch
from .loop import Loop, NonFiniteError
from .moves import Move
from .parts import alike, collect

Callback = Callable[[History, nn.Module], bool | None]
AGREE_EVERY = 10  # steps between two times that processes ask each other whether to stop or to write


@dataclass
class Run:
    """What training consists of.

    Attributes:
        launch: The processes.
        loop: The players and their steps.
        target: The model.
        train: The training data.
        held: The validation data.
        max_epochs: Passes over the data.
        patience: Epochs without improvement before training stops.
        average: The moving average of the weights.
        checkpoint: Where the state is kept.
        signature: What a checkpoint has to fit.
        callbacks: Called after every epoch.
        progress: Whether to show a bar.
        seed: What the order of the data was seeded with.
    """

    launch: Launch
    loop: Loop
    target: nn.Module
    train: Batches
    held: Batches | None
    max_epochs: int
    patience: int | None
    average: Average | None
    checkpoint: Checkpoint | None
    signature: dict[str, Any]
    callbacks: Sequence[Callback]
    progress: bool
    seed: int

    def __post_init__(self) -> None:
        self.history = History()
        self.epoch, self.seconds = 0, 0.0
        self.best, self.best_weights = math.inf, None
        self.starts: dict[str, Any] = {}
        self._resumed: Callable[[], None] | None = None

    def __call__(self, saved: dict[str, Any] | None = None) -> History:
        """Trains to the end, from where a checkpoint was written if there is one.

        Returns:
            The history; the model has the weights that are to be used.
        """
        if saved is not None:
            self.load_state_dict(saved)
        modes = [(part, part.training) for part in self.loop.game.modules()]
        listening = nullcontext() if self.checkpoint is None else self.checkpoint.listening()
        self._begun = time.perf_counter() - self.seconds
        try:
            with listening, self._bar() as self.bar:
                while self.history.stopped == "running":
                    self._epoch()
                self.loop.check_weights()
                self._write()
        finally:
            self.loop.forget_gradients()
            self._settle()
            for part, mode in modes:
                part.training = mode
        return self.history

    def _epoch(self) -> None:
        self.loop.game.train()
        self._mark_start()
        losses = self.loop.epoch(self.train, self.epoch, self._after_step, self._resumed)
        self._resumed = None
        self.launch.align(self.loop.game.buffers())
        self.epoch += 1
        self.seconds = time.perf_counter() - self._begun
        row: Row = {"epoch": self.epoch, "step": self.loop.step, "seconds": self.seconds, **losses}
        with nullcontext() if self.average is None else self.average.in_place():
            if self.held is not None:
                self._validate(row)
            self.history.rows.append(row)
            if not self.bar.disable:
                self.bar.set_postfix({c: f"{row[c]:.4g}" for c in self.history.losses}, refresh=False)
            self.launch.log(row)
            with self.loop.game.whole() if self.callbacks else nullcontext():
                stop = self.launch.agree(any([callback(self.history, self.target) for callback in self.callbacks]))
        if stop:
            self.history.stopped = "callback"
        elif self.patience is not None and self.epoch - (self.history.best_epoch or 0) >= self.patience:
            self.history.stopped = "patience"
        elif self.epoch >= self.max_epochs:
            self.history.stopped = "max_epochs"

    def _mark_start(self) -> None:
        """Remembers, or goes back to, the random states at the start of the epoch, which decide its order."""
        if self.checkpoint is None:
            return
        if self.loop.position == 0:
            self.starts = {"order": self._order(), "random": randomness.get_state(self.launch.device)}
            return
        now = randomness.get_state(self.launch.device)
        self._set_order(self.starts["order"])
        randomness.set_state(self.starts["random"], self.launch.device)
        self._resumed = lambda: randomness.set_state(now, self.launch.device)

    def _order(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.train.orders]

    def _set_order(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip(self.train.orders, states, strict=True):
            generator.set_state(state.cpu())

    def _after_step(self) -> None:
        self.bar.update()
        if self.checkpoint is None and not self.launch.sharded:
            return
        terminated, due = False, False
        if self.checkpoint is not None:
            terminated, due = self.checkpoint.terminated, self.checkpoint.due
        if self.launch.distributed:
            if self.loop.step % AGREE_EVERY:
                return
            said = [terminated, due and self.launch.first, self.launch.interrupted]
            signals = torch.tensor(said, dtype=torch.float32, device=self.launch.device)
            terminated, due, interrupted = (bool(s) for s in self.launch.reduce(signals, "max"))
            if interrupted:
                raise KeyboardInterrupt
        if terminated or due:
            self.seconds = time.perf_counter() - self._begun
            self.loop.check_weights()  # never over a checkpoint with weights that are finite
            self._write()
        if terminated:
            raise SystemExit(143)

    @torch.no_grad()
    def _validate(self, row: Row) -> None:
        """Adds the mean loss on held-out data and what it reports, with the same random numbers at every epoch.

        Keeps the best weights.
        """
        game, device = self.loop.game, self.launch.device
        game.eval()
        total = torch.zeros(2, device=device)
        told: dict[str, Tensor] = {}
        with game.whole(), randomness.unchanged(device):
            torch.manual_seed(self.launch.rank)
            for batch in self.held or ():
                with torch.enable_grad(), self.launch.autocast(), reports() as found:  # a loss may contain a gradient
                    loss = game.players[0].loss(*batch).detach()
                told = {name: told.get(name, 0) + len(batch[0]) * value for name, value in found.items()}
                total += torch.stack([loss * len(batch[0]), torch.full_like(loss, len(batch[0]))])
        told = {name: float(value / total[1]) for name, value in told.items()}
        total = self.launch.reduce(total, "sum")
        row["validation"] = float(total[0] / total[1])
        if not math.isfinite(row["validation"]):
            raise NonFiniteError(
                f"the validation loss is {row['validation']} after epoch {self.epoch}; look for outliers in the "
                "validation data, or lower the learning rate",
                self.loop.step,
                len(self.train),
                "validation",
            )
        row.update(self.launch.agree(told))  # of the first process's share of the data
        if row["validation"] < self.best:
            self.best, self.history.best_epoch = row["validation"], self.epoch
            self.best_weights = {k: v.clone() for k, v in game.tensors().items()}

    def _settle(self) -> None:
        """Leaves the model with the best weights, else with their average, else with the last."""
        if self.best_weights is not None:
            self.loop.game.restore(self.best_weights)
        elif self.average is not None and self.average.count:
            self.average.settle()

    @contextmanager
    def _bar(self) -> Iterator[Any]:
        from tqdm.auto import tqdm

        settings = {"disable": not (self.progress and self.launch.first), "unit": "step", "initial": self.loop.step}
        with tqdm(total=len(self.train) * self.max_epochs, desc=type(self.target).__name__, **settings) as bar:
            yield bar

    def _write(self) -> None:
        if self.checkpoint is None:
            return
        random = self.launch.gather(randomness.get_state(self.launch.device))
        starts = self.launch.gather(self.starts)
        state = collect(self.state_dict(), self.launch.first)
        if self.launch.first:
            self.checkpoint.write({**state, "random": random, "starts": starts}, self.signature)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, but for the random states of the processes."""
        loop, scaler = self.loop, self.launch.scaler
        return {
            "seed": self.seed,
            "order": self._order(),
            "place": [self.epoch, loop.step, loop.position, self.seconds],
            "totals": [loop.totals, loop.counts],
            "game": loop.game.tensors(),
            "moves": [_move_state(move) for move in loop.moves],
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": [self.best, self.best_weights, self.history.best_epoch],
            "history": [self.history.rows, self.history.stopped],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where a checkpoint was written."""
        loop, device = self.loop, self.launch.device
        self.epoch, loop.step, loop.position, self.seconds = state["place"]
        loop.totals, loop.counts = state["totals"]
        loop.game.restore(state["game"])
        for move, saved in zip(loop.moves, state["moves"], strict=True):
            move.optimizer.load_state_dict(_optimizer_state(move.optimizer, saved["optimizer"]))
            move.count = saved["count"]
            if move.schedule is not None:
                move.schedule.load_state_dict(saved["schedule"])
        if self.launch.scaler is not None:
            self.launch.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best, best_weights, self.history.best_epoch = state["best"]
        self.best_weights = None if best_weights is None else self._weights(best_weights)
        self.history.rows, self.history.stopped = state["history"]
        waited = self.epoch - (self.history.best_epoch or 0)
        longer = {
            "max_epochs": self.epoch < self.max_epochs,
            "patience": self.patience is None or waited < self.patience,
        }
        if longer.get(self.history.stopped) and self.epoch < self.max_epochs:
            self.history.stopped = "running"
        rank = self.launch.rank
        self._set_order(state["order"])
        self.starts = state["starts"][min(rank, len(state["starts"]) - 1)]
        if rank < len(state["random"]):
            randomness.set_state(state["random"][rank], device)
        else:  # a process that was not there draws noise of its own
            torch.manual_seed(randomness.derived(self.seed, rank, loop.step))

    def _weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this process holds of saved weights."""
        now = self.loop.game.tensors()
        return {name: alike(tensor, now[name]) for name, tensor in state.items()}


def _optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """What this process holds of an optimizer's saved state: of tensors like a parameter, as much as of that."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def held(key: str, value: Any, p: Tensor) -> Any:
        like = isinstance(value, Tensor) and key != "step" and value.shape == p.shape
        return alike(value, p) if like else value

    entries = {i: {k: held(k, v, parameters[i]) for k, v in entry.items()} for i, entry in state["state"].items()}
    return {**state, "state": entries}


def _move_state(move: Move) -> dict[str, Any]:
    schedule = None if move.schedule is None else move.schedule.state_dict()
    return {"optimizer": move.optimizer.state_dict(), "schedule": schedule, "count": move.count}
