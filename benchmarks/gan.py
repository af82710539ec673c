r"""Adversarial networks on MNIST: the Parzen window's log-likelihood of the test images, by the published protocol.

.. math::
    \frac{1}{n} \sum_i \log \frac{1}{m} \sum_{j=1}^m N(x_i; G(z_j), h^2 I) \quad \text{in nats, pixels in [0, 1]}

over the 10,000 test images, with m = 10,000 samples; of ten bandwidths h, from 0.1 to 1, training images 50,000 to
50,999, which are not trained on, choose one. Published: DBN 138, stacked contractive autoencoder 121, deep GSN 214,
GAN 225 (Goodfellow et al., 2014, arXiv:1406.2661). The figure says little (see :func:`pyro_dgm.evaluation.parzen`), so
that of 10,000 training images and that of as many of their k-means centres stand beside it: a model that remembers
beats the data.

The game is the relativistic one with both zero-centred gradient penalties (Huang, Gokaslan, Kuleshov and Tompkin, 2025,
arXiv:2501.05441), on two plain layers either side.

    python -m benchmarks.gan [--epochs 60] [--device cuda] [--checkpoint FILE]
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Adam

from pyro_dgm.datasets import mnist
from pyro_dgm.evaluation import parzen
from pyro_dgm.models import GAN
from pyro_dgm.nn import MLP
from pyro_dgm.objectives import R1, R2, Adversarial, Relativistic
from pyro_dgm.plots import image_grid

from .fitting import parser, train
from .report import RESULTS, Row, start, write

LATENT, SAMPLES = 100, 10_000
BANDWIDTHS = torch.logspace(-1, 0, 10).tolist()


def multilayer(hidden: int = 512) -> GAN:
    """Two layers of leaky rectified units in either network."""
    leaky = partial(nn.LeakyReLU, 0.2)
    generator = nn.Sequential(MLP(LATENT, 784, (hidden, hidden), activation=leaky), nn.Sigmoid())
    return GAN(784, LATENT, generator=generator, critic=MLP(784, 1, (hidden, hidden), activation=leaky))


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
    arguments = parser(__doc__.splitlines()[0], ["MLP"], "MLP", 60).parse_args()
    start()
    torch.manual_seed(arguments.seed)
    (x, _), (test, _) = mnist(), mnist(split="test")
    x, test = x.reshape(-1, 784) / 255, test.reshape(-1, 784) / 255
    x, choice = x[:50_000], x[50_000:51_000]
    model = multilayer()
    game = Adversarial(Relativistic(), [R1(1.0), R2(1.0)])(model)
    adam = partial(Adam, lr=6e-4, betas=(0.0, 0.99), fused=True)
    seconds = train(game, x, None, arguments, optimizer=adam, batch_size=100, ema=0.999)
    model.to("cpu").eval()
    samples = model().sample((SAMPLES,))
    rows = [row(f"GAN, {arguments.epochs} epochs", samples, test, choice, 200.0), *controls(x, test, choice)]
    rows.append(Row(f"training on {arguments.device}", seconds / 60, "minutes"))
    notes = [
        "Parzen window's mean log-likelihood of the 10,000 test images; published: GAN 225, deep GSN 214, DBN 138."
    ]
    write("gan", rows, seeds=[arguments.seed], notes=notes)
    image_grid(samples[:100].reshape(-1, 1, 28, 28)).savefig(RESULTS / "gan.png", dpi=80)


if __name__ == "__main__":
    main()
