r"""What flows cost: ``pyro_dgm`` eager and compiled against zuko, nflows, normflows and Pyro, at equal size.

RealNVP, MAF and spline flows (couplings and autoregressive) of 5 transforms with conditioners of two hidden layers, for
2, 16 and 64 features and batches of 512 and 4096 (:mod:`benchmarks.flows_contestants`), do four kinds of work:

=========================  ==========================================================================
log_prob                   the log-density of a batch, without gradient
training step              its mean, the gradient, and a step of Adam, fused
sampling                   as many samples, without gradient
density of own samples     as many samples with their log-densities, without gradient
=========================  ==========================================================================

Contestants take turns, round by round, in one process with one thread; a ratio is taken within a round. The best peer
of a row is the one with the least median. The floor, the matrix products of the conditioners alone, is measured with
them.

    python -m benchmarks.flows [--rounds 5] [--only "RealNVP*log_prob" ...] [--quick] [--device cuda]
"""

import argparse
import functools
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from statistics import median

import pyro
import torch
from torch import Tensor, nn
from torch.optim import Adam

from pyro_dgm.training.assembly import make_game
from pyro_dgm.training.compilation import inductor
from pyro_dgm.training.moves import Direct

from .flows_cells import LOG_PROB, OWN, SAMPLE, TRAIN, AnyForm, Cell, cells
from .flows_contestants import COMPILED, EAGER, Contestant, Form, parameters
from .flows_others import ContinuousForm
from .report import RESULTS, Row, keep_memory, write

Call = Callable[[], object]
Seconds = dict[str, list[float]]

FLOOR = "products"
LEAST, BUDGET = 0.05, 5.0
"""Seconds that a measurement lasts at least, and that the rounds of a cell last at most."""


def training(contestant: Contestant, x: Tensor) -> Call:
    """The step that anyone writes; a small rate keeps the flow where it is over thousands of steps."""
    optimizer = Adam(contestant.module.parameters(), 1e-5, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = -contestant.log_prob(x).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def training_compiled(model: nn.Module, x: Tensor) -> Call:
    """The step of ``pyro_dgm.fit(compile=True)``, without its loop over batches.

    Raises:
        RuntimeError: If the compiled loss is another one than the eager loss.
    """
    bound = model.objective()(model)
    game = make_game(bound, (x,), None, None)
    optimizer = Adam(game.players[0].parameters, 1e-5, fused=True)
    move = Direct(game.players[0], optimizer, None, None, 1, [game], nullcontext, (inductor, None))

    @torch.no_grad()
    def step() -> Tensor:
        loss, _ = move.gradient((x,))
        move.update()
        return loss

    step()  # the first is eager
    with torch.no_grad():
        require_close(move.gradient((x,))[0], move.function(x)[0], "training step")
    return step


def require_close(one: Tensor, other: Tensor, what: str, tolerance: float = 1e-3) -> None:
    """Refuses numbers that are not finite or differ.

    Raises:
        RuntimeError: With the greatest difference.
    """
    gap = (one - other).abs().max().item()
    if not gap <= tolerance * (1 + other.abs().max().item()):
        raise RuntimeError(f"{what}: expected the same numbers, got a difference of {gap}")


def call_of(contestant: Contestant, cell: Cell, x: Tensor, compiled: bool = False) -> Call:
    """What is timed."""
    if cell.work == TRAIN:
        return training_compiled(contestant.module, x) if compiled else training(contestant, x)
    works = {LOG_PROB: (contestant.log_prob, x), SAMPLE: (contestant.sample, len(x)),
             OWN: (contestant.sample_and_log_prob, len(x))}  # fmt: skip
    function, argument = works[cell.work]
    if compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)
        with torch.no_grad():
            if cell.work == LOG_PROB:
                require_close(function(x), contestant.log_prob(x), cell.name)
            if cell.work == OWN:
                own, score = function(len(x))
                require_close(score, contestant.log_prob(own), cell.name, 1e-2)

    @torch.no_grad()
    def call() -> object:
        return function(argument)

    return call


