"""When compiling repays itself: what a trace and its compilation take, what they save per step, and what "auto" does.

For models of many sizes: the seconds to trace the step and to compile its graph with an empty cache, the times of loss
and gradient eager, replayed and compiled, the number of steps after which each has repaid itself, and the number from
which ``fit(..., compile="auto")`` traces and compiles. From the same figures the constants of the rule are fitted:
seconds by least squares of relative errors, what is saved by its mean logarithm.

    python -m benchmarks.compilation [--only NAME ...]
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from examples.hierarchical_regression import model as regression
from examples.hierarchical_regression import simulate
from pyro_dgm.models import GAN, MAF, NSF
from pyro_dgm.objectives import Adversarial, GradientPenalty, Wasserstein
from pyro_dgm.training import compilation
from pyro_dgm.training.graph import capture
from pyro_dgm.training.tracing import loss_and_gradients

from .report import Row, write
from .training_contestants import dgm_realnvp, dgm_vae, pyro_sites

Step = Callable[..., object]
Case = tuple[Callable[..., Tensor], list[nn.Parameter], nn.Module, Tensor]


def of_model(model: nn.Module, x: Tensor) -> Case:
    """A model under its own objective."""
    bound = model.objective()(model)
    return bound, list(bound.parameters()), bound, x


def of_program(model: Callable, guide: Callable, x: Tensor) -> Case:
    """A Pyro program with parameters in the store or in an autoguide."""
    loss = Trace_ELBO()(model, guide)
    loss(x)
    stored = [p for _, p in pyro.get_param_store().named_parameters()]
    return loss, list({id(p): p for p in [*loss.parameters(), *stored]}.values()), loss, x


def critic(x: Tensor) -> Case:
    """The critic of a Wasserstein game with gradient penalty."""
    bound = Adversarial(Wasserstein(), GradientPenalty(10.0))(GAN(x.shape[1]))
    player = bound.players[0]
    return player.loss, list(player.parameters), bound, x


CASES: dict[str, Callable[[], Case]] = {
    "1 site": lambda: of_program(*pyro_sites(1, "c1"), torch.randn(100, 1)),
    "10 sites": lambda: of_program(*pyro_sites(10, "c10"), torch.randn(100, 1)),
    "50 sites": lambda: of_program(*pyro_sites(50, "c50"), torch.randn(100, 1)),
    "hierarchical regression": lambda: of_program(regression, AutoNormal(regression), simulate()[0]),
    "VAE, batch 16": lambda: of_model(dgm_vae(), torch.randint(2, (16, 784)).float()),
    "VAE, batch 128": lambda: of_model(dgm_vae(), torch.randint(2, (128, 784)).float()),
    "RealNVP, batch 128": lambda: of_model(dgm_realnvp(), torch.randn(128, 16)),
    "RealNVP, batch 1024": lambda: of_model(dgm_realnvp(), torch.randn(1024, 16)),
    "MAF, batch 128": lambda: of_model(MAF(8), torch.randn(128, 8)),
    "NSF, batch 128": lambda: of_model(NSF(8), torch.randn(128, 8)),
    "NSF autoregressive, batch 512": lambda: of_model(NSF(8, autoregressive=True), torch.randn(512, 8)),
    "WGAN-GP critic, batch 128": lambda: critic(torch.randn(128, 8)),
}


def per_step(steps: dict[str, Step], x: Tensor, rounds: int = 9) -> dict[str, float]:
    """Returns the median seconds of each way, the ways taking turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            step(x)
            count, start = 0, time.process_time()
            while time.process_time() - start < 0.1:
                step(x)
                count += 1
            if turn:
                found[name].append((time.process_time() - start) / count)
    return {name: median(values) for name, values in found.items()}


def measure(name: str) -> tuple[list[Row], tuple[float, float, float]]:
    """Returns the rows of a case, and its operations, seconds to compile and seconds saved per step."""
    from torch._inductor.utils import fresh_cache

    pyro.clear_param_store()
    torch.manual_seed(0)
    loss, parameters, module, x = CASES[name]()
    eager = loss_and_gradients(loss, parameters)
    with torch.no_grad(), pyro.validation_enabled(False):
        eager(x)
        start = time.perf_counter()
        graph, state = capture(eager, (x,), [module])
        tracing = time.perf_counter() - start
        with fresh_cache():
            torch.compiler.reset()
            start = time.perf_counter()
            compiled = compilation.inductor(graph, [*state, x])
            compiled(*state, x)
            compiling = time.perf_counter() - start
            ways = {
                "eager": eager,
                "replayed": lambda x: graph(*state, x),
                "compiled": lambda x: compiled(*state, x),
            }
            seconds = per_step(ways, x)
    n = compilation.operations_of(graph)
    saved = {way: seconds["eager"] - seconds[way] for way in ("replayed", "compiled")}
    after = {
        "replayed": tracing / max(saved["replayed"], 1e-9),
        "compiled": (tracing + compiling) / max(saved["compiled"], 1e-9),
    }
    figures = [
        ("operations", n, ""), ("tracing", tracing, "s"), ("compiling", compiling, "s"),
        *((f"{way} step", 1e6 * seconds[way], "us") for way in seconds),
        *((f"{way} repays after", steps, "steps") for way, steps in after.items()),
        ("auto traces from", compilation.FEWEST_STEPS, "steps"),
        ("auto compiles from", compilation.steps_to_repay(n), "steps"),
    ]  # fmt: skip
    print(name, {what: round(figure, 3) for what, figure, _ in figures}, flush=True)
    return [Row(f"{name}: {what}", float(figure), unit) for what, figure, unit in figures], (
        n,
        compiling,
        saved["compiled"],
    )


def main() -> None:
    """Measures all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, points = [], []
    for name in arguments.only:
        more, point = measure(name)
        rows += more
        points.append(point)
    n, compiling, saved = np.array(points).T
    design = np.stack([np.ones_like(n), n], 1)
    scale = 1 / compiling  # relative errors
    a, b = np.linalg.lstsq(design * scale[:, None], compiling * scale, rcond=None)[0]
    s = float(np.exp(np.mean(np.log(np.maximum(saved, 1e-9) / n))))
    print(f"compiling = {a:.2f} s + {b:.4f} s per operation; saved per operation and step {1e6 * s:.2f} us")
    for what, figure, unit in (("a", a, "s"), ("b", b, "s per operation"), ("s", 1e6 * s, "us per operation")):
        rows.append(Row(f"fitted constant {what}", float(figure), unit))
    notes = [
        "The first compilation of a process takes some four seconds longer (here that of the first row). The rule's "
        "constants allow for that, and for tracing, beside the fitted ones, which are those of compiling alone.",
        "Loss and gradient of one step, without the optimizer, on one thread; processor time for steps, the clock on "
        "the wall for tracing and compiling (an empty cache; a second run of a model finds its kernels there).",
        "Replayed: the traced graph, operation by operation. A way repays itself after tracing and compiling divided "
        "by what it saves per step; auto goes by the number of operations alone, so that a run that is resumed "
        "decides as it did before.",
    ]
    write("compilation", rows, seeds=[0], notes=notes)


if __name__ == "__main__":
    main()
