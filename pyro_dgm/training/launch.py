"""The processes of a run: Lightning Fabric starts or joins them, and says which device and precision each has.

A script that calls ``fit(..., devices="auto", strategy="ddp")`` is started by ``torchrun --nproc-per-node=K
script.py``, on several machines with ``--nnodes`` and ``num_nodes=``; gradients are exchanged by PyTorch's own engines,
and with ``strategy="fsdp"`` weights too. Every process sees the whole of the data and takes its share of each batch;
only the first prints and writes.
"""

import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..objectives import Player
from .checkpoint import heeding
from .moves import Game, only
from .sharding import Sharded

STRATEGIES = ("auto", "ddp", "fsdp")
PRECISIONS = (None, "32-true", "bf16-mixed", "16-mixed")


class Launch:
    """A process among those of a run.

    Args:
        device: Where to train with one process.
        devices: Processes on this machine, or ``"auto"``: all that the launcher has started, or one per
            accelerator; ``None`` for one process.
        strategy: ``"ddp"`` keeps the weights on every device, ``"fsdp"`` a part of them; ``"auto"`` is ``"ddp"`` where
            there is more than one process.
        num_nodes: Machines.
        precision: Fabric's precision.
        logger: A logger of Fabric's, a callable, a sequence of them, or ``None``.

    Attributes:
        device: This process's device.
        rank: This process.
        world_size: Number of processes.
        sharded: Whether the processes share out the weights.
        interrupted: Whether this process was told to stop (Ctrl-C) and the others have still to agree.
    """

    def __init__(
        self,
        device: torch.device,
        devices: int | str | None,
        strategy: str,
        num_nodes: int,
        precision: str | None,
        logger: Any,
    ) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision: expected one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}; to train in "
                "another altogether, convert the model and the data, e.g. model.double()"
            )
        loggers = [] if logger is None else list(logger) if isinstance(logger, Sequence) else [logger]
        self.hearers = [each for each in loggers if not hasattr(each, "log_metrics")]
        self.fabric = _fabric(device, devices, num_nodes, precision, [o for o in loggers if o not in self.hearers])
        self.device = self.fabric.device
        self.rank, self.world_size = self.fabric.global_rank, self.fabric.world_size
        self.autocast: Callable[[], Any] = self.fabric.autocast
        self.scaler: Any = getattr(self.fabric.strategy.precision, "scaler", None)
        self.sharded = strategy == "fsdp" and self.distributed
        self.interrupted = False
        self._shares: Sharded | None = None
        if self.sharded and self.scaler is not None:
            raise ValueError(
                f"precision: expected one whose losses need no scaling with strategy='fsdp', such as 'bf16-mixed', "
                f"got {precision!r}"
            )

    @property
    def distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.world_size > 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    @contextmanager
    def sharing(self, game: Game) -> Iterator[None]:
        """Within, the weights of the game are shared out if the strategy says so, and afterwards whole again.

        Processes have to stop together to make them whole, so the first Ctrl-C is noted for the next time they ask each
        other; the second one interrupts at once.
        """
        if not self.sharded:
            yield
            return
        with heeding(signal.SIGINT, self._interrupt):
            self._shares = Sharded(game, self.device, self.world_size)
            failed = True
            try:
                yield
                failed = False
            finally:
                self._shares.release(failed)
                self._shares = None
        if self.interrupted:  # too late for anyone to ask
            raise KeyboardInterrupt

    def _interrupt(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def compilable(self, compile: Any) -> Any:
        """Returns the setting of ``compile`` that the strategy can follow."""
        if self.sharded and compile is True:
            warnings.warn(
                "training runs without a graph, since the weights are other tensors at every step with strategy='fsdp'",
                stacklevel=3,
            )
        return False if self.sharded else compile

    def wrap(self, game: Game, player: Player) -> nn.Module:
        """Returns the game as a distributed module for one player's parameters, alike on all processes."""
        if not self.distributed:
            return game
        if self._shares is not None:
            return self._shares
        with only(player, game.parameters()):  # an exchange would wait for parameters that nobody moves
            return self.fabric.strategy.setup_module(game)

    def agree(self, value: Any) -> Any:
        """Returns the first process's value on all of them."""
        return self.fabric.broadcast(value) if self.distributed else value

    def reduce(self, value: Tensor, by: str) -> Tensor:
        """Returns the ``"sum"``, ``"mean"`` or ``"max"`` of a tensor over the processes."""
        return self.fabric.all_reduce(value, reduce_op=by) if self.distributed else value

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean of a tensor over the processes."""
        return self.reduce(value, "mean")

    @torch.no_grad()
    def align(self, buffers: Iterable[Tensor]) -> None:
        """Gives all processes the first one's buffers: running statistics of its share of the data."""
        for buffer in buffers if self.distributed else ():
            torch.distributed.broadcast(buffer, 0)

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's value, in the order of ranks."""
        if not self.distributed:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def log(self, row: dict[str, float]) -> None:
        """Tells the loggers, in the first process."""
        if not self.first:
            return
        self.fabric.log_dict(row, step=int(row["step"]))
        for hear in self.hearers:
            hear(dict(row))


def _fabric(
    device: torch.device, devices: int | str | None, num_nodes: int, precision: str | None, loggers: Any
) -> Any:
    from lightning_fabric import Fabric

    settings: dict[str, Any] = {"precision": precision or "32-true", "loggers": loggers, "accelerator": device.type}
    if devices is None:
        if num_nodes != 1:
            raise ValueError(f"num_nodes: expected devices= beside it, got num_nodes={num_nodes} and devices=None")
        settings["devices"] = 1 if device.type == "cpu" else [device.index or 0]
        return Fabric(**settings)
    if devices == "auto" and device.type == "cpu":
        devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # Fabric would count one process on a CPU
    several = devices == "auto" or int(devices) * num_nodes > 1
    fabric = Fabric(**settings, devices=devices, num_nodes=num_nodes, strategy="ddp" if several else "auto")
    fabric.launch()
    return fabric
