"""A mixture of flows: the component of each datum is summed out while training and inferred afterwards.

    python examples/mixture_of_flows.py

Two populations of the plane, a banana (70 %) and a flat Gaussian across its middle (30 %); forty data of 1,500 come
with their label, as an expert might give them. The program draws k ~ Categorical(weights), then x ~ flow(k): one
conditional flow whose context is k, so that enumeration gives it both components at once and it scores them in one
pass. ``TraceEnum_ELBO`` sums k out, ``infer_discrete`` draws it. Known answers: the weights, the density, and the exact
probabilities of k given x, which no classifier can beat; the truth of a row is what they would give on the same data.
"""

import argparse
from pathlib import Path

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import SVI, TraceEnum_ELBO, infer_discrete
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import one_hot

from pyro_dgm.datasets.toy import banana
from pyro_dgm.models import NSF

WEIGHTS = torch.tensor([0.7, 0.3])
Row = tuple[str, float, float, float]


def components() -> list[dist.TorchDistribution]:
    """The true densities of both populations."""
    return [banana(), dist.Normal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.25])).to_event(1)]


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
        self.flow = NSF(2, context=2, autoregressive=True, transforms=2, hidden_features=(32, 32))

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


def train(steps: int, n: int = 1500, labelled: int = 40) -> Mixture:
    """Maximises the likelihood, the component summed out."""
    (k, x), mixture = simulate(n), Mixture()
    pyro.clear_param_store()
    mixture.flow.initialize(x)
    adam = pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.03 ** (1 / steps)})
    svi = SVI(mixture.model, lambda *_: None, adam, TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(steps):
        svi.step(x[labelled:], x[:labelled], k[:labelled])
    return mixture


@torch.no_grad()
def rows(mixture: Mixture, n: int = 2000) -> list[Row]:
    """The mixture on fresh data against what the true densities say of them."""
    k, x = simulate(n)
    log_p, probability = exact(x)
    density = torch.stack([p.log_prob(x).exp() for p in components()])
    information = ((density[1] - density[0]) / log_p.exp()).square().mean() * 1500  # of the training data on a weight
    draw = infer_discrete(lambda: mixture.draw("new", x), first_available_dim=-2, temperature=1)
    best = infer_discrete(lambda: mixture.draw("new", x), first_available_dim=-2, temperature=0)
    logits = [mixture.flow(c).log_prob(x) for c in torch.eye(2)]
    log_q = (torch.stack(logits, -1) + pyro.param("weights").log()).logsumexp(-1)
    right, best_right = (best() == k).float(), (probability.argmax(-1) == k).float()
    share, gap = draw().float(), log_p - log_q
    return [
        ("weight of the Gaussian", pyro.param("weights")[1].item(), WEIGHTS[1].item(), information.rsqrt().item()),
        ("most probable k is right", right.mean().item(), best_right.mean().item(), (right.std() / n**0.5).item()),
        ("drawn k: share of the Gaussian", share.mean().item(), probability[:, 1].mean().item(), (share.std() / n**0.5).item()),
        ("KL from the true density", gap.mean().item(), 0.0, (gap.std() / n**0.5).item()),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="steps of SVI")
    parser.add_argument("--out", type=Path, help="not used: there is nothing to draw")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'':34}{'answer':>10}{'truth':>10}{'MC error':>10}")
    for name, answer, truth, error in rows(train(args.steps)):
        print(f"{name:34}{answer:10.3f}{truth:10.3f}{error:10.3f}")


if __name__ == "__main__":
    main()
