r"""How many modes every adversarial game finds, on a ring of 8 Gaussians and a grid of 25.

.. math::
    \text{modes} = \#\{k : c_k > 0\}, \qquad \text{high quality} = \frac1n \sum_k c_k

with :math:`c_k` the samples among n = 2,500 whose nearest mode is k, within three standard deviations: the protocol of
VEEGAN (Srivastava et al., 2017, arXiv:1705.07761) and PacGAN (Lin et al., 2017, arXiv:1712.04086). The ring has radius
2 and deviations of 0.02 (PacGAN's has 1 and 0.01), the grid a spacing of 2 and deviations of 0.05. The same small
networks, learning rates and schedule for every game, and as many steps of the critic; what differs is the game, its
penalty, and what is around its critic. One game is also given six times the steps, and says so: it was chosen, and the
weight of its penalties, by trials on these tasks. A game whose loss stops being finite ends there.

    python -m benchmarks.modes [--data ring grid] [--games NonSaturating ...] [--seeds 0] [--steps 12000]

Samples are kept in a folder, and runs that are there are not made again; rows of data of which there is no run stay.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import matplotlib
import torch
from torch import Tensor, nn
from torch.optim import Adam

from pyro_dgm import fit
from pyro_dgm import objectives as o
from pyro_dgm.datasets.toy import eight_gaussians, grid_gaussians
from pyro_dgm.evaluation import mode_coverage
from pyro_dgm.models import GAN
from pyro_dgm.nn import MLP, Packed, ReconstructionScore, spectrally_normalized
from pyro_dgm.training import NonFiniteError, warmup_cosine

from .report import RESULTS, Row, start, write

N, BATCH, WIDTHS, LATENT, EMA, LR = 2500, 128, (64, 64, 64), 8, 0.999, 1e-3
TRAINING = 102_400  # data, 800 batches


@dataclass(frozen=True)
class Task:
    """Data whose modes are known; what was published about them: modes, per cent of high quality."""

    draw: Callable[[int], Tensor]
    centres: Tensor
    scale: float
    published: dict[str, tuple[float, float]]
    least: int


def tasks() -> dict[str, Task]:
    """Returns the two tasks."""
    angle = torch.arange(8) * (torch.pi / 4)
    ticks = torch.arange(-4.0, 5.0, 2.0)
    ring, grid = eight_gaussians(2.0, 0.02), grid_gaussians(5, 2.0, 0.05)
    published = (
        {"GAN": (1, 99.3), "ALI": (2.8, 0.13), "unrolled GAN": (7.6, 35.6), "VEEGAN": (8, 52.9),
         "GAN (PacGAN's rerun)": (6.3, 98.2), "PacGAN2": (7.9, 95.6), "PacGAN4": (7.8, 95.9)},
        {"GAN": (3.3, 0.5), "ALI": (15.8, 1.6), "unrolled GAN": (23.6, 16), "VEEGAN": (24.6, 40),
         "GAN (PacGAN's rerun)": (17.3, 94.8), "PacGAN2": (23.8, 91.3), "PacGAN4": (24.8, 93.6)},
    )  # fmt: skip
    return {
        "ring": Task(
            lambda n: ring.sample((n,)), 2 * torch.stack([angle.cos(), angle.sin()], -1), 0.02, published[0], 8
        ),
        "grid": Task(lambda n: grid.sample((n,)), torch.cartesian_prod(ticks, ticks), 0.05, published[1], 24),
    }


def critic(features: int = 2, out: int = 1) -> nn.Module:
    """Returns the critic's network."""
    return MLP(features, out, WIDTHS, activation=nn.LeakyReLU)


def bottleneck() -> nn.Module:
    """Returns a critic that reconstructs; data of two numbers have no room for a bottleneck, so it is one number."""
    return ReconstructionScore(nn.Sequential(MLP(2, 1, WIDTHS[:1], activation=nn.LeakyReLU), MLP(1, 2, WIDTHS[:1])))


Game = tuple[o.Adversarial, Callable[[], nn.Module], int]  # objective, critic, and how many times the steps


