"""How a benchmark trains one of its models: the command line that says for how long, and the call of ``fit``."""

import argparse
import math
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pyro_dgm import fit
from pyro_dgm.training import History, warmup_cosine

from .report import keep_curve

WARMUP = 500  # steps


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
