r"""Held-out log-likelihood of neural spline flows on UCI tables: ``pyro_dgm.models.NSF`` against ``zuko.flows.NSF``.

.. math::
    \frac{1}{n} \sum_i \log p_\theta(x_i) \quad \text{in nats, over the test rows of } \texttt{pyro\_dgm.datasets.uci}

Both flows have the same transforms and bins. Ours is as it is by default, with affine maps before its splines and
shifted rectifiers, and its hidden layers are narrower, so that it has fewer parameters; zuko's has rectifiers. Each
bends the interval that its library does by default, ours three deviations to either side and zuko's five. They
start from the same seed and go through one and the same plain loop: Adam with a cosine schedule, the same batches
in the same order, validation after every epoch, the weights of the best epoch, one look at the test rows. Settings
were chosen on the validation rows. A third contestant is our flow trained by ``pyro_dgm.fit`` with those settings:
it has to give what the loop gives.

Rows: the mean over seeds, with the least and greatest seed; the difference ours - zuko, paired by test row and averaged
over seeds, with two standard errors over test rows either side; and the processor time of a training step of ours over
that of zuko, rounds interleaved. The coupling forms (zuko's is ``passes=2``) bend the conditioning features too, by
splines without input, and ours is given zuko's masks: the first half of the columns, then the last.

Importing zuko switches off the argument validation of ``torch.distributions`` in the whole process: both run without.

    python -m benchmarks.uci [--seeds 0 1 2] [--tables power-plant ...]
"""

import argparse
import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Literal, NamedTuple

import torch
import zuko
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_dgm import fit
from pyro_dgm.datasets.uci import Splits, uci
from pyro_dgm.models import NSF

from .report import Row, write

Form = Literal["autoregressive", "coupling"]
Train = Callable[[nn.Module, Splits, "Settings", int], None]


class Settings(NamedTuple):
    """How both contestants are trained on a table."""

    batch_size: int
    max_epochs: int
    patience: int
    lr: float
    clip: float = 5.0


SETTINGS = {
    "power-plant": Settings(256, 60, 20, 6e-3),
    "wine-quality-red": Settings(128, 100, 30, 1e-3),
    "concrete": Settings(128, 300, 50, 3e-3),
}
BINS, WIDTH = 8, 128
OUR_WIDTH: dict[Form, int] = {"autoregressive": 122, "coupling": 124}
TRANSFORMS: dict[Form, int] = {"autoregressive": 3, "coupling": 6}


