<<<<<<< HEAD
r"""Adversarial networks on MNIST: the Parzen window's log-likelihood of the test images, by the published protocol.

.. math::
    \frac{1}{n} \sum_i \log \frac{1}{m} \sum_{j=1}^m N(x_i; G(z_j), h^2 I) \quad \text{in nats, pixels in [0, 1]}

over the 10,000 test images, with m = 10,000 samples; of ten bandwidths h, from 0.1 to 1, training images 50,000 to
50,999, which are not trained on, choose one. Published: DBN 138, stacked contractive autoencoder 121, deep GSN 214,
GAN 225 (Goodfellow et al., 2014, arXiv:1406.2661). The figure says little (see :func:`pyro_dgm.evaluation.parzen`), so
that of 10,000 training images and that of as many of their k-means centres stand beside it: a model that remembers
beats the data.

    python -m benchmarks.gan [--epochs 25] [--device cuda]
"""

import torch
from torch import Tensor, nn

from pyro_dgm.datasets import mnist
from pyro_dgm.evaluation import parzen
from pyro_dgm.models import GAN
from pyro_dgm.nn import MLP
from pyro_dgm.objectives import Adversarial, NonSaturating
from pyro_dgm.plots import image_grid

from .bsds300 import parser, train
from .report import RESULTS, Row, start, write

LATENT, SAMPLES = 100, 10_000
BANDWIDTHS = torch.logspace(-1, 0, 10).tolist()


def multilayer(hidden: int = 800, seen: int = 400) -> GAN:
    """Two layers of rectified units in the generator; in the critic leaky ones, of which half are dropped."""
    generator = nn.Sequential(MLP(LATENT, 784, (hidden, hidden)), nn.Sigmoid())
    critic = nn.Sequential(
        nn.Linear(784, seen), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(seen, seen), nn.LeakyReLU(0.2),
        nn.Dropout(0.5), nn.Linear(seen, 1),
    )  # fmt: skip
    return GAN(784, LATENT, generator=generator, critic=critic)


def controls(x: Tensor, test: Tensor, choice: Tensor) -> list[Row]:
    """Scores training images, and k-means centres of them, as if they were samples."""
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(1000, batch_size=4096, n_init=1, max_iter=20, random_state=0).fit(x.numpy())
    centres = torch.as_tensor(means.cluster_centers_)
    return [row(f"training images, {SAMPLES}", x[:SAMPLES], test, choice), row("1,000 centres", centres, test, choice)]


def row(name: str, samples: Tensor, test: Tensor, choice: Tensor, bar: float | None = None) -> Row:
    """Returns a row of the table, its ends two standard errors either side."""
    found = parzen(samples, test, BANDWIDTHS, validation=choice)
    spread = 2 * found.standard_error
    label = f"{name}, bandwidth {found.bandwidth:.3f}"
    return Row(label, found.mean, "nats", found.mean - spread, found.mean + spread, bar, bar and ">= reference")


def main() -> None:
    """Runs the benchmark and writes its results."""
    arguments = parser(__doc__.splitlines()[0], ["MLP"], "MLP", 25).parse_args()
    start()
    torch.manual_seed(arguments.seed)
    (x, _), (test, _) = mnist(), mnist(split="test")
    x, test = x.reshape(-1, 784) / 255, test.reshape(-1, 784) / 255
    x, choice = x[:50_000], x[50_000:51_000]
    model = multilayer()
    game = Adversarial(NonSaturating(smoothing=0.1))(model)
    seconds = train(game, x, None, arguments, batch_size=100, ema=0.999)
    model.to("cpu").eval()
    samples = model().sample((SAMPLES,))
    rows = [row(f"GAN, {arguments.epochs} epochs", samples, test, choice, 200.0), *controls(x, test, choice)]
    rows.append(Row(f"training on {arguments.device}", seconds / 60, "minutes"))
    notes = [
        "Parzen window's mean log-likelihood of the 10,000 test images; published: GAN 225, deep GSN 214, DBN 138."
    ]
    write("gan", rows, seeds=[arguments.seed], notes=notes)
    image_grid(samples[:100].reshape(-1, 1, 28, 28)).savefig(RESULTS / "gan.png", dpi=80)