def games() -> dict[str, Game]:
    """Returns every game with the critic that it is played with."""
    gp, r = o.GradientPenalty, partial(o.R1, 0.01)
    both = [o.R1(0.01), o.R2(0.01)]
    plain: dict[str, o.Adversarial] = {
        "Minimax": o.Adversarial(o.Minimax()),
        "NonSaturating": o.Adversarial(),
        "NonSaturating, smoothed labels": o.Adversarial(o.NonSaturating(smoothing=0.1)),
        "LeastSquares": o.Adversarial(o.LeastSquares()),
        "Hinge": o.Adversarial(o.Hinge()),
        "Wasserstein, clipped": o.Adversarial(o.Wasserstein(), critic_steps=5, weight_clip=0.1),
        "Wasserstein, GradientPenalty": o.Adversarial(o.Wasserstein(), gp(0.1), critic_steps=2),
        "NonSaturating, DRAGAN": o.Adversarial(penalty=o.DRAGAN(1.0, scale=0.1)),
        "NonSaturating, R1": o.Adversarial(penalty=r()),
        "NonSaturating, R1 and R2": o.Adversarial(penalty=both),
        "Relativistic": o.Adversarial(o.Relativistic()),
        "Relativistic, R1 and R2": o.Adversarial(o.Relativistic(), both),
        "Relativistic, average": o.Adversarial(o.Relativistic(average=True)),
        "KullbackLeibler": o.Adversarial(o.KullbackLeibler()),
        "ReverseKullbackLeibler": o.Adversarial(o.ReverseKullbackLeibler()),
        "PearsonChiSquared": o.Adversarial(o.PearsonChiSquared()),
        "SquaredHellinger": o.Adversarial(o.SquaredHellinger()),
        "JensenShannon": o.Adversarial(o.JensenShannon()),
        "TotalVariation": o.Adversarial(o.TotalVariation()),
    }
    return {
        "Relativistic, R1 and R2, 6 times the steps": (plain["Relativistic, R1 and R2"], critic, 6),
        **{name: (game, critic, 1) for name, game in plain.items()},
        "EnergyMargin": (o.Adversarial(o.EnergyMargin(0.1)), bottleneck, 1),
        "Hinge, SpectralNorm": (o.Adversarial(o.Hinge()), lambda: spectrally_normalized(critic()), 1),
        "NonSaturating, Packed 2": (o.Adversarial(), lambda: Packed(critic(4), 2), 1),
        "NonSaturating, R1, Packed 2": (o.Adversarial(penalty=r()), lambda: Packed(critic(4), 2), 1),
    }


def play(game: Game, task: Task, seed: int, steps: int) -> Tensor:
    """Trains on the task and returns samples."""
    torch.manual_seed(seed)
    objective, make_critic, times = game
    model = GAN(2, LATENT, generator=MLP(LATENT, 2, WIDTHS), critic=make_critic())
    adam = partial(Adam, lr=LR, betas=(0.5, 0.9), fused=True)
    epochs = max(1, round(times * steps * BATCH / TRAINING))
    with suppress(NonFiniteError):  # the model then holds its last finite weights
        fit(
            model, task.draw(TRAINING), objective=objective, optimizer=adam, batch_size=BATCH, max_epochs=epochs,
            seed=seed, schedule=partial(warmup_cosine, warmup=0.01), ema=EMA, progress=False,
        )  # fmt: skip
    torch.manual_seed(seed)
    return model().sample((N,))