def ours(features: int, form: Form) -> nn.Module:
    """Our flow, without the standardisation that the splits have had already."""
    shape = {"transforms": TRANSFORMS[form], "bins": BINS, "hidden_features": (OUR_WIDTH[form],) * 2}
    half = [i < (features + 1) // 2 for i in range(features)]
    masks = [half, half[::-1]] if form == "coupling" else None
    return NSF(features, autoregressive=form == "autoregressive", standardize=False, masks=masks, **shape)


def zukos(features: int, form: Form) -> nn.Module:
    """Zuko's flow of the same size."""
    passes = None if form == "autoregressive" else 2
    shape = {"transforms": TRANSFORMS[form], "bins": BINS, "hidden_features": (WIDTH,) * 2}
    return zuko.flows.NSF(features, passes=passes, activation=nn.ReLU, **shape)


def parameters(flow: nn.Module) -> int:
    """Counts the parameters that take part: weights behind a mask do not."""
    masked = sum(int((m.mask == 0).sum()) for m in flow.modules() if hasattr(m, "mask"))
    return sum(p.numel() for p in flow.parameters()) - masked


def by_loop(flow: nn.Module, data: Splits, settings: Settings, seed: int) -> None:
    """Trains any flow whose call gives a distribution, to the weights of the best validation epoch."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(int(torch.randint(2**62, ())))  # the batches of fit(seed=seed)
    n, weights = len(data.train), flow.state_dict()
    best, best_epoch = -math.inf, 0
    optimizer = Adam(flow.parameters(), settings.lr)
    schedule = CosineAnnealingLR(optimizer, settings.max_epochs * math.ceil(n / settings.batch_size))
    for epoch in range(1, settings.max_epochs + 1):
        for index in torch.randperm(n, generator=order).split(settings.batch_size):
            optimizer.zero_grad()
            loss = -flow().log_prob(data.train[index]).mean()
            loss.backward()
            clip_grad_norm_(flow.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
        score = scores(flow, data.validation).mean().item()
        if score > best:
            best, best_epoch, weights = score, epoch, copy.deepcopy(flow.state_dict())
        if epoch - best_epoch >= settings.patience:
            break
    flow.load_state_dict(weights)


def by_fit(flow: nn.Module, data: Splits, settings: Settings, seed: int) -> None:
    """Trains our flow by ``pyro_dgm.fit`` with the settings of the loop."""
    fit(
        flow,
        data.train,
        validation=data.validation,
        optimizer=partial(Adam, lr=settings.lr),
        schedule=CosineAnnealingLR,
        batch_size=settings.batch_size,
        max_epochs=settings.max_epochs,
        gradient_clip=settings.clip,
        patience=settings.patience,
        seed=seed,
        progress=False,
    )


CONTESTANTS: dict[str, tuple[Callable[[int, Form], nn.Module], Train]] = {
    "pyro_dgm": (ours, by_loop),
    "zuko": (zukos, by_loop),
    "pyro_dgm.fit": (ours, by_fit),
}


@torch.no_grad()
def scores(flow: nn.Module, x: Tensor) -> Tensor:
    """The log-likelihood of every row."""
    return flow().log_prob(x)


def run(table: str, form: Form, names: Sequence[str], seeds: Sequence[int]) -> dict[str, Tensor]:
    """Trains the contestants in turn, seed by seed; returns test log-likelihoods with shape (seeds, rows)."""
    data, found = uci(table), {name: [] for name in names}
    for seed in seeds:
        for name in names:
            make, train = CONTESTANTS[name]
            torch.manual_seed(seed)
            flow, start = make(data.train.shape[1], form), time.perf_counter()
            train(flow, data, SETTINGS[table], seed)
            found[name].append(scores(flow, data.test).double())
            validation, test = scores(flow, data.validation).mean(), found[name][-1].mean()
            seconds = time.perf_counter() - start
            print(f"{table:17}{form:15}{name:13} seed {seed}  validation {validation:8.4f}  test {test:8.4f}", end="")
            print(f"  parameters {parameters(flow)}  {seconds:.0f} s", flush=True)
    return {name: torch.stack(rows) for name, rows in found.items()}


def likelihoods(table: str, form: Form, seeds: Sequence[int]) -> list[Row]:
    """The rows of one table and form."""
    names = list(CONTESTANTS) if form == "autoregressive" else ["pyro_dgm", "zuko"]
    found = run(table, form, names, seeds)
    rows = []
    for name, score in found.items():
        runs = tuple(score.mean(1).tolist())
        reference = None if name == "zuko" else found["zuko"].mean().item()
        bar = ">= reference" if name == "pyro_dgm" else None
        rows.append(Row(f"{table}, {form}: {name}", mean(runs), "nats", min(runs), max(runs), reference, bar, runs))
    difference = found["pyro_dgm"] - found["zuko"]
    error = difference.mean(0).std().item() / math.sqrt(difference.shape[1])
    gap, runs = difference.mean().item(), tuple(difference.mean(1).tolist())
    name = f"{table}, {form}: pyro_dgm - zuko, ± 2 se over test rows"
    rows.append(Row(name, gap, "nats", gap - 2 * error, gap + 2 * error, 0.0, None, runs))
    if "pyro_dgm.fit" in found:
        runs = tuple((found["pyro_dgm.fit"] - found["pyro_dgm"]).mean(1).abs().tolist())
        name = f"{table}, {form}: fit against the loop, greatest gap"
        rows.append(Row(name, max(runs), "nats", min(runs), max(runs), 0.01, "<= reference", runs))
    return rows


def timings(form: Form, features: int = 11, batch_size: int = 128, rounds: int = 9, steps: int = 20) -> Row:
    """Processor time of a training step, ours over zuko's, the two in turn: median, least and greatest round."""
    x = torch.randn(batch_size, features, generator=torch.Generator().manual_seed(0))
    flows = [make(features, form) for make in (ours, zukos)]
    pairs = [(flow, Adam(flow.parameters(), 1e-3)) for flow in flows]
    ratios = []
    for _ in range(rounds + 1):
        seconds = []
        for flow, optimizer in pairs:
            start = time.process_time()
            for _ in range(steps):
                optimizer.zero_grad()
                (-flow().log_prob(x).mean()).backward()
                optimizer.step()
            seconds.append((time.process_time() - start) / steps)
        ratios.append(seconds[0] / seconds[1])
    ratios = ratios[1:]  # the first round warms up
    name = (
        f"training step, {form}, {features} features, batch {batch_size}: pyro_dgm / zuko ({seconds[1] * 1e3:.1f} ms)"
    )
    return Row(name, median(ratios), "ratio", min(ratios), max(ratios), 1.0, None, tuple(ratios))


def notes(tables: Sequence[str]) -> list[str]:
    """What a reader of the table has to know."""
    counts = [
        f"{form} with {d} features {parameters(ours(d, form))} and {parameters(zukos(d, form))}"
        for form in TRANSFORMS
        for d in (5, 9, 11)
    ]
    settings = [f"{t} " + ", ".join(f"{k} {v}" for k, v in SETTINGS[t]._asdict().items()) for t in tables]
    return [
        "Mean test log-likelihood over seeds, low and high the least and greatest seed; timings: median, least and "
        "greatest round. Bar: ours at least zuko's.",
        "Parameters behind no mask, ours and zuko's: " + "; ".join(counts) + ".",
        "Settings (of both, by validation): " + "; ".join(settings) + ".",
        "Argument validation of torch.distributions is off for both: importing zuko switches it off.",
    ]


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shared = Path(__file__).parents[2] / "shared" / "data"
    if shared.is_dir():
        os.environ.setdefault("PYRO_DGM_DATA", str(shared))
    rows = [
        row for table in arguments.tables for form in TRANSFORMS for row in likelihoods(table, form, arguments.seeds)
    ]
    rows += [timings(form) for form in TRANSFORMS]
    write("uci", rows, seeds=arguments.seeds, packages=["zuko"], notes=notes(arguments.tables))


if __name__ == "__main__":
    main()
