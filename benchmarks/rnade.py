r"""Held-out log-likelihood of flows and of MADE on the tables of the RNADE paper, ten folds each.

.. math::
    \frac{1}{n} \sum_i \log \frac{1}{M} \sum_{m=1}^M p_m(x_i) \quad \text{in nats, over the test rows of all folds}

The model is a mixture of M models (:class:`pyro_dgm.models.Mixture`) fitted one by one to the training rows from other
seeds, each to the weights of its best validation epoch. Which model, is chosen by the mean validation score over folds
(``--choose`` prints the candidates, and tests nothing); every test row is looked at once, by the models of the fold
it is in. Published: RNADE-MoG -9.36 (red wine), -10.23 (white wine), -2.50 (ionosphere); a Gaussian -13.18, -13.20,
-41.24 (Uria, Murray and Larochelle, 2013, arXiv:1306.0186). The folds of red wine are the authors'. The
flows have what the candidates were chosen with: rectifiers, and splines of five deviations without affine maps.

    python -m benchmarks.rnade [--tables wine-quality-red ...] [--members 5] [--choose]
"""

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pyro_dgm import fit
from pyro_dgm.datasets import rnade
from pyro_dgm.distributions import heads
from pyro_dgm.evaluation import log_likelihood
from pyro_dgm.models import MADE, MAF, NSF, Mixture, TractableModel
from pyro_dgm.training import one_cycle

from .report import RESULTS, Row, start, write


class Candidate(NamedTuple):
    """A flow, or a MADE of mixtures of logistic distributions (``bins`` of them), and how it is trained."""

    flow: str
    transforms: int
    hidden: int
    weight_decay: float
    batch_size: int
    lr: float = 1e-3
    bins: int = 8
    max_epochs: int = 300
    patience: int = 40

    def make(self, features: int) -> TractableModel:
        """Builds the flow."""
        settings = {"transforms": self.transforms, "hidden_features": (self.hidden, self.hidden), "activation": nn.ReLU}
        if self.flow == "MAF":
            return MAF(features, **settings)
        if self.flow == "MADE":
            head = heads.LogisticMixture(self.bins)
            return MADE(features, hidden_features=(self.hidden, self.hidden), head=head)
        return NSF(features, autoregressive=True, bins=self.bins, bound=5.0, affine=False, **settings)


CANDIDATES = {
    "wine-quality-red": [Candidate("MAF", 5, 64, 1.0, 64), Candidate("NSF", 3, 64, 1.0, 64)],
    "wine-quality-white": [
        Candidate("MAF", 5, 64, 1.0, 128),
        Candidate("NSF", 3, 64, 1.0, 128),
        Candidate("MADE", 1, 256, 0.3, 100, lr=3e-3, bins=10, max_epochs=60, patience=60),
    ],
    "ionosphere": [Candidate("MAF", 5, 64, 1.0, 32), Candidate("NSF", 2, 64, 0.5, 32, lr=2e-3, bins=32)],
}
CHOSEN = {"wine-quality-red": 0, "wine-quality-white": 2, "ionosphere": 1}
PUBLISHED = {"wine-quality-red": -9.36, "wine-quality-white": -10.23, "ionosphere": -2.50}


def ensemble(table: str, fold: int, candidate: Candidate, members: int) -> Mixture:
    """Fits the members of the mixture on the training rows of a fold."""
    data, models = rnade(table, fold), []
    for seed in range(members):
        torch.manual_seed(seed)
        model = candidate.make(data.train.shape[1])
        fit(
            model,
            data.train,
            validation=data.validation,
            optimizer=partial(AdamW, lr=candidate.lr, weight_decay=candidate.weight_decay, fused=True),
            batch_size=candidate.batch_size,
            max_epochs=candidate.max_epochs,
            patience=candidate.patience,
            seed=seed,
            schedule=one_cycle if candidate.flow == "MADE" else None,
            compile=candidate.flow != "MADE",
            progress=False,
        )
        models.append(model)
    return Mixture(models)


def choose(table: str, folds: range, members: int) -> None:
    """Prints the validation score of every candidate, mean over the folds."""
    for k, candidate in enumerate(CANDIDATES[table]):
        start, scores = time.process_time(), []
        for fold in folds:
            model = ensemble(table, fold, candidate, members)
            x = rnade(table, fold).validation
            single = torch.stack([log_likelihood(m, x).mean() for m in model.components]).mean()
            scores.append((single, log_likelihood(model, x).mean()))
        single, mixed = torch.tensor(scores).mean(0).tolist()
        seconds = time.process_time() - start
        print(f"{table} {k} {candidate}: one flow {single:.3f}, mixture {mixed:.3f}, {seconds:.0f} s", flush=True)


def run(table: str, members: int, folder: Path) -> Row:
    """Tests the chosen candidate on every fold; folds that were tested before are read from ``folder``."""
    candidate = CANDIDATES[table][CHOSEN[table]]
    scores: list[Tensor] = []
    for fold in range(1, 11):
        path = folder / f"{table}-{fold}-{members}.json"
        if not path.is_file():
            model = ensemble(table, fold, candidate, members)
            path.write_text(json.dumps(log_likelihood(model, rnade(table, fold).test).tolist()))
        scores.append(torch.tensor(json.loads(path.read_text()), dtype=torch.float64))
        print(f"{table} fold {fold}: {scores[-1].mean():.3f}", flush=True)
    rows, means = torch.cat(scores), torch.stack([s.mean() for s in scores])
    error = 2 * rows.std().item() / math.sqrt(len(rows))
    mean = means.mean().item()
    name = f"{table}: {members} x {candidate.flow}({candidate.transforms})"
    return Row(name, mean, "nats", mean - error, mean + error, PUBLISHED[table], ">= reference", tuple(means.tolist()))


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--choose", type=int, nargs="*", metavar="FOLD", help="compare candidates on these folds")
    parser.add_argument("--folder", type=Path, default=Path("out/rnade"), help="where finished folds are kept")
    arguments = parser.parse_args()
    start()
    if arguments.choose is not None:
        for table in arguments.tables:
            choose(table, arguments.choose or range(1, 11), arguments.members)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = [run(table, arguments.members, arguments.folder) for table in arguments.tables]
    notes = [
        "Mean over ten folds, low and high two standard errors over all test rows either side; runs: the folds.",
        "Settings: "
        + "; ".join(f"{t} {CANDIDATES[t][CHOSEN[t]]._asdict()}" for t in arguments.tables)
        + ". Chosen on validation rows alone.",
    ]
    write("rnade", rows, seeds=range(arguments.members), notes=notes, folder=RESULTS)


if __name__ == "__main__":
    main()