def picture(samples: dict[str, Tensor], task: Task, path: Path) -> None:
    """Draws the samples of every game."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 6
    rows = -(-len(samples) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.4 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (name, x) in zip(axes.flat, samples.items(), strict=False):
        ax.scatter(*task.centres.T, s=30, facecolors="none", edgecolors="tab:red", linewidths=0.5)
        ax.scatter(*x.T, s=1, color="black", alpha=0.3, linewidths=0)
        edge = 1.3 * float(task.centres.abs().max())
        ax.set(title=name, xlim=(-edge, edge), ylim=(-edge, edge))
        ax.title.set_fontsize(6)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def rows(folder: Path, data: str) -> list[Row]:
    """Returns the figures of all runs that are there, the best game's against the bars, and the published ones."""
    task, found = tasks()[data], {}
    for name in games():
        files = sorted(folder.glob(f"{data}-{name}-*.pt"))
        found[name] = [mode_coverage(torch.load(f, weights_only=True), task.centres, task.scale) for f in files]
    found = {name: runs for name, runs in found.items() if runs}
    modes = {name: tuple(float(each.modes) for each in runs) for name, runs in found.items()}
    good = {name: tuple(100 * each.high_quality for each in runs) for name, runs in found.items()}
    best = max(found, key=lambda name: (min(modes[name]) >= task.least, fmean(good[name])))
    made = []
    for kind, unit, runs, least in (("modes", "modes", modes, task.least), ("high quality", "%", good, 90.0)):
        for name, each in runs.items():
            bar = (least, ">= reference") if name == best else (None, None)
            label = f"{data}, {kind}: {name}" + (" (the best)" if name == best else "")
            made.append(Row(label, fmean(each), unit, min(each), max(each), *bar, each))
        for name, figures in task.published.items():
            made.append(Row(f"{data}, {kind}: {name}, published", figures[kind != "modes"], unit))
    return made


def earlier(data: str) -> list[Row]:
    """Returns the rows that an earlier run has left about these data."""
    file = RESULTS / "modes.json"
    kept = json.loads(file.read_text())["rows"] if file.exists() else []
    return [Row(**{key: row[key] for key in row if key != "holds"}) for row in kept if row["name"].startswith(data)]


def report(folder: Path, seeds: list[int]) -> None:
    """Writes tables and pictures of what is there."""
    notes = [
        f"{N} samples; {TRAINING} training data; networks of {len(WIDTHS)} layers of {WIDTHS[0]}, noise of {LATENT} "
        f"numbers, batches of {BATCH}, Adam at {LR} with betas 0.5 and 0.9 for either player, half a cosine, "
        f"generators averaged with decay {EMA}. The same for all games, but "
        "for the one of six times the steps; that game and the weights of penalties were chosen on these tasks, and "
        "no other game was tuned.",
        "Published: VEEGAN's table (GAN, ALI, unrolled GAN, VEEGAN) and PacGAN's, whose runs have other networks.",
        "A perfect model has 98.9 % of its samples within three deviations of a mode.",
    ]
    there = [data for data in ("ring", "grid") if any(folder.glob(f"{data}-*.pt"))]
    made = [row for data in ("ring", "grid") for row in (rows(folder, data) if data in there else earlier(data))]
    write("modes", made, seeds=seeds, notes=notes)
    for data in there:
        first = {name: file for name in games() if (file := folder / f"{data}-{name}-{seeds[0]}.pt").exists()}
        samples = {name: torch.load(file, weights_only=True) for name, file in first.items()}
        picture(samples, tasks()[data], RESULTS / f"modes-{data}.png")


def main() -> None:
    """Runs what has not been run, and writes its results after every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=["ring", "grid"], default=["ring", "grid"])
    parser.add_argument("--games", nargs="+", choices=list(games()), default=list(games()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--folder", type=Path, default=Path("out/modes"), help="for the samples of every run")
    arguments = parser.parse_args()
    start()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for seed, data, name in itertools.product(arguments.seeds, arguments.data, arguments.games):
        file, begin, task = arguments.folder / f"{data}-{name}-{seed}.pt", time.process_time(), tasks()[data]
        if file.exists():
            continue
        x = play(games()[name], task, seed, arguments.steps)
        torch.save(x, file)
        seconds = time.process_time() - begin
        print(f"{data} {name}: {mode_coverage(x, task.centres, task.scale)}, {seconds:.0f} s", flush=True)
        report(arguments.folder, arguments.seeds)
    report(arguments.folder, arguments.seeds)


if __name__ == "__main__":
    main()
