r"""Variational autoencoders on binarised MNIST: importance-weighted log-likelihood of the test images.

.. math::
    -\frac{1}{n} \sum_i \log \frac{1}{K} \sum_{k=1}^K \frac{p(x_i | z_k)\, p(z_k)}{q(z_k | x_i)}, \quad
    z_k \sim q(z | x_i) \quad \text{in nats}

Dynamic binarisation: a pixel is a coin with probability intensity / 255, drawn afresh at every step of training, and
once, with seed 0, for the 10,000 test images; 59,000 training images train, 1,000 choose the epoch. Fixed binarisation,
for the row of pythae's table: one draw, seed 0, for all images, of which 50,000 train and 10,000 choose.

    python -m benchmarks.vae --model VAE [--epochs 430] [--device cuda] [--checkpoint FILE]
    python -m benchmarks.vae --speed            # a training step of every model against its twin in plain PyTorch

Published, dynamic, 784-200-200-50, 5000 particles, after 3280 epochs: VAE 86.76, IWAE with 5 particles 85.54, with 50
84.78 (Burda, Grosse and Salakhutdinov, 2015, arXiv:1509.00519); VampPrior, gated 300-300, 82.38 (Tomczak and Welling,
2017, arXiv:1705.07120). Fixed, 784-400-40, 200 particles, 500 epochs: 89.9; on the images here pythae 0.1.2's own
model, trained likewise and scored by its ``get_nll``, has 92.81. ``IWAE-50``, ``VampPrior``, ``planar`` and ``IAF`` are
hours of one core; they are meant for a GPU.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from pytorch_optimizer import SOAP
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from pyro_dgm.datasets import binarize, mnist
from pyro_dgm.evaluation import importance_weighted
from pyro_dgm.models import (
    VAE,
    DiagonalNormal,
    IndependentBernoulli,
    NormalizingFlow,
    StandardNormal,
    VampPrior,
)
from pyro_dgm.nn import GatedMLP
from pyro_dgm.objectives import ELBO, IWAE, LinearWarmup, Objective
from pyro_dgm.training import warmup_cosine
from pyro_dgm.transforms import Affine, MaskedAutoregressive, Planar

from . import vae_speed
from .fitting import parser, train
from .report import Row, start, write

OPTIMIZER = partial(SOAP, lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0, max_precondition_dim=256)


class Setting(NamedTuple):
    """A model, how it is trained and scored, and the figure it has to reach.

    Trained on ``particles`` draws of z for each image, by the evidence lower bound if that is one; the weight of the
    divergence then rises over ``warmup`` of the steps.
    """

    make: Callable[[], VAE]
    epochs: int
    bar: float | None
    particles: int = 1
    scored: int = 5000
    optimizer: Callable[..., Optimizer] = OPTIMIZER
    schedule: Callable[[Optimizer, int], LRScheduler] = partial(warmup_cosine, warmup=0.02)
    batch_size: int = 500
    warmup: float = 0.0
    fixed: bool = False


def dense(latent: int, hidden_features: tuple[int, ...], activation: type[nn.Module]) -> VAE:
    """An autoencoder of 784 binary pixels."""
    widths = {"hidden_features": hidden_features, "activation": activation}
    return VAE(
        StandardNormal(latent),
        IndependentBernoulli(784, latent, **widths),
        DiagonalNormal(latent, 784, **widths),
    )


def gated(latent: int = 40) -> tuple[IndependentBernoulli, DiagonalNormal]:
    """The likelihood and the posterior of the VampPrior's paper, two gated layers of 300."""
    likelihood = IndependentBernoulli(784, latent, network=GatedMLP(latent, 784))
    return likelihood, DiagonalNormal(latent, 784, network=GatedMLP(784, 2 * latent))


def vamp() -> VAE:
    """A mixture of the posterior at 500 pseudo-inputs as the prior."""
    likelihood, posterior = gated()
    return VAE(VampPrior(posterior, 784, 500), likelihood, posterior)


def moved(layers: Callable[[], list[nn.Module]]) -> VAE:
    """A posterior that a flow moves, its parameters read off the image."""
    likelihood, base = gated()
    return VAE(StandardNormal(40), likelihood, NormalizingFlow(40, layers(), 784, base=base))


def planar() -> list[nn.Module]:
    """Eighty layers, as in the paper's largest model."""
    return [Planar(40, 784) for _ in range(80)]


def iaf() -> list[nn.Module]:
    """Four autoregressive layers, fast to draw from, in natural and reversed order in turn."""
    orders = range(40), range(39, -1, -1)
    return [MaskedAutoregressive(40, Affine(), orders[k % 2], (320,), 784) for k in range(4)]


