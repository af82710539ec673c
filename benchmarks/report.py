"""How every benchmark reports: rows of figures with their bars, the versions and the machine, as JSON and as Markdown.

A row is one figure with the interval ``[low, high]`` it moved in, what it is compared with (``reference``) and whether
it keeps its ``bar``; a row without a bar informs. The JSON file is the record, the Markdown table is made from it.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import pyro_dgm
from pyro_dgm.training import History

RESULTS = Path(__file__).parent / "results"

Bar = Literal[">= reference", "<= reference"]


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        name: What was measured.
        figure: The figure.
        unit: Its unit.
        low: The low end of the interval it moved in.
        high: The high end.
        reference: What it is compared with.
        bar: How it has to compare with the reference, in a form :attr:`holds` can decide.
        runs: The single figures behind it, one per seed or round.
    """

    name: str
    figure: float
    unit: str
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    bar: Bar | None = None
    runs: tuple[float, ...] = ()

    @property
    def holds(self) -> bool | None:
        """Whether the bar is kept; ``None`` without one."""
        if self.bar is None or self.reference is None:
            return None
        return self.figure >= self.reference if self.bar == ">= reference" else self.figure <= self.reference


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, torch, pyro, pyro_dgm and further packages; ``"absent"`` where one is not installed."""
    found = {"python": platform.python_version(), "pyro_dgm": pyro_dgm.__version__}
    for name, package in (("torch", "torch"), ("pyro", "pyro-ppl"), *((p, p) for p in packages)):
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def machine() -> dict[str, Any]:
    """The machine without its name: what a timing depends on."""
    import torch

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "accelerator": cuda,
    }


def keep_memory() -> None:
    """Lets the allocator keep what is freed, where that can be said (glibc), so that no page faults are timed."""
    import ctypes

    limits = {-1: 2**30, -3: 2**30}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    for key, value in limits.items():
        getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)(key, value)


def start() -> None:
    """Takes one thread, and the data beside the project unless ``PYRO_DGM_DATA`` names others."""
    import torch

    torch.set_num_threads(1)
    os.environ.setdefault("PYRO_DGM_DATA", str(Path(__file__).parents[2] / "shared" / "data"))


def command(module: str) -> str:
    """The command line that ran ``module``, without paths."""
    words = [f" {word}" for word in sys.argv[1:]]
    paths = {k + j for k, word in enumerate(words) for j in (0, 1) if word in (" --folder", " --checkpoint")}
    return f"python -m benchmarks.{module}" + "".join(word for k, word in enumerate(words) if k not in paths)


def write(
    name: str,
    rows: Sequence[Row],
    *,
    seeds: Sequence[int],
    packages: Sequence[str] = (),
    notes: Sequence[str] = (),
    folder: Path = RESULTS,
) -> None:
    """Writes ``NAME.json`` and the table ``NAME.md`` made from it.

    Args:
        name: The benchmark, also the name of its module; a variant of it after a hyphen.
        rows: The figures.
        seeds: The seeds that were run.
        packages: Packages whose versions matter beside Python, torch, pyro and pyro_dgm.
        notes: Sentences for the reader of the table.
        folder: Where the files go.
    """
    record = {
        "command": command(name.partition("-")[0]),
        "seeds": list(seeds),
        "versions": versions(*packages),
        "machine": machine(),
        "notes": list(notes),
        "rows": [{**asdict(row), "holds": row.holds} for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / f"{name}.md").write_text(markdown(name, record))


def keep_curve(name: str, history: History, folder: Path = RESULTS) -> None:
    """Writes the losses of every epoch to ``NAME.json``, and their picture to ``NAME.png``."""
    from pyro_dgm.plots import learning_curves

    columns = {key: [round(value, 4) for value in history[key]] for key in history.columns}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"command": command(name.partition("-")[0]), **columns}) + "\n")
    learning_curves(history, history.losses).savefig(folder / f"{name}.png", dpi=80)


def markdown(name: str, record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    head = ["what", "figure", "low", "high", "unit", "reference", "bar", "holds", "runs"]
    lines = [f"# {name}", "", *(f"{note}\n" for note in record["notes"])]
    lines += ["| " + " | ".join(head) + " |", "| --- | " + "---: | " * 3 + "--- | ---: | --- | --- | --- |"]
    for row in record["rows"]:
        numbers = [_show(row[key]) for key in ("figure", "low", "high")]
        holds = {True: "yes", False: "**no**", None: ""}[row["holds"]]
        runs = ", ".join(map(_show, row["runs"]))
        cells = [row["name"], *numbers, row["unit"], _show(row["reference"]), row["bar"] or "", holds, runs]
        lines.append("| " + " | ".join(cells) + " |")
    facts = {**record["versions"], **record["machine"]}
    lines += ["", f"`{record['command']}`; seeds {', '.join(map(str, record['seeds']))}; "]
    lines[-1] += ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None) + "."
    return "\n".join(lines) + "\n"


def _show(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"
