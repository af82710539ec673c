r"""Generative stochastic networks on MNIST, by the Parzen window protocol in which they were published.

.. math::
    \frac{1}{n} \sum_i \log \frac{1}{m} \sum_j N(x_i;\, \mu_j, h^2 I) \quad \text{in nats}, \qquad m = 10{,}000

where the kernels stand at reconstruction means :math:`\mu_j = E[x | h_j]` along chains of the network, not at samples:
so the papers score. The width h is chosen out of ten on 1,000 validation images, all 10,000 test images are scored,
grey, in [0, 1]. Training images are coins with the grey level as probability, drawn afresh at every step. Published:
214 +- 1.1 for a network of two hidden layers (Bengio, Thibodeau-Laufer, Alain and Yosinski, 2013, arXiv:1306.1091); the
bar is 200. As many training images score 242, and 10,000 centres of k-means 334: the figure does not tell good samples
from remembered averages, and is only here because it was published.

    python -m benchmarks.gsn [--hidden 1000 500] [--steps 5] [--noise 0.3] [--epochs 24] [--checkpoint FILE]

The default takes 25 minutes of one core; the papers train for hundreds of epochs, with noise of deviation 2. A walk of
two steps, in a network of one layer, reconstructs better and has its chain drift to thin digits: five bring it back.
Such little noise makes sharp digits and a chain that changes its digit slowly: a hundred consecutive means are much
alike, so every mean has a chain of its own.
"""

from functools import partial

import torch
from torch.optim import Adam

from pyro_dgm.datasets import mnist
from pyro_dgm.models import GSN
from pyro_dgm.nn import GaussianNoise
from pyro_dgm.objectives import Walkback
from pyro_dgm.plots import image_grid

from .binary_mnist import Dynamic
from .fitting import parser, train
from .gan import SAMPLES, row
from .report import RESULTS, Row, start, write

CHAINS, BAR, PUBLISHED, LR, BATCH = 100, 200.0, 214.0, 3e-3, 100


def main() -> None:
    """Runs the benchmark and writes its results."""
    line = parser(__doc__.splitlines()[0], ["GSN"], "GSN", 24)
    line.add_argument("--hidden", type=int, nargs="+", default=[1000, 500], help="widths of the hidden layers")
    line.add_argument("--steps", type=int, default=5, help="steps of walkback")
    line.add_argument("--noise", type=float, default=0.3, help="deviation before and after tanh")
    arguments = line.parse_args()
    start()
    torch.manual_seed(arguments.seed)
    (x, _), (test, _) = mnist(), mnist(split="test")
    x, test = x.flatten(1) / 255, test.flatten(1) / 255
    data, validation = x[:50_000], x[50_000:51_000]
    noise = GaussianNoise(arguments.noise)
    model = GSN(784, arguments.hidden, before=noise, after=noise, burn_in=100)
    model.initialize(torch.bernoulli(data))
    loss = Dynamic(Walkback(arguments.steps)(model))
    adam = partial(Adam, lr=LR, fused=True)
    seconds = train(loss, data, None, arguments, "gsn-curve", optimizer=adam, batch_size=BATCH, ema=0.999)
    model.to("cpu").eval()
    torch.manual_seed(arguments.seed)
    means = torch.cat([model.chain(means=True).run(1, SAMPLES // 5).flatten(0, 1) for _ in range(5)])
    walks = model.chain(means=True).run(SAMPLES // CHAINS, CHAINS).flatten(0, 1)
    label = f"GSN 784-{'-'.join(map(str, arguments.hidden))}, {arguments.epochs} epochs"
    rows = [
        row(f"{label}: {SAMPLES} reconstruction means", means, test, validation, BAR),
        row(f"{label}: {CHAINS} chains, {SAMPLES // CHAINS} consecutive means of each", walks, test, validation),
        row(f"{SAMPLES} training images in their place", data[:SAMPLES], test, validation),
        Row("GSN, published", PUBLISHED, "nats", PUBLISHED - 2.2, PUBLISHED + 2.2),
    ]
    rows.append(Row(f"{label}: training on {arguments.device}", seconds / 60, "minutes"))
    notes = [
        "Parzen window log-likelihood of the 10,000 test images, low and high two standard errors either side; "
        "kernel width by 1,000 validation images.",
        f"A chain for each mean, which is that after {model.burn_in} steps, as the model is sampled by default. Chains "
        "start at numbers drawn independently of each other from the training images. The papers take consecutive "
        "means.",
        f"Walkback of {arguments.steps} steps, salt and pepper 0.4, Gaussian noise of deviation {arguments.noise} "
        f"before and after tanh, Adam, {LR}, batches of {BATCH}, weights averaged.",
        "Remembering scores higher than sampling here: see the caveats of `pyro_dgm.evaluation.parzen`.",
    ]
    write("gsn", rows, seeds=[arguments.seed], notes=notes)
    image_grid(means[:100].reshape(-1, 1, 28, 28)).savefig(RESULTS / "gsn.png", dpi=80)


if __name__ == "__main__":
    main()
