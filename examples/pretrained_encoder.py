"""A representation put to work: an encoder trained without labels starts a classifier that has few of them.

    python examples/pretrained_encoder.py [--epochs 300] [--draws 20] [--out out]

A variational autoencoder learns 1400 digits of 8x8 pixels without their labels. A classifier of one, three or ten
labelled digits per class then starts from its encoder, which goes on learning, and is compared with the same network
trained from scratch on the same labels; both see the labelled digits binarised afresh at every step. Accuracies are
those on 397 other digits, means over draws of the labels, with the standard error of their difference. Two minutes on
one core.
"""

import argparse
from copy import deepcopy
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from pyro_dgm import fit, plots
from pyro_dgm.datasets import digits
from pyro_dgm.evaluation import latent_units
from pyro_dgm.models import VAE, DiagonalNormal, IndependentBernoulli, StandardNormal
from pyro_dgm.nn import MLP
from pyro_dgm.training import warmup_cosine

PIXELS, LATENT, HIDDEN = 64, 10, (256, 256)


def coins(p: Tensor) -> Tensor:
    """Binarises images: each pixel is one with the probability that is its grey level."""
    return (torch.rand_like(p) < p).to(p.dtype)


def encoder() -> MLP:
    """The network that all of this is about: to means and raw deviations of the latents."""
    return MLP(PIXELS, 2 * LATENT, HIDDEN)


class Unlabelled(nn.Module):
    """The autoencoder's loss on images binarised afresh."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.loss = vae.objective()(vae)

    def forward(self, p: Tensor) -> Tensor:
        """Returns the loss of a batch of grey images."""
        return self.loss(coins(p))


class Classifier(nn.Module):
    """A linear layer on the means of the latents."""

    def __init__(self, network: MLP) -> None:
        super().__init__()
        self.encoder, self.head = network, nn.Linear(LATENT, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of the classes."""
        return self.head(self.encoder(x)[..., :LATENT])


def pretrain(p: Tensor, epochs: int) -> VAE:
    """Fits the autoencoder to grey images."""
    likelihood = IndependentBernoulli(PIXELS, LATENT, HIDDEN)
    vae = VAE(StandardNormal(LATENT), likelihood, DiagonalNormal(LATENT, PIXELS, network=encoder()))
    optimizer = partial(AdamW, lr=2e-3, weight_decay=1e-2)
    settings = {"schedule": warmup_cosine, "batch_size": 100, "seed": 0, "progress": False}
    fit(Unlabelled(vae), p, optimizer=optimizer, max_epochs=epochs, **settings)
    return vae.eval()


def learn(classifier: Classifier, p: Tensor, labels: Tensor, lr_head: float, lr_encoder: float, steps: int) -> None:
    """Minimises the cross-entropy of few labels."""
    groups = [(classifier.head, lr_head), (classifier.encoder, lr_encoder)]
    optimizer = AdamW([{"params": part.parameters(), "lr": lr} for part, lr in groups], weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(classifier(coins(p)), labels).backward()
        optimizer.step()


def accuracies(vae: VAE, p: Tensor, labels: Tensor, per_class: int, draw: int, steps: int) -> tuple[float, float]:
    """Returns the accuracies of classifiers that start from the encoder, and from scratch."""
    order = torch.randperm(1400, generator=torch.Generator().manual_seed(draw))
    chosen = torch.cat([order[labels[order] == k][:per_class] for k in range(10)])
    found = []
    for network, rates in ((deepcopy(vae.posterior.network), (1e-2, 3e-4)), (encoder(), (1e-3, 1e-3))):
        torch.manual_seed(draw)
        classifier = Classifier(network)
        learn(classifier, p[chosen], labels[chosen], *rates, steps)
        found.append((classifier(p[1400:]).argmax(-1) == labels[1400:]).float().mean().item())
    return found[0], found[1]


def main() -> None:
    """Trains, compares and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--draws", type=int, default=20, help="draws of the labelled digits")
    parser.add_argument("--steps", type=int, default=300, help="steps of a classifier")
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images, labels = digits()
    order = torch.randperm(len(images))
    p, labels = images[order].flatten(1) / 16, labels[order]
    vae = pretrain(p[:1400], arguments.epochs)
    print(f"active latents: {latent_units(vae, coins(p[:1400])).active.sum()} of {LATENT}")
    print("labels per class   from the encoder   from scratch   difference")
    for per_class in (1, 3, 10):
        runs = [accuracies(vae, p, labels, per_class, draw, arguments.steps) for draw in range(arguments.draws)]
        first, second = torch.tensor(runs).T
        error = (first - second).std() / arguments.draws**0.5
        row = f"{first.mean():19.3f}{second.mean():15.3f}{(first - second).mean():13.3f} +- {error:.3f}"
        print(f"{per_class:16d}{row}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure = plots.latent_space(vae.encode(p[1400:]).detach(), labels[1400:])
    figure.savefig(arguments.out / "VAE_digits_latent_space.png", dpi=120)
    print(f"picture in {arguments.out}/")


if __name__ == "__main__":
    main()
