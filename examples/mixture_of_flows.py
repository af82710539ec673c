"""A mixture of flows: the component of each datum is summed out while training and inferred afterwards.

    python examples/mixture_of_flows.py

Two populations of the plane, a banana (70 %) and a Gaussian above it (30 %); of 4,000 data 400 come with their label, as
an expert might give them, and the flow starts from these. The program draws k ~ Categorical(weights), x ~ flow(k): one
conditional flow whose context is k, so enumeration gives it both components at once and it scores them in one pass.
``TraceEnum_ELBO`` sums k out, ``infer_discrete`` draws it. Known answers: the weights, the density, and the exact
probabilities of k given x, which no classifier can beat. The error is that of Monte Carlo and that of the fit, 0.02.
"""

import argparse
from functools import partial

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import SVI, TraceEnum_ELBO, infer_discrete
from torch import Tensor
from torch.distributions import constraints
from torch.nn import SiLU
from torch.nn.functional import one_hot

from pyro_dgm import fit
from pyro_dgm.datasets.toy import banana
from pyro_dgm.models import NSF

WEIGHTS, FIT = torch.tensor([0.7, 0.3]), 0.02
Row = tuple[str, float, float, float]


def components() -> list[dist.TorchDistribution]:
    """The true densities of both populations."""
    return [banana(), dist.Normal(torch.tensor([0.0, 3.5]), torch.tensor([1.0, 0.5])).to_event(1)]


def simulate(n: int) -> tuple[Tensor, Tensor]:
    """Draws labels and data."""
    k = dist.Categorical(WEIGHTS).sample((n,))
    return k, torch.stack([p.sample((n,)) for p in components()])[k, torch.arange(n)]


def exact(x: Tensor) -> tuple[Tensor, Tensor]:
    """The true log-density of x and the true probabilities of its component."""
    joint = torch.stack([p.log_prob(x) for p in components()], -1) + WEIGHTS.log()
    return joint.logsumexp(-1), joint.softmax(-1)


class Mixture:
    """The program."""

    def __init__(self) -> None:
        self.flow = NSF(2, context=2, autoregressive=True, transforms=2, hidden_features=(32, 32), activation=SiLU)

    def draw(self, name: str, x: Tensor, labels: Tensor | None = None, size: int | None = None) -> Tensor:
        """A plate of data of which labels may be known."""
        weights = pyro.param("weights", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
        with pyro.plate(f"{name} data", len(x), subsample_size=size) as i:
            enumerate_it = {"enumerate": "parallel"} if labels is None else None
            k = pyro.sample(f"{name} k", dist.Categorical(weights), obs=labels, infer=enumerate_it)
            pyro.sample(f"{name} x", self.flow(one_hot(k, 2).float()), obs=x[i])
        return k

    def model(self, x: Tensor, labelled_x: Tensor, labels: Tensor) -> None:
        """Data without labels, 250 at a time, and the few with."""
        self.draw("unlabelled", x, size=min(250, len(x)))
        self.draw("labelled", labelled_x, labels)


def train(steps: int, n: int = 4000, labelled: int = 400) -> Mixture:
    """Maximises the likelihood, the component summed out."""
    (k, x), mixture = simulate(n), Mixture()
    pyro.clear_param_store()
    settings = {"optimizer": partial(torch.optim.Adam, lr=5e-3), "batch_size": 100, "max_epochs": 30, "progress": False}
    fit(mixture.flow, x[:labelled], one_hot(k[:labelled], 2).float(), seed=0, **settings)
    adam = pyro.optim.ClippedAdam({"lr": 0.005, "lrd": 0.03 ** (1 / steps)})
    svi = SVI(mixture.model, lambda *_: None, adam, TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(steps):
        svi.step(x[labelled:], x[:labelled], k[:labelled])
    return mixture


@torch.no_grad()
def rows(mixture: Mixture, n: int = 2000) -> list[Row]:
    """The mixture on fresh data against what the true densities say of them."""
    k, x = simulate(n)
    log_p, probability = exact(x)
    draw = infer_discrete(lambda: mixture.draw("new", x), first_available_dim=-2, temperature=1)
    best = infer_discrete(lambda: mixture.draw("new", x), first_available_dim=-2, temperature=0)
    logits = [mixture.flow(c).log_prob(x) for c in torch.eye(2)]
    log_q = (torch.stack(logits, -1) + pyro.param("weights").log()).logsumexp(-1)
    right, best_right = (best() == k).float(), (probability.argmax(-1) == k).float()
    share, gap = draw().float(), log_p - log_q
    table = [("weight of the Gaussian", pyro.param("weights")[1].item(), WEIGHTS[1].item(), FIT)]
    for name, found, truth in (
        ("most probable k is right", right, best_right),
        ("drawn k: share of the Gaussian", share, probability[:, 1]),
        ("KL from the true density", gap, torch.zeros(n)),
    ):
        error = ((found - truth).var() / n + FIT**2).sqrt().item()
        table.append((name, found.mean().item(), truth.mean().item(), error))
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="steps of SVI")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'':34}{'answer':>10}{'truth':>10}{'error':>10}")
    for name, answer, truth, error in rows(train(args.steps)):
        print(f"{name:34}{answer:10.3f}{truth:10.3f}{error:10.3f}")


if __name__ == "__main__":
    main()
