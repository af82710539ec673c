r"""Held-out likelihood of autoregressive models on binarised MNIST.

.. math::
    -\frac{1}{n} \sum_i \log p(x_i) \quad \text{in nats; exact}

Binarisation is dynamic: a pixel is a coin with probability intensity / 255, drawn afresh at every step of training, and
once, with seed 0, for the 10,000 test images. Of the training images 59,000 train and 1,000 choose the epoch.
Published, dynamic: NADE with 500 units 85.65, MADE with 8000 units 84.87, PixelCNN 81.45 after 457 epochs.

    python -m benchmarks.binary_mnist --model MADE [--epochs 100] [--device cuda] [--checkpoint FILE]

MADE takes a quarter of an hour of one core, NADE an hour; the others are for a GPU.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pyro_dgm.datasets import binarize, mnist
from pyro_dgm.evaluation import held_out
from pyro_dgm.models import MADE, NADE, GatedPixelCNN, PixelCNN, TractableModel

from .fitting import parser, train
from .report import Row, start, write


class Setting(NamedTuple):
    """A model, how it is trained, and the figure it has to reach."""

    model: type[TractableModel]
    arguments: dict
    epochs: int
    lr: float
    batch_size: int
    weight_decay: float
    bar: float


IMAGE = {"event_shape": (1, 28, 28)}
SETTINGS = {
    "MADE": Setting(MADE, {"features": 784, "hidden_features": (500,)}, 100, 1e-3, 100, 1e-2, 88.0),
    "NADE": Setting(NADE, {"features": 784, "hidden_features": 500}, 30, 2e-3, 128, 0.0, 86.5),
    "PixelCNN": Setting(PixelCNN, {"hidden_channels": 64, "blocks": 12, **IMAGE}, 100, 1e-3, 128, 1e-4, 82.0),
    "GatedPixelCNN": Setting(GatedPixelCNN, {"hidden_channels": 64, "layers": 12, **IMAGE}, 100, 1e-3, 128, 1e-4, 82.0),
}


class Dynamic(nn.Module):
    """The loss of images of coins, given the probabilities of the coins."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, probabilities: Tensor) -> Tensor:
        """Draws the coins and scores them."""
        return self.loss(torch.bernoulli(probabilities))


def main() -> None:
    """Runs the benchmark and writes its results."""
    arguments = parser(__doc__.splitlines()[0], SETTINGS, "MADE", None).parse_args()
    start()
    torch.manual_seed(arguments.seed)
    setting = SETTINGS[arguments.model]
    arguments.epochs = arguments.epochs or setting.epochs
    model = setting.model(**setting.arguments)
    (x, _), (test, _) = mnist(), mnist(split="test")
    data, valid = (part.reshape(-1, *model.event_shape) / 255 for part in x.split([59_000, 1_000]))
    optimizer = partial(AdamW, lr=setting.lr, weight_decay=setting.weight_decay, fused=True)
    seconds = train(
        Dynamic(model.objective()(model)), data, valid, arguments, optimizer=optimizer, batch_size=setting.batch_size
    )
    coins = binarize(test, generator=torch.Generator().manual_seed(0)).reshape(-1, *model.event_shape)
    score = held_out(model.eval(), coins.to(arguments.device))
    value, spread = -score.mean, 2 * score.standard_error
    label = f"{arguments.model}, {sum(p.numel() for p in model.parameters())} parameters, {arguments.epochs} epochs"
    rows = [
        Row(f"{label}: test", value, "nats", value - spread, value + spread, setting.bar, "<= reference"),
        Row(f"{label}: training on {arguments.device}", seconds / 60, "minutes"),
    ]
    notes = ["Mean of -log p over the 10,000 test images, low and high two standard errors either side."]
    write(f"binary_mnist-{arguments.model}", rows, seeds=[arguments.seed], notes=notes)


if __name__ == "__main__":
    main()
