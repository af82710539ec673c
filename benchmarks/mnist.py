r"""Held-out likelihood of flows on MNIST: in logit space by the protocol of the MAF paper, and of images of 8 bits.

.. math::
    z = \operatorname{logit}\bigl(\alpha + (1 - 2 \alpha) (k + u) / 256\bigr), \quad \alpha = 10^{-6}, \qquad
    \frac{1}{n} \sum_i \log p_\theta(z_i) \quad \text{in nats}

for ``--model Gaussian``, ``MAF`` and ``RealNVP``, with one draw of the uniform noise u; with ``--fresh`` the training
images get another at every step. Published (Papamakarios, Pavlakou and Murray, 2017): a Gaussian -1366.9, RealNVP(5)
-1323.2, MAF(5) -1300.5, by networks with rectifiers, as here. And

.. math::
    -\frac{1}{784 n \log 2} \sum_i \log P_\theta(k_i) \quad \text{in bits/dim}

for ``--model Glow`` and ``MultiscaleRealNVP``, bounded by uniform dequantisation. Published: RealNVP 1.06, Glow 1.05,
FFJORD 0.99 (Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud, 2018). Of the 60,000 training images the last 10,000
choose the epoch; the test images are scored once.

    python -m benchmarks.mnist --model MAF [--fresh] [--epochs 60 | --minutes M] [--device cuda] [--checkpoint FILE]

Images are for a GPU; MAF takes a little over a minute of one core per epoch, and fits the noise of its training images
from the sixth epoch on unless that is fresh.
"""

import argparse
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pyro_dgm import plots
from pyro_dgm.datasets import mnist
from pyro_dgm.evaluation import bits_per_dim, held_out, log_likelihood
from pyro_dgm.models import MAF, Dequantized, Glow, MultiscaleRealNVP, RealNVP
from pyro_dgm.transforms import Logit

from .fitting import add_time, parser, time_spent, train
from .report import RESULTS, Row, start, write

SPACE = Logit(1e-6)
VECTORS = {
    "MAF": lambda: MAF(784, transforms=5, hidden_features=(1024,), activation=nn.ReLU),
    "RealNVP": lambda: RealNVP(784, transforms=10, hidden_features=(1024,), activation=nn.ReLU),
}
IMAGE = {"support": Logit(0.05), "levels": 2, "positions": True}
IMAGES = {
    "Glow": lambda: Glow((1, 28, 28), transforms=8, hidden_channels=128, **IMAGE),
    "MultiscaleRealNVP": lambda: MultiscaleRealNVP((1, 28, 28), transforms=4, hidden_channels=64, blocks=2, **IMAGE),
}
BARS = {"Gaussian": -1367.5, "MAF": -1300.0, "RealNVP": -1323.2, "Glow": 1.10, "MultiscaleRealNVP": 1.10}


def logits(images: Tensor, seed: int | None = None) -> Tensor:
    """Maps integer pixels to vectors in logit space, by one draw of the noise."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    u = torch.rand(images.shape, generator=generator, device=images.device)
    return SPACE.inverse_value((images + u) / 256).flatten(1)


class Fresh(nn.Module):
    """The loss of a flow on images in logit space, with another draw of the noise whenever it is called."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, images: Tensor) -> Tensor:
        """Returns the mean negative log-density in nats."""
        return -self.flow().log_prob(logits(images)).mean()


def gaussian(data: Tensor, test: Tensor) -> Tensor:
    """The log-density of test data under the Gaussian with the moments of the training data."""
    data, test = data.double(), test.double()
    covariance = data.T.cov() + 1e-6 * torch.eye(data.shape[1])
    return torch.distributions.MultivariateNormal(data.mean(0), covariance).log_prob(test)


def vectors(name: str, splits: list[Tensor], arguments: argparse.Namespace) -> tuple[float, float, float, int]:
    """Returns the score in nats, its standard error, the seconds of training and the number of parameters."""
    data, valid, test = (logits(images, seed) for seed, images in enumerate(splits))
    if name == "Gaussian":
        log_p = gaussian(data, test)
        return log_p.mean().item(), log_p.std().item() / len(test) ** 0.5, 0.0, 784 + 784 * 785 // 2
    model = VECTORS[name]()
    optimizer = partial(AdamW, lr=5e-4, weight_decay=1e-2, fused=True)
    if arguments.fresh:
        model.initialize(data)
        loss, data, valid = Fresh(model), *splits[:2]
    else:
        loss = model
    seconds = train(loss, data, valid, arguments, optimizer=optimizer, batch_size=100)
    score = held_out(model, test.to(arguments.device))
    return score.mean, score.standard_error, seconds, sum(p.numel() for p in model.parameters())


def images(name: str, splits: list[Tensor], arguments: argparse.Namespace) -> tuple[float, float, float, int]:
    """Returns the score in bits/dim, its standard error, the seconds of training and the number of parameters."""
    data, valid, test = splits
    model = Dequantized(IMAGES[name](), 256)
    optimizer = partial(AdamW, lr=1e-3, weight_decay=0.0, fused=True)
    seconds = train(model, data, valid, arguments, f"mnist-{name}-curve", optimizer=optimizer, batch_size=128)
    score = bits_per_dim(log_likelihood(model, test.to(arguments.device)).cpu().double(), test.shape[1:])
    least = score.topk(5)
    print("least likely test images:", least.indices.tolist(), "bits/dim:", least.values.tolist())
    with torch.no_grad():
        samples = model.decode(model.flow.tempered(0.8).sample((64,))).sample()
    plots.image_grid(samples.cpu() / 255, columns=16).savefig(RESULTS / f"mnist-{name}.png", dpi=80)
    error = score.std().item() / len(score) ** 0.5
    return score.mean().item(), error, seconds, sum(p.numel() for p in model.parameters())


def main() -> None:
    """Runs the benchmark and writes its results."""
    line = parser(__doc__.splitlines()[0], BARS, "MAF", 60)
    add_time(line)
    line.add_argument("--fresh", action="store_true", help="train vectors on noise drawn anew at every step")
    arguments = line.parse_args()
    if arguments.fresh and arguments.model not in VECTORS:
        line.error(f"--fresh: expected one of the models {', '.join(VECTORS)}, got {arguments.model}")
    start()
    torch.manual_seed(arguments.seed)
    name, (x, _), (test, _) = arguments.model, mnist(), mnist(split="test")
    splits, bar = [*x.float().split([50_000, 10_000]), test.float()], BARS[name]
    score = images if name in IMAGES else vectors
    value, error, seconds, parameters = score(name, splits, arguments)
    unit, sense = ("bits/dim", "<= reference") if name in IMAGES else ("nats", ">= reference")
    label = f"{name}, {parameters} parameters" + (f", {time_spent(arguments)}" if seconds else "")
    rows = [Row(f"{label}: test", value, unit, value - 2 * error, value + 2 * error, bar, sense)]
    if seconds:
        rows.append(Row(f"{label}: training on {arguments.device}", seconds / 60, "minutes"))
    notes = ["Mean over the 10,000 test images, low and high two standard errors either side."]
    write(f"mnist-{name}{'-fresh' if arguments.fresh else ''}", rows, seeds=[arguments.seed], notes=notes)


if __name__ == "__main__":
    main()
