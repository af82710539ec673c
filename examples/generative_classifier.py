"""A class-conditional flow as a classifier, by Bayes' rule.

    python examples/generative_classifier.py

Three classes of the plane overlap: a banana, two moons, and a Gaussian. One flow learns p(x | k) with the class as its
context; the program k ~ Categorical(shares), x ~ flow(k) then gives p(k | x) by enumerating the class. As the true
densities are known, so is the best that any classifier can do, and whether the probabilities mean what they say: of
the data given 70 %, are 70 % of that class? The error is that of Monte Carlo and of the fit, 0.01, in quadrature.
"""

import argparse
from functools import partial

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.nn.functional import one_hot
from torch.optim import AdamW

from pyro_dgm import fit
from pyro_dgm.datasets.toy import banana, two_moons
from pyro_dgm.models import NSF
from pyro_dgm.training import one_cycle

SHARES = torch.tensor([0.5, 0.3, 0.2])
FIT = 0.01  # of a probability or a nat: what the fit to 6,000 data adds to the error
Row = tuple[str, float, float, float]


def classes() -> list[dist.TorchDistribution]:
    """The true densities."""
    return [banana(), two_moons(), dist.Normal(torch.tensor([1.0, -0.5]), 0.5).to_event(1)]


def simulate(n: int) -> tuple[Tensor, Tensor]:
    """Draws labels and data."""
    k = dist.Categorical(SHARES).sample((n,))
    return k, torch.stack([p.sample((n,)) for p in classes()])[k, torch.arange(n)]


def train(n: int = 6000, epochs: int = 20) -> NSF:
    """Fits the flow to labelled data."""
    (k, x), flow = simulate(n), NSF(2, context=3, autoregressive=True, transforms=2)
    settings = {"optimizer": partial(AdamW, lr=5e-3), "schedule": one_cycle, "batch_size": 250, "max_epochs": epochs}
    fit(flow, x, one_hot(k, 3).float(), seed=0, progress=False, **settings)
    return flow.eval().requires_grad_(False)


def classify(flow: NSF, x: Tensor) -> Tensor:
    """Log-probabilities of the classes of x, by Bayes' rule as enumeration applies it."""

    @config_enumerate
    def program() -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(SHARES))
            pyro.sample("x", flow(one_hot(k, 3).float()), obs=x)

    marginals = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(program, lambda: None)
    return marginals["k"].logits.log_softmax(-1)


@torch.no_grad()
def rows(flow: NSF, n: int = 5000) -> list[Row]:
    """The flow's probabilities on fresh data against the exact ones, and against the labels."""

    def error(v: Tensor) -> float:
        return (v.var().item() / len(v) + FIT**2) ** 0.5

    k, x = simulate(n)
    found = classify(flow, x)
    exact = (torch.stack([p.log_prob(x) for p in classes()], -1) + SHARES.log()).log_softmax(-1)
    right, best = ((q.argmax(-1) == k).float() for q in (found, exact))
    loss, entropy = (-q.gather(-1, k.unsqueeze(-1)).squeeze(-1) for q in (found, exact))
    table = [
        ("accuracy, against Bayes' rule with the truth", right.mean().item(), best.mean().item(), error(right - best)),
        ("log loss, against the label's entropy", loss.mean().item(), entropy.mean().item(), error(loss - entropy)),
    ]
    confidence = found.exp().amax(-1)
    for low, high in ((0.0, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.01)):
        said, is_right = (v[(confidence >= low) & (confidence < high)] for v in (confidence, right))
        if len(said) > 1:  # a model may never be that sure
            name = f"confidence {low:.2f} to {min(high, 1):.2f}, share right"
            table.append((name, said.mean().item(), is_right.mean().item(), error(is_right - said)))
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data")
    torch.manual_seed(0)
    print(f"{'':46}{'answer':>10}{'truth':>10}{'error':>10}")
    for name, answer, truth, error in rows(train(epochs=parser.parse_args().epochs)):
        print(f"{name:46}{answer:10.3f}{truth:10.3f}{error:10.3f}")


if __name__ == "__main__":
    main()
