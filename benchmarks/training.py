"""What a training step costs: ``pyro_dgm.fit`` against PyTorch by hand, ``torch.compile``, and Pyro's ``SVI``.

The tasks are an autoencoder and a flow at two batch sizes each, and ordinary Pyro programs with 1, 10 and 50 latent
sites (:mod:`benchmarks.training_contestants`). The contestants of a task take turns, round by round, in one process
with one thread. In a round each trains for a few epochs, of which the first two are left out; its figure is the median
epoch over the number of steps. A ratio is taken within a round, so that a drift of the machine cancels, and what is
reported is the median ratio with the least and the greatest. ``fit`` is called afresh in every round, so its epochs
hold everything it does at every step; what it does once, trace and compile, is in rows of its own.

    python -m benchmarks.training [--rounds 9] [--only vae-128 sites-10 ...]
"""

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import pyro
import torch

from .report import Row, write
from .training_contestants import COMPILED, EAGER, JIT, SVI_NAME, TASKS, Task, make_task

EPOCHS, LEFT_OUT = 7, 2
Seconds = dict[str, list[float]]


class Clock:
    """Marks in time.

    On a CPU the clock is that of the process, so that other programs on the machine do not count (one thread computes
    and nothing waits); on a GPU a mark is a CUDA event, with the device synchronised before and after.

    Args:
        device: Where the work is done.
        wall: Whether to use the clock on the wall instead, for compilers that are processes of their own.
    """

    def __init__(self, device: torch.device, wall: bool = False) -> None:
        self.cuda = device.type == "cuda" and not wall
        self.now = time.perf_counter if wall else time.process_time
        self.marks: list[Any] = []

    def __call__(self) -> None:
        """Sets a mark."""
        if not self.cuda:
            self.marks.append(self.now())
            return
        torch.cuda.synchronize()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        torch.cuda.synchronize()
        self.marks.append(event)

    def seconds(self) -> list[float]:
        """Returns the seconds between consecutive marks."""
        return [a.elapsed_time(b) / 1e3 if self.cuda else b - a for a, b in pairwise(self.marks)]


def start_of(task: Task, device: torch.device) -> float:
    """Returns the seconds until the first epoch of a compiled run is over, less those of an epoch."""
    clock = Clock(device, wall=True)
    task.contestants[COMPILED](3, clock)
    first, *_, last = clock.seconds()
    return first - last


def starts_of(task: Task, device: torch.device) -> tuple[float, float]:
    """Returns these seconds when Inductor's cache is empty, and when it holds what an earlier run has put there."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        return start_of(task, device), start_of(task, device)


def measure(task: Task, rounds: int, epochs: int, device: torch.device, notes: list[str]) -> Seconds:
    """Lets the contestants take turns.

    Args:
        task: The task.
        rounds: Rounds, after one that warms up.
        epochs: Epochs of every contestant in a round.
        device: Where it runs.
        notes: Gets a sentence if Pyro's own tracer fails on the task.

    Returns:
        The seconds per step of every contestant, one figure per round.
    """
    found: Seconds = {name: [] for name in task.contestants}
    for turn in range(rounds + 1):
        for name in list(found):
            clock = Clock(device)
            try:
                task.contestants[name](epochs, clock)
            except Exception as error:
                if name != JIT or turn:
                    raise
                del found[name]
                reason = (str(error).strip().splitlines() or [""])[-1]
                notes.append(f"{task.name}: {name} does not run ({type(error).__name__}: {reason}).")
                continue
            if turn:
                found[name].append(median(clock.seconds()[LEFT_OUT:]) / task.steps)
        if turn:
            shown = "  ".join(f"{name} {values[-1] * 1e6:.0f}" for name, values in found.items())
            print(f"{task.name:12} round {turn}, us per step: {shown}", flush=True)
    return found


def ratio(task: Task, seconds: Seconds, one: str, other: str) -> Row:
    """The row of one contestant over another."""
    runs = tuple(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
    limit = task.limits.get((one, other))
    bar = None if limit is None else "<= reference"
    return Row(f"{task.name}: {one} / {other}", median(runs), "ratio", min(runs), max(runs), limit, bar, runs)


def spread(name: str, unit: str, values: Sequence[float]) -> Row:
    """A row that informs."""
    return Row(name, median(values), unit, min(values), max(values))


def rows_of(task: Task, seconds: Seconds) -> list[Row]:
    """The rows of a task: ratios with a bar, further ratios, and the times themselves."""
    others = [(COMPILED, SVI_NAME), (COMPILED, JIT), (COMPILED, EAGER), (EAGER, SVI_NAME)]
    pairs = dict.fromkeys([*task.limits, *((name, "torch") for name in seconds if name != "torch"), *others])
    rows = [ratio(task, seconds, *pair) for pair in pairs if set(pair) <= set(seconds)]
    return rows + [spread(f"{task.name}: {name}, a step", "us", [1e6 * s for s in v]) for name, v in seconds.items()]


def run(
    task: Task, rounds: int, device: torch.device, notes: list[str], epochs: int = EPOCHS, starts: bool = True
) -> list[Row]:
    """Runs a task and returns its rows.

    Args:
        task: The task.
        rounds: Rounds that count.
        device: Where it runs.
        notes: Gets what the reader of the rows has to know.
        epochs: Epochs per round, of which the first two do not count.
        starts: Whether to measure what tracing and compiling take.
    """
    torch.compiler.reset()
    names = ("empty cache", "cache of an earlier run")
    found = dict(zip(names, starts_of(task, device), strict=True)) if starts else {}
    rows = rows_of(task, measure(task, rounds, epochs, device, notes))
    hand, own = task.parameters
    notes.append(
        f"{task.name}: batch {task.batch_size}, {task.steps} steps per epoch; parameters {hand} by hand, {own} in Pyro."
    )
    pyro.clear_param_store()
    return rows + [spread(f"{task.name}: tracing and compiling, {name}", "s", [s]) for name, s in found.items()]


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clocks = {"cpu": "processor time", "cuda": "CUDA events, the device synchronised before and after every epoch"}
    notes = [
        f"A training step of every contestant over that of another, by {clocks[device.type]}, on one thread: median, "
        f"least and greatest of {arguments.rounds} rounds in which the contestants took turns. In a round each trained for "  # noqa: E501
        f"{EPOCHS} epochs; the first {LEFT_OUT} do not count, the median of the others does.",
        "All use Adam with learning rate 1e-3, fused but for SVI (pyro.optim.Adam), batches by index_select along a "
        "permutation, one reparameterised sample for the ELBO, no validation, and no clipping but where it says so. "
        "fit also checks at every step that loss and gradient are finite, and is called afresh in every round.",
        "Tracing and compiling: the seconds by which the first epoch of a compiled run was longer than another one.",
    ]
    rows = []
    for name in arguments.only:
        torch.manual_seed(0)
        rows += run(make_task(name, device, 4 if device.type == "cuda" else 1), arguments.rounds, device, notes)
    for row in rows:
        if row.unit == "s":
            print(f"{row.name:60} {row.figure:.2f} s")
    for row in rows:
        if row.bar:
            print(f"{row.name:45} {row.figure:.3f} <= {row.reference:.2f} {'yes' if row.holds else 'NO'}")
    write("training", rows, seeds=[0], notes=notes)


if __name__ == "__main__":
    main()
