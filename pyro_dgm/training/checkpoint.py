"""Checkpoints: a run that is killed at any moment and resumed ends with the weights of one left alone.

A checkpoint is one file that holds all that the rest of a run depends on: weights, optimizers, schedules, the moving
average, the best weights so far, the history, the states of all random number generators, and the place in the order
of the data. It is written beside its place and moved into it, so there is always a whole one, and read without
executing anything.

A run is told to stop in time by SIGTERM, which cluster schedulers send first: the step is finished, the
checkpoint written, and the process exits with status 143.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import _archive
from .._version import __version__

FORMAT = "pyro_dgm.run.v1"


class Checkpoint:
    """A file, when it is due, and what it has to fit.

    Args:
        path: The file.
        resume: Whether a file that is there is gone on from.
        every: Seconds between two checkpoints.

    Attributes:
        terminated: Whether SIGTERM has come.

    Raises:
        ValueError: If the folder does not exist, or there is a file and ``resume`` is false.
    """

    def __init__(self, path: Path, resume: bool, every: float) -> None:
        if not path.parent.is_dir():
            raise ValueError(f"checkpoint: expected a path in a folder that exists, got {path}; create the folder")
        if path.is_dir():
            raise ValueError(f"checkpoint: expected a file, got the folder {path}")
        if path.exists() and not resume:
            raise ValueError(
                f"checkpoint: {path} is there already; pass resume=True to go on from it, or remove it to start anew"
            )
        for cut in path.parent.glob(f"{path.name}.*.tmp"):
            if not _lives(cut.name.split(".")[-2]):  # a write that was killed
                cut.unlink(missing_ok=True)
        self.path, self.resume, self.every = path, resume, every
        self.terminated = False
        self._last = time.monotonic()
        self._proven = False

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return time.monotonic() - self._last >= self.every

    def write(self, content: dict[str, Any], signature: dict[str, Any]) -> None:
        """Writes a checkpoint; the first one is read back, so that no run ends with one that cannot be.

        Raises:
            OSError: If it cannot be written; the last one is untouched.
            ValueError: If an optimizer or schedule has a state that cannot be stored.
        """
        record = {"format": FORMAT, "version": __version__, "signature": signature, **content}
        _archive.write(record, self.path)
        self._last = time.monotonic()
        if not self._proven:
            try:
                _archive.read(self.path, "cpu", "fit")
            except ValueError as error:
                self.path.unlink()
                raise ValueError(
                    "checkpoint: the state of an optimizer or schedule holds more than tensors and plain values "
                    f"({error.__cause__}); use another, or train without a checkpoint"
                ) from error
            self._proven = True

    def read(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Returns what was written, or ``None`` if there is nothing to go on from.

        Raises:
            ValueError: If the file is damaged, or of another kind or version; it is untouched.
        """
        if not self.path.exists():
            return None
        content = _archive.read(self.path, device, "fit")
        if content.get("format") != FORMAT:
            raise ValueError(f"{self.path}: expected a checkpoint of fit ({FORMAT}), got {content.get('format')!r}")
        if content["version"] != __version__:
            raise ValueError(
                f"{self.path}: the checkpoint was written by version {content['version']}, this is {__version__}, and "
                "would not go on as that one; use that version, or start anew with another path"
            )
        self._proven = True
        return content

    def compare(self, content: dict[str, Any], signature: dict[str, Any]) -> None:
        """Refuses a checkpoint of another run.

        Raises:
            ValueError: With what differs; the file is untouched.
        """
        found = content["signature"]
        wrong = [f"{key} was {found.get(key)!r}, is {now!r}" for key, now in signature.items() if found.get(key) != now]
        if wrong:
            wrong = [w if len(w) < 200 else f"{w[:200]}..." for w in wrong]
            raise ValueError(
                f"{self.path}: the checkpoint is of another run: {'; '.join(wrong[:3])}; call fit as it was called, or "
                "start anew with another path"
            )

    def listening(self) -> AbstractContextManager[None]:
        """Within, SIGTERM is noted instead of killing the process."""

        def note() -> None:
            self.terminated = True

        return heeding(signal.SIGTERM, note)


def _lives(process: str) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return int(process) != os.getpid()


@contextmanager
def heeding(number: int, note: Callable[[], None]) -> Iterator[None]:
    """Within, a signal does nothing but call a function; only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(number, lambda *_: note())
    try:
        yield
    finally:
        signal.signal(number, previous)