=======
r"""Adversarial networks on MNIST: what can be said of samples without a density.

``MLP``: the networks of the first paper (Goodfellow et al., 2014, arXiv:1406.2661), scored as there: the Parzen window
of 10,000 samples, bandwidth by 1,000 of the training images 50,000-59,999, all test images. What the figure is worth
the rows beside it show: training images score more, and centres of k-means on them, which are no digits, most.
``DCGAN``: distances in the features of a small classifier of digits trained here, and how often each digit is drawn.
``Stacked``: the same model on three digits in three channels, a thousand classes; written for a GPU.

    python -m benchmarks.gan --model MLP|DCGAN|Stacked [--epochs N] [--channels 16] [--seed 0] [--device cpu]

A trained model is kept in a folder and not trained again. The classifier and its test accuracy are in the results.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import matplotlib
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F
from torch.optim import Adam

from pyro_dgm import fit
from pyro_dgm import objectives as o
from pyro_dgm.datasets import mnist, stacked_mnist
from pyro_dgm.evaluation import class_coverage, embed, frechet_distance, kernel_distance, parzen, prdc
from pyro_dgm.models import DCGAN, GAN
from pyro_dgm.nn import MLP
from pyro_dgm.plots import image_grid
from pyro_dgm.training import warmup_cosine

from .report import RESULTS, Row, start, write

N, N_STACKED, BATCH, EMA = 10_000, 26_000, 100, 0.999
EPOCHS = {"MLP": 15, "DCGAN": 12, "Stacked": 25}
BANDWIDTHS = torch.logspace(-1, 0, 10).tolist()
PUBLISHED = {"DCGAN": (99.0, 3.40), "ALI": (16.0, 5.40), "VEEGAN": (150.0, 2.95), "PacDCGAN2": (1000.0, 0.06)}


def pixels(split: str) -> tuple[Tensor, Tensor]:
    """Returns images in [0, 1] with shape (n, 1, 28, 28), and labels."""
    images, labels = mnist(split=split)
    return images.float() / 255, labels


def train(model: nn.Module, x: Tensor, game: o.Adversarial, args: argparse.Namespace, lr: float) -> str:
    """Trains the model, unless it is in the folder, and returns how long that took."""
    file = args.folder / f"gan-{args.model}-{args.seed}.pt"
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
    model.eval()
    torch.save({"model": model.state_dict(), "cost": cost}, file)
    return cost


def log(history, model: nn.Module) -> bool:
    """Prints the last epoch."""
    print({k: round(v, 3) for k, v in history[-1].items()}, f"{time.process_time():.0f} s", flush=True)
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


def mlp(args: argparse.Namespace) -> None:
    """The Parzen window of the first paper's generator, of training images, and of centres."""
    (x, _), (test, _) = pixels("train"), pixels("test")
    x, test = x.flatten(1), test.flatten(1)
    critic = MLP(784, 1, (512, 256), activation=nn.LeakyReLU)
    torch.manual_seed(args.seed)
    model = GAN(784, 100, hidden_features=(1200, 1200), critic=critic, support=constraints.unit_interval)
    game = o.Adversarial(penalty=o.R1(1.0))
    cost = train(model, x[:50_000], game, args, 3e-4)
    samples = draw(model, N, args.seed)
    picture(samples.unflatten(1, (28, 28)), RESULTS / "gan-MLP.png")
    means = MiniBatchKMeans(N, batch_size=20_000, n_init=1, max_iter=5, random_state=0, init_size=30_000, init="random")
    centres = torch.from_numpy(means.fit(x[:50_000].numpy()).cluster_centers_)
    rows = []
    for name, y in (("GAN", samples), ("training images", x[:N]), ("centres of k-means", centres)):
        found = parzen(y, test, BANDWIDTHS, validation=x[50_000:51_000])
        print(name, found, flush=True)
        low, high = found.mean - found.standard_error, found.mean + found.standard_error
        bar = (200.0, ">= reference") if name == "GAN" else (None, None)
        rows.append(Row(f"Parzen: {name}, bandwidth {found.bandwidth:.3f}", found.mean, "nats", low, high, *bar))
    for name, figure in (("GAN", 225.0), ("training images", 243.0), ("centres of k-means", 313.0)):
        rows.append(Row(f"Parzen: {name}, published", figure, "nats"))
    notes = [
        "Mean log-density of 10,000 test images under Gaussian kernels around 10,000 samples; low and high are one "
        "standard error over test images. It is no likelihood and ranks wrongly: see the rows of what is no model.",
        f"Generator 100-1200-1200-784, critic 784-512-256-1, {args.epochs} epochs of 50,000 images, non-saturating "
        f"game with R1 of weight 1, Adam at 3e-4 with betas 0.5 and 0.99, half a cosine, generator averaged with decay "
        f"{EMA}; {cost}.",
        "Published: Goodfellow et al. 2014; Theis, van den Oord and Bethge 2015. 10,000 centres, mini-batch k-means.",
    ]
    write("gan-MLP", rows, seeds=[args.seed], packages=["scikit-learn"], notes=notes)


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
    """Trains the classifier for three epochs, and returns it with its test accuracy."""
    (x, labels), (test, truth) = pixels("train"), pixels("test")
    torch.manual_seed(0)
    network = Classifier().to(args.device)
    optimizer = Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * 600)
    for _ in range(3):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows].to(args.device)), labels[rows].to(args.device)).backward()
            optimizer.step()
            schedule.step()
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
    cost = train(model, 2 * x - 1, o.Adversarial(), args, 5e-4)
    network, accuracy = classifier(args)
    samples = (draw(model, N, args.seed) + 1) / 2
    picture(samples[:, 0], RESULTS / "gan-DCGAN.png")
    real, fake, other = (
        embed(lambda b: network.features(b.to(args.device)).cpu(), each) for each in (x[:N], samples, test)
    )
    rows = []
    for name, features in (("DCGAN", fake), ("test images", other)):
        kernel = kernel_distance(real, features)
        low, high = kernel.value - kernel.standard_error, kernel.value + kernel.standard_error
        rows.append(Row(f"kernel distance to training images: {name}", kernel.value, "1", low, high))
        rows.append(Row(f"Fréchet distance to training images: {name}", frechet_distance(real, features).item(), "1"))
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
        f"DCGAN of {args.channels} channels, {args.epochs} epochs, batches of {BATCH}, non-saturating game, Adam at "
        f"5e-4 with betas 0.5 and 0.99, half a cosine, generator averaged with decay {EMA}; {cost}.",
        "Shares of the digits 0 to 9, by the classifier: " + ", ".join(f"{share:.3f}" for share in shares) + ".",
        "Low and high of the kernel distance are one standard error over 10 disjoint subsets.",
    ]
    write("gan-DCGAN", rows, seeds=[args.seed], packages=["scikit-learn"], notes=notes)


