r"""Deep Boltzmann machines and deep belief networks on binarised MNIST.

.. math::
    -\frac{1}{n} \sum_i \log p(x_i) \;\le\; \frac{1}{n} \sum_i \tilde F(x_i) + \log Z

The bound is that of the mean field (DBM) or of draws from q (DBN); log Z is estimated by annealed importance sampling,
forwards and back. Published: 84.62 nats for a DBM of 500-1000 hidden units (Salakhutdinov and Hinton, 2009), 85.97 for
the bound of a DBN of 500-2000 (Salakhutdinov and Murray, 2008). Layers are pretrained by ``pretrain``, on coins drawn
once; a DBM is then trained as a whole, coins drawn afresh at every step, and scored before and after.

    python -m benchmarks.deep_boltzmann --device cuda [--model DBN]
    python -m benchmarks.deep_boltzmann --hidden 30 25 --images 2000 --pretraining 1 --epochs 1 --temperatures 100

The first is written for a GPU; the second shows within a minute of one core that the command works, no more.
"""

import argparse
import time
from functools import partial

import torch
from torch import Tensor
from torch.optim import SGD

from pyro_dgm import fit
from pyro_dgm.datasets import binarize, mnist
from pyro_dgm.models import DBM, DBN, RBM
from pyro_dgm.objectives import PersistentContrastiveDivergence
from pyro_dgm.training import pretrain

from .binary_mnist import Dynamic
from .boltzmann import falling
from .report import Row, start, write

PIXELS, BATCH, CHAINS, LR, STEPS = 784, 100, 100, 0.05, 5
PUBLISHED = {"DBM": 84.62, "DBN": 85.97}


def make(name: str, hidden: list[int]) -> DBM | DBN:
    """Returns the model, not yet trained."""
    if name == "DBM":
        return DBM(PIXELS, hidden)
    return DBN([RBM(n, m) for n, m in zip([PIXELS, *hidden], hidden, strict=False)])


def scored(name: str, model: DBM | DBN, coins: Tensor, temperatures: int, reference: float | None) -> list[Row]:
    """Estimates log Z and scores the test images."""
    begin = time.perf_counter()
    found = model.estimate_log_partition(100, temperatures)
    with torch.no_grad():
        parts = [model().unnormalized_log_prob(part).double().sum() for part in coins.split(1000)]
    value, spread = found.value - float(sum(parts)) / len(coins), 3 * found.standard_error
    seconds = time.perf_counter() - begin
    print(f"{name}: {value:.2f} +- {spread:.2f} nats, {found}, {seconds:.0f} s", flush=True)
    return [
        Row(f"{name}: test, at most", value, "nats", value - spread, value + spread, reference),
        Row(f"{name}: log Z", found.value, "nats", found.lower, found.upper),
        Row(f"{name}: effective number of the 100 weights", found.effective_sample_size, "chains"),
        Row(f"{name}: scoring", seconds, "seconds"),
    ]


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["DBM", "DBN"], default="DBM")
    parser.add_argument("--hidden", type=int, nargs="+", help="units of the layers; 500 1000, or 500 2000 for a DBN")
    parser.add_argument("--images", type=int, default=60_000, help="images for training")
    parser.add_argument("--pretraining", type=int, default=50, help="passes over the data for each layer")
    parser.add_argument("--epochs", type=int, default=200, help="passes over the data for a DBM as a whole")
    parser.add_argument("--temperatures", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    start()
    name, hidden = arguments.model, arguments.hidden or ([500, 1000] if arguments.model == "DBM" else [500, 2000])
    (x, _), (test, _) = mnist(), mnist(split="test")
    data = (x.reshape(-1, PIXELS) / 255)[: arguments.images].to(arguments.device)
    coins = binarize(test, generator=torch.Generator().manual_seed(0)).reshape(-1, PIXELS).to(arguments.device)
    torch.manual_seed(arguments.seed)
    model = make(name, hidden).to(arguments.device)
    settings = {
        "optimizer": partial(SGD, lr=LR), "schedule": falling, "batch_size": BATCH, "gradient_clip": None,
        "seed": arguments.seed, "progress": False,
    }  # fmt: skip
    begin = time.perf_counter()
    pretrain(model, torch.bernoulli(data), max_epochs=arguments.pretraining, **settings)
    rows = [Row("training, layer by layer", (time.perf_counter() - begin) / 60, "minutes")]
    reference = PUBLISHED[name]
    if name == "DBM":
        rows += scored("DBM, pretrained", model, coins, arguments.temperatures, None)
        begin = time.perf_counter()
        fit(
            Dynamic(PersistentContrastiveDivergence(CHAINS, STEPS)(model)),
            data,
            max_epochs=arguments.epochs,
            ema=0.999,
            **settings,
        )
        rows.append(Row("training, all layers", (time.perf_counter() - begin) / 60, "minutes"))
    rows += scored(name, model, coins, arguments.temperatures, reference)
    notes = [
        f"784 binary pixels, {hidden} hidden units, {len(data)} images; {arguments.pretraining} epochs for each layer, "
        f"by PCD-1, and {arguments.epochs} for a DBM as a whole, by PCD-{STEPS}; {CHAINS} chains, batches of {BATCH}, "
        f"SGD from {LR} to 0.",
        f"log Z: 100 chains, {arguments.temperatures} temperatures; test: low and high three standard errors of log Z "
        "either side; log Z: low the mean of forward log-weights, high that of reverse chains.",
    ]
    write(f"deep_boltzmann-{name}", rows, seeds=[arguments.seed], notes=notes)


if __name__ == "__main__":
    main()