def calls_of(cell: Cell, device: torch.device, notes: list[str], eager: bool) -> dict[str, Call]:
    """The contestants of a cell, the compiled one perhaps left out, and the floor."""
    torch.compiler.reset()
    pyro.enable_validation(False)
    torch.manual_seed(0)
    x = torch.randn(cell.batch, *cell.form.event_shape, device=device)
    makers = moved(cell.form.contestants(), device)
    require_densities(cell, makers, x[:8])
    note(cell.form, makers, notes)
    if cell.sequential:
        makers = without_slow(makers, cell, x)
    calls = {name: call_of(contestant, cell, x) for name, contestant in makers.items()}
    if not (cell.sequential or eager or isinstance(cell.form, ContinuousForm)):  # adaptive steps cannot be traced
        torch.manual_seed(0)
        contestant = moved(cell.form.contestants(), device)[EAGER]
        calls = {EAGER: calls.pop(EAGER), COMPILED: call_of(contestant, cell, x, compiled=True), **calls}
    floor = cell.form.floor(x, cell.work == TRAIN)
    return calls if floor is None else {**calls, FLOOR: floor}


def require_densities(cell: Cell, contestants: dict[str, Contestant], x: Tensor) -> None:
    """Refuses densities that are not finite, and continuous flows, which share their field, that differ.

    Raises:
        RuntimeError: If there is one.
    """
    with torch.no_grad():
        scores = {name: contestant.log_prob(x) for name, contestant in contestants.items()}
    for name, score in scores.items():
        same = isinstance(cell.form, ContinuousForm)
        require_close(score, scores[EAGER] if same else score, f"{cell.name}: {name}")


def moved(contestants: dict[str, Contestant], device: torch.device) -> dict[str, Contestant]:
    """Puts contestants on a device."""
    for contestant in contestants.values():
        contestant.module.to(device)
    return contestants


def without_slow(contestants: dict[str, Contestant], cell: Cell, x: Tensor) -> dict[str, Contestant]:
    """Leaves out all but the two fastest peers, by a batch of 32, where calls of D passes would last for seconds."""
    if len(x) * cell.form.features * cell.form.hidden < 2**23:
        return contestants
    small = replace(cell, batch=32)
    calls = {name: call_of(c, small, x[:32]) for name, c in contestants.items() if name != EAGER}
    seconds = {name: seconds_of(call, 1, x.device) for name, call in calls.items()}
    kept = EAGER, *sorted(seconds, key=lambda name: seconds[name])[:2]
    return {name: c for name, c in contestants.items() if name in kept}


def note(form: AnyForm, contestants: dict[str, Contestant], notes: list[str]) -> None:
    """Notes the numbers of parameters, once per form."""
    start = f"{form.label}: parameters "
    if any(line.startswith(start) for line in notes):
        return
    counts = {name: parameters(c.module) for name, c in contestants.items()}
    own = counts.pop(EAGER)
    others = ", ".join(f"{name} {n}" + (f" ({n - own:+d})" if n != own else "") for name, n in counts.items())
    notes.append(f"{start}{own}; {others}.")


@functools.cache
def check(family: str) -> None:
    """Integrates two-dimensional densities of all contestants over the plane, by the trapezoid rule.

    Far out, where an unbounded scale overflows, not a number stands for zero.

    Raises:
        RuntimeError: If one is not 1: a contestant that leaves out a term is no contestant.
    """
    torch.manual_seed(0)
    axis = torch.linspace(-40, 40, 601)
    form, grid = Form(family, 2, 64), torch.cartesian_prod(axis, axis)
    for name, contestant in form.contestants().items():
        with torch.no_grad():
            mass = contestant.log_prob(grid).nan_to_num(-math.inf).exp().sum() * (axis[1] - axis[0]) ** 2
        require_close(mass, torch.ones(()), f"{family}: the integral of the density of {name}", 5e-3)


