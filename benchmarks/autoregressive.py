r"""Held-out likelihood of autoregressive models on binary tables with published splits.

.. math::
    -\frac{1}{n} \sum_i \log p(x_i) \quad \text{in nats, over the test rows; exact}

For each table every candidate is fitted to the training rows, and the one with the best validation score is tested. The
mixture over orders or masks of EoNADE and MADE is exact too, by log-mean-exp. Published (Germain, Gregor, Murray and
Larochelle, MADE, 2015, arXiv:1502.03509, table 5, with NADE and EoNADE): adult 13.12, mushrooms 9.68, nips 272.4,
dna 79.7.

    python -m benchmarks.autoregressive [--tables adult dna ...] [--folder FOLDER]

Finished candidates are kept in ``--folder``, so that a stopped run goes on.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW

from pyro_dgm import fit
from pyro_dgm.datasets import debd
from pyro_dgm.evaluation import held_out
from pyro_dgm.models import FVBN, MADE, NADE, EoNADE, Mixture, TractableModel
from pyro_dgm.training import one_cycle

from .report import Row, start, write


class Candidate(NamedTuple):
    """A model and how it is trained; several members are fitted one by one, in other orders, and mixed."""

    name: str
    make: Callable[..., TractableModel]
    lr: float = 3e-3
    weight_decay: float = 1e-2
    max_epochs: int = 60
    batch_size: int = 100
    members: int = 1

    @property
    def label(self) -> str:
        """The settings in words."""
        many = f"{self.members} x " if self.members > 1 else ""
        return f"{many}{self.name}, decay {self.weight_decay:g}, {self.max_epochs} epochs"


MADE_500 = partial(MADE, hidden_features=(500,))
NADE_500 = partial(NADE, hidden_features=500)
MADE_ORDERS = partial(MADE_500, masks=64, random_order=True, fresh=True)
EONADE_500 = partial(EoNADE, hidden_features=(500,), orders=64)
LARGE = [
    Candidate("FVBN", FVBN),
    Candidate("MADE", MADE_500),
    Candidate("MADE", MADE_500, weight_decay=0.3),
    Candidate("MADE", MADE_500, members=8),
]
SMALL = [
    *LARGE,
    Candidate("NADE", NADE_500, weight_decay=0.1, max_epochs=40, batch_size=50),
    Candidate("NADE", NADE_500, max_epochs=150, batch_size=50),
    Candidate("NADE", NADE_500, weight_decay=0.1, max_epochs=40, batch_size=50, members=8),
    Candidate("EoNADE of 64 orders", EONADE_500, weight_decay=0.03, max_epochs=600),
    Candidate("MADE of 64 orders", MADE_ORDERS, weight_decay=0.1, max_epochs=600),
]
BARS = {
    "adult": 13.15, "mushrooms": 9.70, "nips": 274.0, "dna": 81.0,
    "nltcs": 6.00, "plants": 12.30, "pumsb_star": 21.8,
}  # fmt: skip
TABLES = [*BARS, "moviereview", "bbc"]


def fitted(candidate: Candidate, train: Tensor, valid: Tensor) -> TractableModel:
    """Fits the members, and mixes them."""
    members = []
    for seed in range(candidate.members):
        torch.manual_seed(seed)
        order = {"order": torch.randperm(train.shape[1]).tolist()} if seed else {}
        members.append(candidate.make(train.shape[1], **order))
        fit(
            members[-1], train, validation=valid,
            optimizer=partial(AdamW, lr=candidate.lr, weight_decay=candidate.weight_decay, fused=True),
            schedule=one_cycle, batch_size=candidate.batch_size, max_epochs=candidate.max_epochs,
            patience=max(10, candidate.max_epochs // 5), seed=seed, progress=False,
        )  # fmt: skip
    return members[0] if len(members) == 1 else Mixture(members)


def evaluate(table: str, candidate: Candidate, folder: Path) -> dict[str, Any]:
    """Scores the validation and the test rows; the latter are looked at for the best candidate only."""
    path = folder / f"{table}, {candidate.label}.json"
    if path.is_file():
        return json.loads(path.read_text())
    begin = time.process_time()
    train, valid, test = (debd(table, split=split).float() for split in ("train", "valid", "test"))
    model = fitted(candidate, train, valid).eval()
    result: dict[str, Any] = {"seconds": time.process_time() - begin}
    for name, x in (("valid", valid), ("test", test)):
        score = held_out(model, x, batch_size=256)
        result[name] = [-score.mean, score.standard_error]
    path.write_text(json.dumps(result))
    print(f"{table}: {candidate.label}: validation {result['valid'][0]:.3f}, {result['seconds']:.0f} s", flush=True)
    return result


def run(table: str, folder: Path) -> list[Row]:
    """Fits all candidates to a table; returns the row of the best on the validation rows, and those of the others."""
    rows, features = debd(table).shape
    found = SMALL if rows < 3000 and features < 600 else LARGE
    results = [evaluate(table, candidate, folder) for candidate in found]
    best = min(range(len(found)), key=lambda k: results[k]["valid"][0])
    mean, error = results[best]["test"]
    name = f"{table}: {found[best].label}"
    bar = BARS.get(table)
    rows = [Row(name, mean, "nats", mean - 2 * error, mean + 2 * error, bar, bar and "<= reference")]
    print(f"{name}: {mean:.3f} +- {2 * error:.3f}", flush=True)
    for k, (candidate, result) in enumerate(zip(found, results, strict=True)):
        label = f"{table}: validation of {candidate.label}{' (chosen)' if k == best else ''}, {result['seconds']:.0f} s"
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
