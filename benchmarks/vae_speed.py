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
from pyro_dgm.nn import MaskingNoise
from pyro_dgm.objectives import IWAE, Reconstruction
from pyro_dgm.transforms import Planar

from . import vae_contestants as hand
from .report import Row, write
from .training import COMPILED, Task, measure, rows_of
from .training_contestants import Contestant, by_fit, by_torch, count, loop

BATCH = 128
PIXELS, HIDDEN, LATENT, CLASSES = 784, 400, 20, 10
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


def twin(cls: Callable[..., nn.Module], *settings: float | nn.Module, out: int = 2 * LATENT) -> nn.Module:
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


class WithContext(nn.Module):
    """The loss of data whose last numbers are the context."""

    def __init__(self, model: m.GenerativeModel) -> None:
        super().__init__()
        self.loss, self.features = model.objective()(model), model.event_shape.numel()

    def forward(self, data: Tensor) -> Tensor:
        """Splits and scores."""
        return self.loss(data[:, : self.features], data[:, self.features :])


def with_class(n: int) -> Tensor:
    """Binary images, and their classes as a 1 among 0s."""
    return torch.cat([pixels(n), torch.eye(CLASSES)[torch.randint(CLASSES, (n,))]], -1)


def with_few_labels(n: int) -> Tensor:
    """Binary images, and for a tenth of them a label."""
    label = torch.where(torch.rand(n) < 0.1, torch.randint(CLASSES, (n,)), -1)
    return torch.cat([pixels(n), label[:, None]], -1)


def conditional(prior: nn.Module | None) -> m.ConditionalVAE:
    """An autoencoder of images given a class."""
    likelihood = m.IndependentBernoulli(PIXELS, LATENT + CLASSES, **WIDE)
    posterior = m.DiagonalNormal(LATENT, PIXELS + CLASSES, **WIDE)
    return m.ConditionalVAE(prior, likelihood, posterior, CLASSES)


def semi_supervised() -> nn.Module:
    """One of these for each class, and a classifier."""
    return WithContext(m.SemiSupervisedVAE(conditional(m.StandardNormal(LATENT)), hidden_features=(HIDDEN,)))


def classed(cls: Callable[..., nn.Module], read: nn.Module) -> nn.Module:
    """What is made by hand of networks that see a class."""
    encoder, decoder = hand.mlp(PIXELS + CLASSES, HIDDEN, 2 * LATENT), hand.mlp(LATENT + CLASSES, HIDDEN, PIXELS)
    return cls(encoder, decoder, read, CLASSES)


def denoising() -> nn.Module:
    """Thirty per cent of the pixels are masked."""
    likelihood = m.IndependentBernoulli(PIXELS, LATENT, **WIDE)
    model = m.Autoencoder(m.StandardNormal(LATENT), likelihood, hidden_features=(HIDDEN,))
    return Reconstruction(MaskingNoise(0.3))(model)


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
    "FactorVAE": Pair(
        lambda: twin(hand.Factor, hand.mlp(LATENT, 256, 256, 256, 1, activation=nn.LeakyReLU), 10.0),
        lambda: m.FactorVAE(**parts()),
        pixels,
    ),
    "ConditionalVAE": Pair(
        lambda: classed(hand.Conditional, hand.mlp(CLASSES, 64, 64, 2 * LATENT)),
        lambda: WithContext(conditional(None)),
        with_class,
    ),
    "SemiSupervisedVAE": Pair(
        lambda: classed(hand.SemiSupervised, hand.mlp(PIXELS, HIDDEN, CLASSES)), semi_supervised, with_few_labels, 4
    ),
    "denoising Autoencoder": Pair(partial(twin, hand.Denoising, 0.3, out=LATENT), denoising, pixels),
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


def by_hand_of(model: nn.Module, x: Tensor) -> Contestant:
    """A plain loop: around the model's own step where there are several optimizers."""
    if hasattr(model, "step"):
        return loop(model.step, x, BATCH)
    return by_torch(model, list(model.parameters()), x, BATCH)


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
            "torch": by_hand_of(by_hand, x),
            COMPILED: by_fit(model, x, BATCH, compile=True),
        }
        sizes = (count(by_hand), count(model))
        task = Task(name, pair.steps, BATCH, contestants, sizes, {(COMPILED, "torch"): 1.0})
        rows += rows_of(task, measure(task, rounds, 7, x.device, notes))
        notes.append(f"{name}: {sizes[0]} parameters by hand, {sizes[1]} in the package.")
    for row in rows:
        if row.bar:
            print(f"{row.name:45} {row.figure:.3f} <= {row.reference:.2f} {'yes' if row.holds else 'NO'}")
    write("vae-speed" if not only else "vae-speed-partial", rows, seeds=[0], notes=notes)