def seconds_of(call: Call, count: int, device: torch.device) -> float:
    """Seconds per call, by the clock of the process, or of the wall with the device synchronised on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / count
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def measure(calls: dict[str, Call], rounds: int, device: torch.device, budget: float = BUDGET) -> Seconds:
    """Lets the contestants take turns; a call that takes seconds is measured by its first and only one."""
    once, counts = {}, {}
    for name, call in calls.items():
        once[name] = seconds_of(call, 1, device)
        if once[name] < budget / 5 or name == COMPILED:
            once[name] = seconds_of(call, 2, device)
        counts[name] = max(1, math.ceil(LEAST / once[name]))
    whole = sum(once[name] * counts[name] for name in calls)
    rounds = min(rounds, int(budget / whole))
    if rounds == 0:
        return {name: [seconds] for name, seconds in once.items()}
    found: Seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds_of(call, counts[name], device))
    return found


def rows_of(cell: Cell, seconds: Seconds) -> list[Row]:
    """The rows of a cell: ours over the best peer and over the floor, and the times."""
    others = [name for name in seconds if name not in (EAGER, COMPILED, FLOOR)]
    best = min(others, key=lambda name: median(seconds[name]))
    rows = []
    for way, other in product((EAGER, COMPILED), (best, FLOOR)):
        if not {way, other} <= set(seconds):
            continue
        runs = tuple(a / b for a, b in zip(seconds[way], seconds[other], strict=True))
        limit = cell.bar(way) if other == best else None
        name = f"{cell.name}: {way} / {other}"
        bar = None if limit is None else "<= reference"
        rows.append(Row(name, median(runs), "ratio", min(runs), max(runs), limit, bar, runs))
    for name, values in seconds.items():
        us = [1e6 * s for s in values]
        rows.append(Row(f"{cell.name}: {name}, a call", median(us), "us", min(us), max(us)))
    return rows


def show(cell: Cell, seconds: Seconds, rows: list[Row]) -> None:
    """Prints a line about a cell."""
    times = "  ".join(f"{name} {1e6 * median(values):.0f}" for name, values in seconds.items())
    marks = [
        f"{r.name.split(': ')[-1]} {r.figure:.3f}" + (" MISS" if r.holds is False else "")
        for r in rows
        if r.unit == "ratio"
    ]
    print(f"{cell.name}\n    us: {times}\n    " + "; ".join(marks), flush=True)


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of the names of cells")
    parser.add_argument("--quick", action="store_true", help="D 16, batch 512, hidden 64 only")
    parser.add_argument("--eager", action="store_true", help="leave out the compiled flows")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    device = torch.device(arguments.device)
    notes = [
        f"Ratios by processor time on one thread: median, least and greatest of up to {arguments.rounds} rounds in "
        f"which the contestants took turns; fewer where they would last more than {BUDGET:g} s, and one call where a "
        "call takes that long. The best peer is the one with the least median.",
        "All flows have 5 transforms and start from their own initialisation; data are standard normal. Training steps "
        "use torch.optim.Adam(fused=True). Peers run eager. Compiled: torch.compile(fullgraph=True) of log_prob and of "
        "sampling, and for a training step the traced step of pyro_dgm.fit(compile=True).",
        "The allocator keeps freed memory for all (mallopt): page faults, up to a third of the time, come and go.",
        "Argument validation of torch.distributions is off for all (importing zuko switches it off in the process).",
        "The floor is the dense products of the conditioners, once through: for work that takes D passes too.",
        "Where a call of D passes lasts for seconds, only the two peers that are fastest at a batch of 32 take part.",
        "Pyro's degrees of hidden units are spaced in another way, and its couplings and normflows' affine ones cut in "
        "halves that change places. Pyro has no additive coupling.",
    ]
    rows: list[Row] = []
    for cell in cells(arguments.quick):
        if not any(fnmatch(cell.name, f"*{pattern}*") for pattern in arguments.only):
            continue
        if isinstance(cell.form, Form):
            check(cell.form.family)
        start = time.perf_counter()
        calls = calls_of(cell, device, notes, arguments.eager)
        ready = time.perf_counter()
        seconds = measure(calls, arguments.rounds, device)
        print(f"made in {ready - start:.1f} s, measured in {time.perf_counter() - ready:.1f} s")
        found = rows_of(cell, seconds)
        show(cell, seconds, found)
        rows += found
        write("flows", rows, seeds=[0], packages=["zuko", "nflows", "normflows"], notes=notes, folder=arguments.folder)
    for row in rows:
        if row.holds is False:
            print(f"missed: {row.name:80} {row.figure:.3f} <= {row.reference:.2f}")


if __name__ == "__main__":
    main()