def stacked(args: argparse.Namespace) -> None:
    """How many of a thousand classes are drawn, by the classifier of digits in each channel."""
    images, truth = stacked_mnist()
    torch.manual_seed(args.seed)
    model = DCGAN((3, 28, 28), channels=args.channels)
    cost = train(model, images[: args.images].float() / 127.5 - 1, o.Adversarial(), args, 2e-4)
    network, accuracy = classifier(args)
    samples = (draw(model, N_STACKED, args.seed) + 1) / 2
    picture(samples.movedim(1, -1), RESULTS / "gan-Stacked.png")
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
    write("gan-Stacked", rows, seeds=[args.seed], notes=notes)


def main() -> None:
    """Runs the benchmark of one model and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    runs = {"MLP": mlp, "DCGAN": dcgan, "Stacked": stacked}
    parser.add_argument("--model", choices=list(runs), default="MLP")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--channels", type=int, default=16, help="of the convolutions")
    parser.add_argument("--images", type=int, default=128_000, help="stacked images to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("out/gan"), help="for the trained model")
    args = parser.parse_args()
    args.epochs = args.epochs or EPOCHS[args.model]
    start()
    args.folder.mkdir(parents=True, exist_ok=True)
    runs[args.model](args)
>>>>>>> main


if __name__ == "__main__":
    main()
