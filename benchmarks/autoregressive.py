r"""Held-out likelihood of autoregressive models on binary tables with published splits.

.. math::
    -\frac{1}{n} \sum_i \log p(x_i) \quad \text{in nats, over the test rows; exact}

For each table every candidate is fitted to the training rows, and the one with the best validation score is tested.
The mixture over orders or masks of EoNADE and MADE is exact too, by log-mean-exp. Published (Germain, Gregor, Murray and
Larochelle, MADE, 2015, arXiv:1502.03509, table 5, with NADE and EoNADE): adult 13.12, mushrooms 9.68, nips 272.4,
dna 79.7.

    python -m benchmarks.autoregressive [--tables adult dna ...] [--folder FOLDER]

Finished candidates are kept in ``--folder``, so that a stopped run goes on.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim import AdamW

from pyro_dgm import fit
from pyro_dgm.datasets import debd
from pyro_dgm.evaluation import log_likelihood
from pyro_dgm.models import FVBN, MADE, NADE, EoNADE, TractableModel

from .report import Row, start, write


class Candidate(NamedTuple):
    """A model and how it is trained."""

    name: str
    make: Callable[[int], TractableModel]
    weight_decay: float
    batch_size: int = 100
    lr: float = 1e-3
    max_epochs: int = 300
    patience: int = 30


def _made(features: int, **settings: Any) -> MADE:
    return MADE(features, hidden_features=(500,), **settings)


def candidates(rows: int) -> list[Candidate]:
    """Returns the candidates for a table with this many training rows: small ones are given more of a penalty."""
    decays = (1e-2, 0.3, 1.0) if rows < 7000 else (1e-2, 0.1)
    many = partial(_made, masks=16, random_order=True, fresh=True)
    found = [Candidate(f"MADE, decay {d}", _made, d) for d in decays]
    found += [Candidate(f"MADE of 16 orders, decay {d}", many, d, max_epochs=1000, patience=100) for d in decays[:2]]
    found += [Candidate(f"FVBN, decay {decays[-1]}", FVBN, decays[-1])]
    if rows < 7000:
        eonade = partial(EoNADE, hidden_features=(500,), orders=16)
        found += [
            Candidate(f"EoNADE of 16 orders, decay {d}", eonade, d, max_epochs=1000, patience=100) for d in decays
        ]
        nade = partial(NADE, hidden_features=500)
        found += [Candidate(f"NADE, decay {d}", nade, d, max_epochs=100, patience=10) for d in decays[1:]]
    return found


BARS = {
    "adult": 13.15,
    "mushrooms": 9.70,
    "nips": 274.0,
    "dna": 81.0,
    "nltcs": 6.00,
    "plants": 12.30,
    "pumsb_star": 21.8,
}
TABLES = [*BARS, "moviereview", "bbc"]


def evaluate(table: str, candidate: Candidate, folder: Path, threads: int) -> dict[str, Any]:
    """Fits a candidate, and scores the validation and the test rows; the latter are looked at for the best one only."""
    path = folder / f"{table}, {candidate.name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    train, valid, test = (debd(table, split=split).float() for split in ("train", "valid", "test"))
    torch.manual_seed(0)
    model = candidate.make(train.shape[1])
    begin = time.process_time()
    history = fit(
        model, train, validation=valid,
        optimizer=partial(AdamW, lr=candidate.lr, weight_decay=candidate.weight_decay, fused=True),
        schedule=partial(halving, epochs=candidate.max_epochs),
        batch_size=candidate.batch_size, max_epochs=candidate.max_epochs, patience=candidate.patience, seed=0,
        progress=False,
    )  # fmt: skip
    seconds = time.process_time() - begin
    model.eval()
    scores = {name: -log_likelihood(model, x, batch_size=256) for name, x in (("valid", valid), ("test", test))}
    result = {name: [s.mean().item(), s.std().item() / math.sqrt(len(s))] for name, s in scores.items()}
    result |= {
        "seconds": seconds,
        "epochs": len(history.rows),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    path.write_text(json.dumps(result))
    return result


def halving(optimizer: torch.optim.Optimizer, steps: int, epochs: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Halves the learning rate every 40 epochs."""
    return torch.optim.lr_scheduler.StepLR(optimizer, max(1, 40 * steps // epochs), 0.5)


def run(table: str, folder: Path) -> list[Row]:
    """Fits all candidates to a table; returns the row of the best on the validation rows, and those of the others."""
    found = candidates(len(debd(table)))
    results = [evaluate(table, candidate, folder, 1) for candidate in found]
    best = min(range(len(found)), key=lambda k: results[k]["valid"][0])
    mean, error = results[best]["test"]
    name = f"{table}: {found[best].name}"
    bar = BARS.get(table)
    rows = [Row(name, mean, "nats", mean - 2 * error, mean + 2 * error, bar, bar and "<= reference")]
    print(f"{name}: {mean:.3f} +- {2 * error:.3f}", flush=True)
    for k, (candidate, result) in enumerate(zip(found, results, strict=True)):
        label = f"{table}: validation of {candidate.name}{' (chosen)' if k == best else ''}, {result['seconds']:.0f} s"
        rows.append(Row(label, result["valid"][0], "nats"))
    return rows


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--folder", type=Path, default=Path("out/autoregressive"), help="where results are kept")
    arguments = parser.parse_args()
    start()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = [row for table in arguments.tables for row in run(table, arguments.folder)]
    notes = ["Mean over the test rows, low and high two standard errors either side; the best on the validation rows."]
    write("autoregressive", rows, seeds=[0], notes=notes)


if __name__ == "__main__":
    main()
