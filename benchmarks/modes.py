r"""How many modes every adversarial game finds, on a ring of 8 Gaussians and a grid of 25.

.. math::
    \text{modes} = \#\{k : c_k > 0\}, \qquad \text{high quality} = \frac1n \sum_k c_k

with :math:`c_k` the samples among n = 2,500 whose nearest mode is k, within three standard deviations: the protocol of
VEEGAN (Srivastava et al., 2017, arXiv:1705.07761) and PacGAN (Lin et al., 2017, arXiv:1712.04086). The ring has radius
2 and deviations of 0.02 (PacGAN's has 1 and 0.01), the grid a spacing of 2 and deviations of 0.05. The same small
networks, steps, learning rates and schedule for every game; what differs is the game, its penalty, what is around its
critic, and the steps of the critic, which are paid for: runs have as many steps of the critic.

    python -m benchmarks.modes [--data ring grid] [--games NonSaturating ...] [--seeds 0] [--steps 30000]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from pyro_dgm.training import warmup_cosine

from .report import start

N, BATCH, WIDTHS, LATENT, EMA, LR = 2500, 128, (64, 64, 64), 8, 0.999, 1e-3
TRAINING = 102_400  # data, 400 batches


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


Game = tuple[o.Adversarial, Callable[[], nn.Module]]


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
        **{name: (game, critic) for name, game in plain.items()},
        "EnergyMargin": (o.Adversarial(o.EnergyMargin(0.1)), bottleneck),
        "Hinge, SpectralNorm": (o.Adversarial(o.Hinge()), lambda: spectrally_normalized(critic())),
        "NonSaturating, Packed 2": (o.Adversarial(), lambda: Packed(critic(4), 2)),
        "NonSaturating, R1, Packed 2": (o.Adversarial(penalty=r()), lambda: Packed(critic(4), 2)),
    }


def play(game: Game, task: Task, seed: int, steps: int) -> Tensor:
    """Trains on the task and returns samples."""
    torch.manual_seed(seed)
    objective, make_critic = game
    model = GAN(2, LATENT, generator=MLP(LATENT, 2, WIDTHS), critic=make_critic())
    adam = partial(Adam, lr=LR, betas=(0.5, 0.9), fused=True)
    epochs = round(steps * BATCH / TRAINING)
    fit(
        model, task.draw(TRAINING), objective=objective, optimizer=adam, batch_size=BATCH, max_epochs=epochs, seed=seed,
        schedule=partial(warmup_cosine, warmup=0.01), ema=EMA, progress=False,
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


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=["ring", "grid"], default=["ring", "grid"])
    parser.add_argument("--games", nargs="+", choices=list(games()), default=list(games()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--try", action="store_true", dest="trial")
    arguments = parser.parse_args()
    start()
    for data in arguments.data:
        task = tasks()[data]
        for name in arguments.games:
            for seed in arguments.seeds:
                begin, wall = time.process_time(), time.time()
                x = play(games()[name], task, seed, arguments.steps)
                print(
                    data,
                    name,
                    mode_coverage(x, task.centres, task.scale),
                    f"{time.process_time() - begin:.0f} s",
                    f"{time.time() - wall:.0f} wall",
                    flush=True,
                )


if __name__ == "__main__":
    main()
