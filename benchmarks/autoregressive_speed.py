r"""Time per training step and per sample of autoregressive models, against peers and against the definition.

A training step is the negative log-likelihood of a batch of 100, its gradient and fused Adam, the same loop for all;
compiled, it is the step that ``fit`` takes. A sample is compared with the naive sampler, the whole network once for
every number, of which 16 are timed and multiplied up, since each costs the same. Ratios by processor time on one
thread, contestants in turns.

    python -m benchmarks.autoregressive_speed [--rounds 5] [--only MADE PixelCNN ...] [--device cuda]
"""

import argparse
from collections.abc import Callable
from statistics import median

import pyro
import torch
from nflows.transforms.made import MADE as NflowsMADE
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from zuko.nn import MaskedMLP as ZukoMaskedMLP

from pyro_dgm.distributions import Autoregressive
from pyro_dgm.models import MADE, NADE, CausalTransformer, GatedPixelCNN, PixelCNN, PixelRNN, TractableModel
from pyro_dgm.nn import MaskedLinear, NaiveWalk

from .flows import COMPILED, measure, training_compiled
from .report import Row, keep_memory, start, write

EAGER = "ours"
D, H, BATCH, NAIVE_STEPS = 784, 500, 100, 16


class PlainMADE(nn.Module):
    """One hidden layer and two masks."""

    def __init__(self) -> None:
        super().__init__()
        degrees, hidden = torch.arange(D) + 1, torch.arange(H) % (D - 1) + 1
        self.layers = nn.ModuleList(MaskedLinear(m) for m in (hidden[:, None] >= degrees, degrees[:, None] > hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        return self.layers[1](self.layers[0](x).relu())


class PlainNADE(nn.Module):
    """The recursion as a loop that autograd sees."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = (nn.Parameter(0.03 * torch.randn(D, H)) for _ in range(2))
        self.c, self.b = nn.Parameter(torch.zeros(H)), nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        a, out = self.c.expand(len(x), H), []
        for d in range(D):
            out.append(torch.sigmoid(a) @ self.v[d])
            a = a + x[:, d, None] * self.w[d]
        return torch.stack(out, 1) + self.b


def step(network: nn.Module, x: Tensor, score: Callable[[], Tensor]) -> Callable[[], object]:
    """Returns a training step."""
    optimizer = Adam(network.parameters(), fused=True)

    def call() -> None:
        optimizer.zero_grad()
        score().backward()
        optimizer.step()

    return call


def by_logits(network: nn.Module, x: Tensor) -> Callable[[], object]:
    """Returns a training step of a network that gives logits."""
    return step(network, x, lambda: F.binary_cross_entropy_with_logits(network(x), x, reduction="sum") / len(x))


def ours(eager: TractableModel, compiled: TractableModel, x: Tensor) -> dict[str, Callable[[], object]]:
    """Returns training steps of two models alike."""
    return {
        EAGER: step(eager, x, lambda: -eager().log_prob(x).mean()),
        COMPILED: training_compiled(compiled, x),
    }


def training(device: torch.device) -> dict[str, tuple[dict[str, Callable[[], object]], float]]:
    """The contestants of training steps, and the bars against the best of the others."""
    x = (torch.rand(BATCH, D, device=device) < 0.2).float()
    mades = [MADE(D, hidden_features=(H,)).to(device) for _ in range(2)]
    for made in mades:
        made.network.direct = None  # peers have none
    nades = [NADE(D, hidden_features=H).to(device) for _ in range(2)]
    peers = {
        "plain": PlainMADE(),
        "zuko": ZukoMaskedMLP(torch.ones(D, D).tril(-1).bool(), (H,), nn.ReLU),
        "nflows": NflowsMADE(D, H, num_blocks=0, use_residual_blocks=False),
    }
    return {
        "MADE 784-500, training step": (
            ours(*mades, x) | {k: by_logits(p.to(device), x) for k, p in peers.items()},
            1.0,
        ),
        "NADE 784-500, training step": (ours(*nades, x) | {"loop": by_logits(PlainNADE().to(device), x)}, 0.25),
    }


SAMPLED: dict[str, tuple[Callable[[], TractableModel], float | None]] = {
    **{f"MADE D {d}, hidden 500": (lambda d=d: MADE(d), 0.05 if d == D else None) for d in (64, 256, 784, 1024)},
    **{f"NADE D {d}, hidden 500": (lambda d=d: NADE(d), None) for d in (64, 256, 784, 1024)},
    **{
        f"PixelCNN {n}x{n}, 32 channels": (
            lambda n=n: PixelCNN((1, n, n), hidden_channels=32),
            0.05 if n == 28 else None,
        )
        for n in (8, 16, 28, 32)
    },
    "GatedPixelCNN 28x28, 32 channels": (lambda: GatedPixelCNN((1, 28, 28), hidden_channels=32), None),
    "PixelRNN 28x28, diagonal": (lambda: PixelRNN((1, 28, 28), kind="diagonal"), None),
    **{f"CausalTransformer D {d}": (lambda d=d: CausalTransformer(d), 0.1) for d in (64, 256, 1024)},
}


def naive(p: Autoregressive) -> Callable[[], object]:
    """Returns the first steps of the naive sampler."""

    @torch.no_grad()
    def call() -> None:
        walk = NaiveWalk(p.conditioner, None, BATCH)
        for i in p.conditioner.sequence[:NAIVE_STEPS]:
            theta = walk.output()
            walk.see(p.seen(i, p.head.draw(theta, p.head.noise((BATCH,), theta))))

    return call


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of cells")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    start()
    keep_memory()
    pyro.enable_validation(False)
    torch.manual_seed(0)
    device, rows = torch.device(arguments.device), []

    def add(name: str, calls: dict[str, Callable[[], object]], bar: float | None, times: float = 1.0) -> None:
        seconds = measure(calls, arguments.rounds, device, budget=20.0)
        own = [k for k in (EAGER, COMPILED) if k in seconds]
        best = min(seconds.keys() - own, key=lambda k: median(seconds[k]))
        for way in own:
            runs = tuple(a / b / times for a, b in zip(seconds[way], seconds[best], strict=True))
            label = f"{name}: {way} / {best}"
            rows.append(Row(label, median(runs), "ratio", min(runs), max(runs), bar, bar and "<= reference", runs))
        for k, values in seconds.items():
            scale = 1e3 * (times if k == "naive" else 1.0)
            ms = [scale * s for s in values]
            rows.append(Row(f"{name}: {k}", median(ms), "ms", min(ms), max(ms)))
        new = rows[-len(seconds) - len(own) :]
        print(*(f"{row.name} {row.figure:.3g} {row.unit}" for row in new), sep="; ", flush=True)

    def wanted(name: str) -> bool:
        return any(part in name for part in arguments.only)

    for name, (calls, bar) in training(device).items():
        if wanted(name):
            add(name, calls, bar)
    for name, (make, bar) in SAMPLED.items():
        if wanted(name):
            p = make().to(device).eval()()
            calls = {EAGER: lambda p=p: p.sample((BATCH,)), "naive": naive(p)}
            add(f"{name}: {BATCH} samples", calls, bar, p.event_shape.numel() / NAIVE_STEPS)
    notes = [
        f"Median, least and greatest of up to {arguments.rounds} rounds; one thread, batches of {BATCH}.",
        f"naive: {NAIVE_STEPS} of the D passes, multiplied up. nflows has no activation with one hidden layer.",
        "Data are not checked, as nowhere else and as in `fit`.",
    ]
    write("autoregressive_speed", rows, seeds=[0], packages=["zuko", "nflows"], notes=notes)


if __name__ == "__main__":
    main()
