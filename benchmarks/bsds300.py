r"""Held-out log-likelihood of flows on the patches of BSDS300, by the protocol of the MAF paper.

.. math::
    \frac{1}{n} \sum_i \log p_\theta(x_i) \quad \text{in nats, over the 50,000 test patches}

Training data are two draws of the dequantisation noise over the 300,000 training patches, or with ``--mirrored`` eight,
each under another symmetry of the square; the weights of the epoch with the best validation score are tested once.
Published, on a million patches and without a limit of time: MAF(5) 155.69, RealNVP(10) 153.28 (Papamakarios, Pavlakou
and Murray, 2017), NSF coupling 157.54, autoregressive 157.31 (Durkan, Bekasov, Murray and Papamakarios, 2019). A
full-covariance Gaussian scores 96.6. Three in a thousand pixels lie beyond five deviations, in one patch of twenty:
the paper's splines leave them as they are, ours follow affine maps. The networks of MAF and RealNVP have rectifiers.

    python -m benchmarks.bsds300 [--model MAF | RealNVP | NSF] [--epochs 24 | --minutes M] [--device cuda] [--mirrored]
        [--checkpoint FILE]

On a CPU the default is an hour of one core; on a GPU ``--device cuda --minutes 8 --mirrored``.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pyro_dgm.datasets import bsds300
from pyro_dgm.evaluation import held_out
from pyro_dgm.models import MAF, NSF, RealNVP

from .fitting import add_time, parser, time_spent, train
from .report import Row, start, write

MODELS = {
    "MAF": lambda: MAF(63, transforms=5, hidden_features=(512, 512), activation=nn.ReLU),
    "RealNVP": lambda: RealNVP(63, transforms=10, hidden_features=(512, 512), activation=nn.ReLU),
    "NSF": lambda: NSF(63, autoregressive=True, transforms=5, hidden_features=(512, 512)),
}
BARS = {("MAF", "cpu"): 153.0, ("RealNVP", "cpu"): 153.0, ("MAF", "cuda"): 155.7, ("NSF", "cuda"): 157.3}


def mirrored(x: Tensor, symmetry: int) -> Tensor:
    """Returns patches under one of the eight symmetries of the square; their 64 pixels sum to zero."""
    pixels = torch.cat([x, -x.sum(1, keepdim=True)], 1).unflatten(1, (8, 8))
    pixels = pixels.mT if symmetry & 4 else pixels
    return pixels.flip([axis for axis in (1, 2) if symmetry & axis]).flatten(1)[:, :-1]


def main() -> None:
    """Runs the benchmark and writes its results."""
    line = parser(__doc__.splitlines()[0], MODELS, "MAF", 24)
    add_time(line)
    line.add_argument("--mirrored", action="store_true", help="train on patches mirrored and transposed, too")
    line.set_defaults(device="cpu")
    arguments = line.parse_args()
    start()
    torch.manual_seed(arguments.seed)
    model = MODELS[arguments.model]()
    draws = [bsds300("train", seed=draw) for draw in range(8 if arguments.mirrored else 2)]
    if arguments.mirrored:
        draws = [mirrored(x, symmetry) for symmetry, x in enumerate(draws)]
    seconds = train(
        model,
        torch.cat(draws),
        bsds300("valid"),
        arguments,
        optimizer=partial(AdamW, lr=1e-3, weight_decay=0.0, fused=True),
        batch_size=256,
    )
    score = held_out(model, bsds300("test").to(arguments.device))
    spread = 2 * score.standard_error
    bar = BARS.get((arguments.model, arguments.device))
    name = f"{arguments.model}, {sum(p.numel() for p in model.parameters())} parameters, {time_spent(arguments)}"
    rows = [
        Row(f"{name}: test", score.mean, "nats", score.mean - spread, score.mean + spread, bar, bar and ">= reference"),
        Row(f"{name}: training", seconds / 60, "minutes"),
    ]
    notes = ["Mean over the test patches, low and high two standard errors either side; trained by `fit`, one thread."]
    assert math.isfinite(score.mean)
    variant = "" if arguments.device == "cpu" else f"-{arguments.model}" + arguments.mirrored * "-mirrored"
    write(f"bsds300{variant}", rows, seeds=[arguments.seed], notes=notes)


if __name__ == "__main__":
    main()
