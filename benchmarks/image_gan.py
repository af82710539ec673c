r"""Convolutional adversarial networks on digits, judged in the features of a classifier.

``DCGAN``, of MNIST: Frechet and kernel distances to training images, precision, recall, density and coverage, beside
those of test images, which are the best there is; and how often each of the ten digits is drawn. ``Stacked``, of three
digits in three channels (stacked MNIST): how many of the thousand classes are drawn, beside published figures; written
for a GPU. The classifier is trained here, its test accuracy is in the results, and its features compare with no other.

    python -m benchmarks.image_gan --model DCGAN [--epochs 6] [--channels 16] [--seed 0]
    python -m benchmarks.image_gan --model Stacked --channels 64 --device cuda

What is trained is kept in a folder and not trained again.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from pyro_dgm import fit
from pyro_dgm import objectives as o
from pyro_dgm.datasets import mnist, stacked_mnist
from pyro_dgm.evaluation import class_coverage, embed, frechet_distance, kernel_distance, prdc
from pyro_dgm.models import DCGAN
from pyro_dgm.plots import image_grid
from pyro_dgm.training import History, warmup_cosine

from .report import RESULTS, Row, start, write

N, N_STACKED, BATCH, EMA = 10_000, 26_000, 100, 0.999
EPOCHS = {"DCGAN": 6, "Stacked": 25}
PUBLISHED = {"DCGAN": (99.0, 3.40), "ALI": (16.0, 5.40), "VEEGAN": (150.0, 2.95), "PacDCGAN2": (1000.0, 0.06)}


def pixels(split: str) -> tuple[Tensor, Tensor]:
    """Returns images in [0, 1] with shape (n, 1, 28, 28), and labels."""
    images, labels = mnist(split=split)
    return images.float() / 255, labels


def train(model: nn.Module, x: Tensor, game: o.Adversarial, args: argparse.Namespace, lr: float) -> str:
    """Trains the model, unless it is in the folder, and returns how long that took."""
    file = args.folder / f"{args.model}-{args.seed}.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True, map_location=args.device)
        model.load_state_dict(kept["model"])
        model.to(args.device).eval()
        return kept["cost"]
    cpu, wall = time.process_time(), time.perf_counter()
    fit(
        model, x, objective=game, optimizer=partial(Adam, lr=lr, betas=(0.5, 0.99), fused=True), batch_size=BATCH,
        max_epochs=args.epochs, seed=args.seed, schedule=partial(warmup_cosine, warmup=0.01), ema=EMA,
        compile=args.device != "cpu", device=args.device, progress=False, callbacks=[log],
    )  # fmt: skip
    cost = f"{time.process_time() - cpu:.0f} processor seconds ({time.perf_counter() - wall:.0f} by the wall)"
    model.train()
    for _ in range(100):  # running averages of batch normalisation, for weights that are averages themselves
        model().rsample((2 * BATCH,))
    model.eval()
    torch.save({"model": model.state_dict(), "cost": cost}, file)
    return cost


def log(history: History, model: nn.Module) -> bool:
    """Prints the last epoch."""
    print({k: round(v, 3) for k, v in history.rows[-1].items()}, f"{time.process_time():.0f} s", flush=True)
    return False


@torch.no_grad()
def draw(model: nn.Module, n: int, seed: int) -> Tensor:
    """Returns n samples."""
    torch.manual_seed(seed)
    return torch.cat([model().sample((1000,)).cpu() for _ in range(n // 1000)])


def picture(x: Tensor, path: Path) -> None:
    """Draws the first hundred samples, in [0, 1]."""
    matplotlib.use("Agg")
    figure = image_grid(x[:100].clamp(0, 1), 10, value_range=(0.0, 1.0)).figure
    figure.savefig(path, dpi=80, bbox_inches="tight")


class Classifier(nn.Module):
    """A small classifier of digits, and 64 features of them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (n, 10) for images (n, 1, 28, 28) in [0, 1]."""
        return self.last(self.features(x))


def classifier(args: argparse.Namespace) -> tuple[Classifier, float]:
    """Trains the classifier for three epochs, unless it is in the folder; returns it with its test accuracy."""
    (x, labels), (test, truth) = pixels("train"), pixels("test")
    torch.manual_seed(0)
    network = Classifier().to(args.device)
    optimizer = Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * 600)
    file = args.folder / "classifier.pt"
    if file.exists():
        network.load_state_dict(torch.load(file, weights_only=True, map_location=args.device))
    for _ in range(0 if file.exists() else 3):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows].to(args.device)), labels[rows].to(args.device)).backward()
            optimizer.step()
            schedule.step()
    torch.save(network.state_dict(), file)
    found = classify(network, test, args)
    return network.eval(), (found == truth).double().mean().item()


def classify(network: Classifier, x: Tensor, args: argparse.Namespace) -> Tensor:
    """Returns the likeliest digit of every image."""
    return embed(lambda batch: network(batch.to(args.device)).cpu(), x).argmax(-1)


def dcgan(args: argparse.Namespace) -> None:
    """Distances in the features of the classifier, and the shares of digits."""
    (x, _), (test, _) = pixels("train"), pixels("test")
    torch.manual_seed(args.seed)
    model = DCGAN((1, 28, 28), channels=args.channels)
    cost = train(model, 2 * x - 1, o.Adversarial(o.NonSaturating(smoothing=0.1)), args, 5e-4)
    network, accuracy = classifier(args)
    samples = (draw(model, N, args.seed) + 1) / 2
    picture(samples[:, 0], RESULTS / "image_gan-DCGAN.png")
    real, fake, other = (
        embed(lambda b: network.features(b.to(args.device)).cpu(), each) for each in (x[:N], samples, test)
    )
    rows = []
    for name, features in (("DCGAN", fake), ("test images", other)):
        kernel = kernel_distance(real, features)
        low, high = kernel.value - kernel.standard_error, kernel.value + kernel.standard_error
        rows.append(Row(f"kernel distance to training images: {name}", kernel.value, "1", low, high))
        rows.append(Row(f"Frechet distance to training images: {name}", frechet_distance(real, features).item(), "1"))
        for kind, figure in prdc(real, features)._asdict().items():
            rows.append(Row(f"{kind}: {name}", figure, "1"))
    shares = (torch.bincount(classify(network, samples, args), minlength=10) / N).tolist()
    rows.append(Row("rarest digit", min(shares), "share", reference=0.05, bar=">= reference"))
    rows.append(Row("most frequent digit", max(shares), "share", reference=0.2, bar="<= reference"))
    rows.append(Row("accuracy of the classifier, test images", accuracy, "share", reference=0.985, bar=">= reference"))
    for row in rows:
        print(row, flush=True)
    notes = [
        "Features: 64 of a small convolutional classifier trained here, so that distances compare with one another "
        "only; 10,000 training images against 10,000 samples, and against the test images as the best there is.",
        f"DCGAN of {args.channels} channels, {args.epochs} epochs, batches of {BATCH}, non-saturating game with "
        f"labels of 0.9, Adam at 5e-4 with betas 0.5 and 0.99, half a cosine, generator averaged with decay {EMA}; "
        f"{cost}.",
        "Shares of the digits 0 to 9, by the classifier: " + ", ".join(f"{share:.3f}" for share in shares) + ".",
        "Low and high of the kernel distance are one standard error over 10 disjoint subsets.",
    ]
    write("image_gan-DCGAN", rows, seeds=[args.seed], notes=notes)


def stacked(args: argparse.Namespace) -> None:
    """How many of a thousand classes are drawn, by the classifier of digits in each channel."""
    images, truth = stacked_mnist()
    torch.manual_seed(args.seed)
    model = DCGAN((3, 28, 28), channels=args.channels)
    cost = train(model, images[: args.images].float() / 127.5 - 1, o.Adversarial(), args, 2e-4)
    network, accuracy = classifier(args)
    samples = (draw(model, N_STACKED, args.seed) + 1) / 2
    picture(samples, RESULTS / "image_gan-Stacked.png")
    digits = classify(network, samples.flatten(0, 1)[:, None], args).unflatten(0, (-1, 3))
    found = class_coverage(digits @ torch.tensor([100, 10, 1]), 1000)
    best = class_coverage(truth[:N_STACKED], 1000)
    print(found, best, flush=True)
    rows = [
        Row("classes: DCGAN", float(found.modes), "of 1000", reference=99.0, bar=">= reference"),
        Row("divergence from uniform: DCGAN", found.kl, "nats", reference=3.40, bar="<= reference"),
        Row("classes: data", float(best.modes), "of 1000"),
        Row("divergence from uniform: data", best.kl, "nats"),
        *(Row(f"classes: {name}, published", modes, "of 1000") for name, (modes, _) in PUBLISHED.items()),
        *(Row(f"divergence from uniform: {name}, published", kl, "nats") for name, (_, kl) in PUBLISHED.items()),
    ]
    notes = [
        f"{N_STACKED} samples, digits by a classifier of test accuracy {accuracy:.4f}, trained here. DCGAN of "
        f"{args.channels} channels, {args.epochs} epochs of {min(args.images, len(images))} images, non-saturating "
        f"game, Adam at 2e-4 with betas 0.5 and 0.99, half a cosine, averaged with decay {EMA}; {cost}.",
        "Published: the table of PacGAN (Lin et al., 2017, arXiv:1712.04086), other classifiers and networks.",
    ]
    write("image_gan-Stacked", rows, seeds=[args.seed], notes=notes)


def main() -> None:
    """Runs the benchmark of one model and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    runs = {"DCGAN": dcgan, "Stacked": stacked}
    parser.add_argument("--model", choices=list(runs), default="DCGAN")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--channels", type=int, default=16, help="of the convolutions")
    parser.add_argument("--images", type=int, default=128_000, help="stacked images to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("out/image_gan"), help="for the trained model")
    args = parser.parse_args()
    args.epochs = args.epochs or EPOCHS[args.model]
    start()
    args.folder.mkdir(parents=True, exist_ok=True)
    runs[args.model](args)


if __name__ == "__main__":
    main()
