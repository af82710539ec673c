r"""Held-out log-likelihood of flows on the patches of BSDS300, by the protocol of the MAF paper.

.. math::
    \frac{1}{n} \sum_i \log p_\theta(x_i) \quad \text{in nats, over the 50,000 test patches}

Training data are two draws of the dequantisation noise over the 300,000 training patches; the weights of the epoch with
the best validation score are tested once. Published, on a million patches and without a limit of time: MAF(5) 155.69,
RealNVP(10) 153.28 (Papamakarios, Pavlakou and Murray, 2017), NSF coupling 157.54, autoregressive 157.31 (Durkan,
Bekasov, Murray and Papamakarios, 2019). A full-covariance Gaussian scores 96.6.

    python -m benchmarks.bsds300 [--model MAF | RealNVP | NSF] [--epochs 24] [--device cuda] [--checkpoint FILE]

On a CPU the default is an hour of one core; on a GPU ``--model NSF --epochs 100 --device cuda`` is the published size.
"""

import argparse
import math
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW

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

    def report(history: History, _: nn.Module) -> None:
        print({key: round(value, 3) for key, value in history.rows[-1].items()}, f"{clock() - begin:.0f} s", flush=True)

    history = fit(
        model,
        data,
        validation=validation,
        max_epochs=arguments.epochs,
        seed=arguments.seed,
        compile=True,
        device=arguments.device,
        checkpoint=arguments.checkpoint,
        resume=arguments.checkpoint is not None,
        progress=False,
        callbacks=[report],
        **{"schedule": partial(warmup_cosine, warmup=0.02)} | settings,
    )
    if curve is not None:
        keep_curve(curve, history)
    return clock() - begin


def parser(description: str, models: Iterable[str], model: str, epochs: int | None) -> argparse.ArgumentParser:
    """The command line of a benchmark that trains one of several models by :func:`train`."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--model", choices=list(models), default=model)
    made.add_argument("--epochs", type=int, default=epochs, help="passes over the training data")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--checkpoint", type=Path)
    return made


def main() -> None:
    """Runs the benchmark and writes its results."""
    line = parser(__doc__.splitlines()[0], MODELS, "MAF", 24)
    line.set_defaults(device="cpu")
    arguments = line.parse_args()
    start()
    torch.manual_seed(arguments.seed)
    model = MODELS[arguments.model]()
    seconds = train(
        model,
        torch.cat([bsds300("train", seed=draw) for draw in (0, 1)]),
        bsds300("valid"),
        arguments,
        optimizer=partial(AdamW, lr=1e-3, weight_decay=0.0, fused=True),
        batch_size=256,
    )
    score = held_out(model, bsds300("test").to(arguments.device))
    spread = 2 * score.standard_error
    bar = BARS.get((arguments.model, arguments.device))
    name = f"{arguments.model}, {sum(p.numel() for p in model.parameters())} parameters, {arguments.epochs} epochs"
    rows = [
        Row(f"{name}: test", score.mean, "nats", score.mean - spread, score.mean + spread, bar, bar and ">= reference"),
        Row(f"{name}: training", seconds / 60, "minutes"),
    ]
    notes = ["Mean over the test patches, low and high two standard errors either side; trained by `fit`, one thread."]
    assert math.isfinite(score.mean)
    write("bsds300", rows, seeds=[arguments.seed], notes=notes)


if __name__ == "__main__":
    main()
