r"""Held-out log-likelihood of flows on the patches of BSDS300, by the protocol of the MAF paper.

.. math::
    \frac{1}{n} \sum_i \log p_\theta(x_i) \quad \text{in nats, over the 50,000 test patches}

Training data are two draws of the dequantisation noise over the 300,000 training patches, or with ``--mirrored`` eight,
each under another symmetry of the square; the weights of the epoch with the best validation score are tested once.
Published, on a million patches and without a limit of time: MAF(5) 155.69, RealNVP(10) 153.28 (Papamakarios, Pavlakou
and Murray, 2017), NSF coupling 157.54, autoregressive 157.31 (Durkan, Bekasov, Murray and Papamakarios, 2019). A
full-covariance Gaussian scores 96.6.

    python -m benchmarks.bsds300 [--model MAF | RealNVP | NSF] [--epochs 24 | --minutes M] [--device cuda] [--mirrored]
        [--checkpoint FILE]

On a CPU the default is an hour of one core; on a GPU ``--device cuda --minutes 8 --mirrored``.
"""

import argparse
import math
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pyro_dgm import fit
from pyro_dgm.datasets import bsds300
from pyro_dgm.evaluation import held_out
from pyro_dgm.models import MAF, NSF, RealNVP
from pyro_dgm.training import History, warmup_cosine

from .report import Row, keep_curve, start, write

MODELS = {
    "MAF": lambda: MAF(63, transforms=5, hidden_features=(512, 512)),
    "RealNVP": lambda: RealNVP(63, transforms=10, hidden_features=(512, 512)),
    "NSF": lambda: NSF(63, autoregressive=True, transforms=5, bins=8, hidden_features=(512, 512)),
}
WARMUP = 500  # steps
BARS = {("MAF", "cpu"): 153.0, ("RealNVP", "cpu"): 153.0, ("MAF", "cuda"): 155.7, ("NSF", "cuda"): 157.3}


def train(
    model: nn.Module,
    data: Tensor,
    validation: Tensor | None,
    arguments: argparse.Namespace,
    curve: str | None = None,
    **settings: object,
) -> float:
    """Trains in place, for as long as the command line says; returns processor seconds (by the wall on a GPU).

    With a name for it the curve of losses is kept among the results.
    """
    clock = time.perf_counter if arguments.device == "cuda" else time.process_time
    begin = clock()
    settings = {"schedule": partial(warmup_cosine, warmup=0.02), "max_epochs": arguments.epochs} | settings
    deadline = math.inf
    if arguments.minutes is not None:
        deadline = time.monotonic() + 60 * arguments.minutes
        settings |= {"schedule": partial(by_the_clock, deadline), "max_epochs": 10_000}
    if arguments.batch is not None:
        settings["batch_size"] = arguments.batch

    def report(history: History, _: nn.Module) -> None:
        print({key: round(value, 3) for key, value in history.rows[-1].items()}, f"{clock() - begin:.0f} s", flush=True)

    def late(*_: object) -> bool:
        return time.monotonic() >= deadline

    torch.backends.cuda.matmul.allow_tf32 = True  # in training alone
    history = fit(
        model,
        data,
        validation=validation,
        seed=arguments.seed,
        compile=True,
        device=arguments.device,
        checkpoint=arguments.checkpoint,
        resume=arguments.checkpoint is not None,
        progress=False,
        callbacks=[report, late],
        **settings,
    )
    torch.backends.cuda.matmul.allow_tf32 = False
    if curve is not None:
        keep_curve(curve, history)
    return clock() - begin


def by_the_clock(deadline: float, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Rises over the warm-up, then falls to zero at the deadline by half a cosine; compiling takes no part in it."""
    begun = time.monotonic()

    def factor(step: int) -> float:
        nonlocal begun
        if step == 1:  # the second step has just been compiled
            begun = time.monotonic()
        t = min(1.0, (time.monotonic() - begun) / max(1.0, deadline - begun))
        return min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * t)) / 2

    return LambdaLR(optimizer, factor)


def mirrored(x: Tensor, symmetry: int) -> Tensor:
    """Returns patches under one of the eight symmetries of the square; their 64 pixels sum to zero."""
    pixels = torch.cat([x, -x.sum(1, keepdim=True)], 1).unflatten(1, (8, 8))
    pixels = pixels.mT if symmetry & 4 else pixels
    return pixels.flip([axis for axis in (1, 2) if symmetry & axis]).flatten(1)[:, :-1]


def parser(description: str, models: Iterable[str], model: str, epochs: int | None) -> argparse.ArgumentParser:
    """The command line of a benchmark that trains one of several models by :func:`train`."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--model", choices=list(models), default=model)
    made.add_argument("--epochs", type=int, default=epochs, help="passes over the training data")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--checkpoint", type=Path)
    made.set_defaults(minutes=None, batch=None)
    return made


def add_time(line: argparse.ArgumentParser) -> None:
    """Lets the command line say how long to train, for models whose loss does not count epochs."""
    line.add_argument("--minutes", type=float, help="train for so long instead, the learning rate by the clock")
    line.add_argument("--batch", type=int, help="data per step, another number than the benchmark's")


def time_spent(arguments: argparse.Namespace) -> str:
    """For how long the command line has a model trained."""
    return f"{arguments.epochs} epochs" if arguments.minutes is None else f"{arguments.minutes:g} minutes"


def main() -> None:
    """Runs the benchmark and writes its results."""
    line = parser(__doc__.splitlines()[0], MODELS, "MAF", 24)
    add_time(line)
    line.add_argument("--mirrored", action="store_true", help="train on patches mirrored and transposed, too")
    line.set_defaults(device="cpu")
    arguments = line.parse_args()
    start()
    torch.manual_seed(arguments.seed)
    model = MODELS[arguments.model]()
    draws = [bsds300("train", seed=draw) for draw in range(8 if arguments.mirrored else 2)]
    if arguments.mirrored:
        draws = [mirrored(x, symmetry) for symmetry, x in enumerate(draws)]
    seconds = train(
        model,
        torch.cat(draws),
        bsds300("valid"),
        arguments,
        optimizer=partial(AdamW, lr=1e-3, weight_decay=0.0, fused=True),
        batch_size=256,
    )
    score = held_out(model, bsds300("test").to(arguments.device))
    spread = 2 * score.standard_error
    bar = BARS.get((arguments.model, arguments.device))
    name = f"{arguments.model}, {sum(p.numel() for p in model.parameters())} parameters, {time_spent(arguments)}"
    rows = [
        Row(f"{name}: test", score.mean, "nats", score.mean - spread, score.mean + spread, bar, bar and ">= reference"),
        Row(f"{name}: training", seconds / 60, "minutes"),
    ]
    notes = ["Mean over the test patches, low and high two standard errors either side; trained by `fit`, one thread."]
    assert math.isfinite(score.mean)
    variant = "" if arguments.device == "cpu" else f"-{arguments.model}" + arguments.mirrored * "-mirrored"
    write(f"bsds300{variant}", rows, seeds=[arguments.seed], notes=notes)


if __name__ == "__main__":
    main()