def stepped(optimizer: Optimizer, steps: int) -> MultiStepLR:
    """The rate of pythae's script: a fifth of a decade lower after two fifths of the run, and after seven tenths."""
    return MultiStepLR(optimizer, [round(0.4 * steps), round(0.7 * steps)], gamma=10**-0.2)


IWAE_NET = partial(dense, 50, (200, 200), nn.Tanh)
SETTINGS = {
    "VAE": Setting(IWAE_NET, 430, 87.6, warmup=0.1),
    "IWAE-5": Setting(IWAE_NET, 150, 86.4, particles=5),
    "IWAE-50": Setting(IWAE_NET, 300, 85.28, particles=50),
    "VampPrior": Setting(vamp, 430, 82.88, warmup=0.1),
    "planar": Setting(partial(moved, planar), 430, None, warmup=0.1),
    "IAF": Setting(partial(moved, iaf), 430, None, warmup=0.1),
    "pythae": Setting(
        partial(dense, 40, (400,), nn.ReLU),
        500,
        89.9,
        scored=200,
        batch_size=100,
        fixed=True,
        optimizer=partial(Adam, lr=1e-4, fused=True),
        schedule=stepped,
    ),
}


class Dynamic(nn.Module):
    """The loss of images of coins, given the probabilities of the coins."""

    def __init__(self, model: VAE, objective: Objective) -> None:
        super().__init__()
        self.loss = objective(model)

    def forward(self, probabilities: Tensor) -> Tensor:
        """Draws the coins and scores them."""
        return self.loss((torch.rand_like(probabilities) < probabilities).to(probabilities.dtype))


def start_at_mean(model: VAE, mean: Tensor) -> None:
    """Has the decoder start at the mean image, as published."""
    *_, last = (m for m in model.likelihood.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.bias.copy_(mean.clamp(1e-3, 1 - 1e-3).logit())


def images(fixed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns probabilities of coins (or coins) to train with and to choose with, and coins to test with."""
    generator = torch.Generator().manual_seed(0)
    (x, _), (test, _) = mnist(), mnist(split="test")
    coins = binarize(test, generator=generator).reshape(-1, 784)
    known = binarize(x, generator=generator) if fixed else x / 255
    data, valid = known.reshape(-1, 784).split([50_000, 10_000] if fixed else [59_000, 1_000])
    return data, valid, coins


def main() -> None:
    """Runs the benchmark and writes its results."""
    line = parser(__doc__.splitlines()[0], SETTINGS, "VAE", None)
    line.add_argument("--speed", nargs="*", metavar="MODEL", help="time training steps instead, of these models or all")
    line.add_argument("--rounds", type=int, default=7, help="rounds of timing")
    arguments = line.parse_args()
    start()
    if arguments.speed is not None:
        vae_speed.run(arguments.rounds, arguments.speed)
        return
    torch.manual_seed(arguments.seed)
    setting = SETTINGS[arguments.model]
    model = setting.make()
    data, valid, coins = images(setting.fixed)
    model.initialize(torch.bernoulli(data[:10_000]))  # pseudo-inputs become images
    start_at_mean(model, data.mean(0))
    arguments.epochs = arguments.epochs or setting.epochs
    seconds = train(
        Dynamic(model, objective_of(setting, arguments.epochs * len(data) / setting.batch_size)),
        data,
        valid,
        arguments,
        f"vae-{arguments.model}-curve",
        optimizer=setting.optimizer,
        schedule=setting.schedule,
        batch_size=setting.batch_size,
        ema=0.999,
    )
    rows = score(model, coins.to(arguments.device), setting, f"{arguments.model}, {arguments.epochs} epochs")
    rows.append(Row(f"{arguments.model}: training on {arguments.device}", seconds / 60, "minutes"))
    notes = ["Mean of -log p over the 10,000 test images, low and high two standard errors either side."]
    write(f"vae-{arguments.model}", rows, seeds=[arguments.seed], notes=notes)


def objective_of(setting: Setting, steps: float) -> Objective:
    """The bound that is maximised, in so many steps."""
    if setting.particles > 1:
        return IWAE(setting.particles)
    return ELBO(kl_weight=LinearWarmup(max(1, round(setting.warmup * steps))))


def score(model: VAE, coins: Tensor, setting: Setting, label: str) -> list[Row]:
    """Scores the test images."""
    rows = []
    for particles in (1, setting.scored):
        found = importance_weighted(model, coins, num_particles=particles)
        value, spread = -found.mean, 2 * found.standard_error
        bar = setting.bar if particles == setting.scored else None
        name = f"{label}: {particles} particles" if particles > 1 else f"{label}: evidence lower bound"
        rows.append(Row(name, value, "nats", value - spread, value + spread, bar, bar and "<= reference"))
    return rows


if __name__ == "__main__":
    main()
