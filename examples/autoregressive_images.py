"""Images number by number: a gated PixelCNN on 8x8 digits, given the class; samples, completed halves, odd pixels.

    python examples/autoregressive_images.py [--epochs 25] [--out out]

Prints bits per dimension on the test images, exact since the model is one of integers, how often the class that makes
an image most probable is its class (Bayes' rule), and how well odd pixels are found; draws samples, one column for each
digit, and test digits with their upper halves and three completions of these. Two minutes on one core.
"""

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_dgm import fit
from pyro_dgm.datasets import digits
from pyro_dgm.distributions import heads
from pyro_dgm.evaluation import held_out
from pyro_dgm.models import GatedPixelCNN
from pyro_dgm.plots import image_grid
from pyro_dgm.tasks import surprise

LEVELS = 17


def train(epochs: int, hidden: int) -> tuple[GatedPixelCNN, Tensor, Tensor, Tensor]:
    """Fits the model to 1400 digits; returns it with the test images, their labels and their contexts."""
    x, labels = digits()
    x, context = x.float().reshape(-1, 1, 8, 8), one_hot(labels, 10).float()
    head = heads.Categorical(LEVELS, ordered=True)
    model = GatedPixelCNN((1, 8, 8), context=10, hidden_channels=hidden, layers=4, first_kernel_size=5, head=head)
    held = (x[1400:1500], context[1400:1500])
    fit(model, x[:1400], context[:1400], validation=held, max_epochs=epochs, batch_size=32, seed=0, progress=False)
    return model.eval(), x[1500:], labels[1500:], context[1500:]


@torch.no_grad()
def classify(model: GatedPixelCNN, x: Tensor) -> Tensor:
    """Returns the class that makes each image most probable; classes are equally frequent."""
    return torch.stack([model(c).log_prob(x) for c in torch.eye(10)], -1).argmax(-1)


def odd_pixels(model: GatedPixelCNN, x: Tensor, context: Tensor) -> float:
    """Replaces one pixel of each image by another level; returns how often it becomes the most surprising one."""
    places = torch.randint(16, 48, (len(x),))
    flat = x.flatten(1).clone()
    before = flat[torch.arange(len(x)), places]
    flat[torch.arange(len(x)), places] = torch.where(before < 8, LEVELS - 1.0, 0.0)
    return (surprise(model, flat.reshape(x.shape), context).flatten(1).argmax(-1) == places).float().mean().item()


def main() -> None:
    """Trains, scores and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--hidden", type=int, default=32, help="channels of either stack")
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, x, labels, context = train(arguments.epochs, arguments.hidden)
    score = held_out(model, x, context)
    error = score.standard_error / (64 * math.log(2))
    print(f"test: {score.bits_per_dim:.3f} +- {error:.3f} bits/dim, {score.mean:.1f} nats per image (exact)")
    print(f"classified by Bayes' rule: {(classify(model, x) == labels).float().mean():.3f} right")
    print(f"odd pixels found at once: {odd_pixels(model, x, context):.2f}")
    torch.manual_seed(1)
    samples = model(torch.eye(10)).sample((8,))
    upper = torch.arange(8)[:, None] < 4
    p = model(context[:10])
    halves = p.draw((3,), given=x[:10], observed=upper)
    rows = torch.cat([x[None, :10], (x[:10] * upper)[None], halves])
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, images in (("PixelCNN_samples", samples), ("PixelCNN_completions", rows)):
        figure = image_grid(images.flatten(0, 1) / (LEVELS - 1), columns=10)
        figure.savefig(arguments.out / f"{name}.png", dpi=120)
        plt.close(figure)
    print(f"pictures in {arguments.out}/")


if __name__ == "__main__":
    main()
