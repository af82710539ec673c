r"""A training step of latent variable models: ``pyro_dgm.fit``, compiled, against the same step written by hand.

Each model has its twin in :mod:`benchmarks.vae_contestants`: plain PyTorch, run eagerly, with fused Adam. The two take
turns, round by round, as in :mod:`benchmarks.training`, whose clock, loops and rows are used; batches hold 128 data.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_dgm import models as m
from pyro_dgm.distributions import heads
from pyro_dgm.objectives import IWAE
from pyro_dgm.transforms import Planar

from . import vae_contestants as hand
from .report import Row, write
from .training import COMPILED, Task, measure, rows_of
from .training_contestants import by_fit, by_torch, count

BATCH = 128
PIXELS, HIDDEN, LATENT = 784, 400, 20
WIDE = {"hidden_features": (HIDDEN,)}


class Pair(NamedTuple):
    """A twin, the model (or an objective on it), data, and the steps of an epoch."""

    twin: Callable[[], nn.Module]
    model: Callable[[], nn.Module]
    data: Callable[[int], Tensor]
    steps: int = 16


def pixels(n: int) -> Tensor:
    """Binary images."""
    return torch.randint(2, (n, PIXELS)).float()


def sequences(n: int) -> Tensor:
    """Binary sequences of 16 steps, as those of music."""
    return torch.randint(2, (n, 16, 32)).float()


def holes(n: int) -> Tensor:
    """A table of 12 columns, half of its numbers missing."""
    x = torch.randn(n, 12)
    return torch.where(torch.rand_like(x) < 0.5, torch.nan, x)


def parts(**prior: nn.Module) -> dict[str, nn.Module]:
    """Prior, likelihood and posterior of binary images."""
    likelihood = m.IndependentBernoulli(PIXELS, LATENT, **WIDE)
    posterior = m.DiagonalNormal(LATENT, PIXELS, **WIDE)
    return {"prior": m.StandardNormal(LATENT), "likelihood": likelihood, "posterior": posterior, **prior}


def twin(cls: Callable[..., nn.Module], *settings: float, out: int = 2 * LATENT) -> nn.Module:
    """An encoder, a decoder and what combines them."""
    return cls(hand.mlp(PIXELS, HIDDEN, out), hand.mlp(LATENT, HIDDEN, PIXELS), *settings)


def planar() -> m.VAE:
    """A posterior of eight planar layers; one network reads all parameters, as the twin's."""
    base = m.DiagonalNormal(LATENT, PIXELS, **WIDE)
    layers = [Planar(LATENT, PIXELS) for _ in range(8)]
    return m.VAE(**{**parts(), "posterior": m.NormalizingFlow(LATENT, layers, PIXELS, base=base)})


def vamp() -> m.VAE:
    """A prior of 100 pseudo-inputs."""
    made = parts()
    return m.VAE(**{**made, "prior": m.VampPrior(made["posterior"], PIXELS, 100)})


def layered(cls: Callable[..., nn.Module]) -> nn.Module:
    """Two stochastic layers."""
    return cls((64, 32), m.IndependentBernoulli(PIXELS, 64, (256, 256)), (256, 256))


def quantised() -> m.VQVAE:
    """Eight words of a book of 64."""
    prior = m.Factorized(8, heads.Categorical(64))
    return m.VQVAE(prior, m.IndependentBernoulli(PIXELS, 8 * 8, **WIDE), 8, hidden_features=(HIDDEN,), restart=0.0)


def incomplete() -> nn.Module:
    """As in the paper's tables."""
    return m.MIWAE(12, 10, hidden_features=(128, 128), activation=nn.Tanh, num_particles=20)


def tanh(*widths: int) -> nn.Sequential:
    """A multilayer perceptron of tanh units."""
    return hand.mlp(*widths, activation=nn.Tanh)


PAIRS = {
    "VAE": Pair(partial(twin, hand.IWAE, 1), lambda: m.VAE(**parts()), pixels),
    "IWAE": Pair(partial(twin, hand.IWAE, 5), lambda: IWAE(5)(m.VAE(**parts())), pixels, 6),
    "BetaTCVAE": Pair(
        partial(twin, hand.TotalCorrelation, 6.0, 10_000),
        lambda: m.BetaTCVAE(**parts(), beta=6.0, data_size=10_000),
        pixels,
    ),
    "InfoVAE": Pair(partial(twin, hand.Discrepancy), lambda: m.InfoVAE(**parts()), pixels),
    "VampPrior": Pair(partial(twin, hand.Vamp, PIXELS, 100), vamp, pixels),
    "planar posterior": Pair(
        partial(twin, hand.Planar, LATENT, 8, out=2 * LATENT + 8 * (2 * LATENT + 1)), planar, pixels
    ),
    "HierarchicalVAE": Pair(
        lambda: hand.TwoLayers((64, 32), 256, PIXELS, ladder=False), partial(layered, m.HierarchicalVAE), pixels
    ),
    "LadderVAE": Pair(
        lambda: hand.TwoLayers((64, 32), 256, PIXELS, ladder=True), partial(layered, m.LadderVAE), pixels
    ),
    "VQVAE": Pair(
        lambda: hand.VQ(hand.mlp(PIXELS, HIDDEN, 64), hand.mlp(64, HIDDEN, PIXELS), 64, 8, 8), quantised, pixels
    ),
    "MIWAE": Pair(lambda: hand.MIWAE(tanh(24, 128, 128, 20), tanh(10, 128, 128, 24), 20), incomplete, holes, 8),
    "DeepMarkovModel": Pair(
        lambda: hand.DeepMarkov(32, 16, 64),
        lambda: m.DeepMarkovModel(16, 16, m.IndependentBernoulli(32, 16, (64,))),
        sequences,
        8,
    ),
}


def run(rounds: int, only: list[str]) -> None:
    """Times the pairs and writes the results."""
    torch.set_num_threads(1)
    notes = [
        "A compiled training step of `fit` over that of the twin in plain PyTorch, processor time, one thread: median, "
        f"least and greatest of {rounds} rounds in which the two took turns; batches of {BATCH}."
    ]
    rows: list[Row] = []
    for name in only or PAIRS:
        torch.manual_seed(0)
        torch.compiler.reset()
        pair = PAIRS[name]
        x, by_hand, model = pair.data(pair.steps * BATCH), pair.twin(), pair.model()
        contestants = {
            "torch": by_torch(by_hand, list(by_hand.parameters()), x, BATCH),
            COMPILED: by_fit(model, x, BATCH, compile=True),
        }
        sizes = (count(by_hand), count(model))
        task = Task(name, pair.steps, BATCH, contestants, sizes, {(COMPILED, "torch"): 1.0})
        rows += rows_of(task, measure(task, rounds, 7, x.device, notes))
        notes.append(f"{name}: {sizes[0]} parameters by hand, {sizes[1]} in the package.")
    for row in rows:
        if row.bar:
            print(f"{row.name:45} {row.figure:.3f} <= {row.reference:.2f} {'yes' if row.holds else 'NO'}")
    write("vae_speed" if not only else "vae_speed-partial", rows, seeds=[0], notes=notes)
