"""Handwritten digits three ways: a flow, a VAE and a GAN, fitted, scored and pictured.

    python examples/quickstart.py                         # the digits of scikit-learn, 8x8 pixels, 17 grey levels
    python examples/quickstart.py --data path/to/mnist    # a folder with MNIST's four IDX files, 28x28, 256 levels

A model is a module that, called, returns a Pyro distribution. What separates the three is what they promise about
p(x): an exact density, a lower bound, none. Grey levels k are dequantised, x = (k + u) / levels with u uniform in
[0, 1), so that all three live on the same unit cube and their nats compare.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.distributions import constraints
from torch.optim import AdamW

from pyro_dgm import fit, plots
from pyro_dgm.datasets import dequantize, digits, mnist
from pyro_dgm.evaluation import c2st, held_out
from pyro_dgm.models import GAN, NSF, VAE, DiagonalNormal, StandardNormal
from pyro_dgm.objectives import Adversarial, GradientPenalty, Wasserstein
from pyro_dgm.training import one_cycle


def read(data: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Returns training and test images of integers, test labels, and the number of grey levels."""
    if data != "digits":
        folder = None if data == "mnist" else data
        (train, _), (test, labels) = mnist(folder), mnist(folder, "test")
        return train, test, labels, 256
    (images, labels), order = digits(), torch.randperm(1797)
    return images[order[:1500]], images[order[1500:]], labels[order[1500:]], 17


def make(d: int, held: torch.Tensor) -> dict[str, tuple]:
    """Returns each model with how it is fitted."""
    cube, wide = constraints.unit_interval, {"hidden_features": (256, 256), "activation": nn.SiLU}
    flow = NSF(d, transforms=6, hidden_features=(128,), support=cube)
    likelihood, posterior = DiagonalNormal(d, context=10, **wide), DiagonalNormal(10, context=d, **wide)
    vae = VAE(StandardNormal(10), likelihood, posterior, num_particles=50)
    gan = GAN(d, latent_features=16, hidden_features=(256, 256), support=cube)
    game = Adversarial(Wasserstein(), GradientPenalty(10.0), critic_steps=3)
    adam, common = partial(AdamW, fused=True), {"schedule": one_cycle, "validation": held, "batch_size": 256}
    return {
        "flow": (flow, {**common, "max_epochs": 15, "optimizer": partial(adam, lr=1e-3, weight_decay=0.5)}),
        "VAE": (vae, {**common, "max_epochs": 120, "optimizer": partial(adam, lr=3e-3, weight_decay=0.1)}),
        "GAN": (gan, {"objective": game, "max_epochs": 50, "optimizer": partial(adam, lr=5e-4, betas=(0.5, 0.9))}),
    }


def main() -> None:
    """Fits the three models, prints a table and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, a folder of MNIST's files, or mnist")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    parser.add_argument("--epochs", type=int, help="number of epochs of every model, fewer for a quick look")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    train, test, labels, levels = read(args.data)
    train, held, shape = train[: -len(train) // 10], train[-len(train) // 10 :], test.shape[1:]
    draws = 4 if args.data == "digits" else 1  # several draws of the noise where there are few images
    x = torch.cat([dequantize(train, levels).flatten(1) for _ in range(draws)])
    x_held, x_test = (dequantize(k, levels).flatten(1) for k in (held, test))

    rows, pictures = [], {}
    for name, (model, settings) in make(x.shape[1], x_held).items():
        start = time.perf_counter()
        epochs = args.epochs or max(2, settings["max_epochs"] * 5400 // len(x))  # as many steps for more data
        history = fit(model, x, seed=0, **{**settings, "max_epochs": epochs})
        seconds, p, samples = time.perf_counter() - start, model(), model().sample((len(x_test),))
        score = "---------    -----"
        if p.density != "implicit":
            nats = held_out(model, x_test, levels=levels)
            score = f"{nats.mean:7.1f} ± {nats.standard_error:3.1f}  {nats.bits_per_dim:8.3f}"
        accuracy = c2st(samples[:2000], x_test[:2000]).accuracy
        rows.append(f"{name:6}{score:>25}  {p.density:12}{accuracy:6.2f}{seconds:9.0f}")
        pictures[f"{name}_learning_curves"] = history.plot()
        pictures[f"{name}_samples"] = plots.image_grid(samples[:80].unflatten(1, shape), columns=16)
        if name == "VAE":
            pair = (images.detach().unflatten(1, shape) for images in (x_test[:16], model.reconstruct(x_test[:16])))
            pictures["VAE_reconstructions"] = plots.reconstructions(*pair)
            pictures["VAE_latent_space"] = plots.latent_space(model.encode(x_test).detach(), labels)
    for name, figure in pictures.items():
        figure.savefig(args.out / f"{name}.png", dpi=150)
    print("\nheld out   nats per image  bits/dim  density       C2ST  seconds", *rows, sep="\n")
    print(f"pictures in {args.out}/")


if __name__ == "__main__":
    main()
