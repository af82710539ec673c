"""A mixture of flows: the component of each datum is summed out while training and inferred afterwards.

    python examples/mixture_of_flows.py

Two populations of the plane, a banana (70 %) and a Gaussian above it (30 %); of 4,000 data 400 come with their label,
from which the flow starts. The program draws k ~ Categorical(weights), x ~ flow(k): one
conditional flow whose context is k, so enumeration gives it both components at once and it scores them in one pass.
``TraceEnum_ELBO`` sums k out, ``infer_discrete`` draws it. Known answers: the weights, the density, and the exact
probabilities of k given x, which no classifier can beat. The error is that of Monte Carlo and that of the fit, 0.01.
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

WEIGHTS, FIT = torch.tensor([0.7, 0.3]), 0.01
Row = tuple[str, float, float, float]


def components() -> list[dist.TorchDistribution]:
    """The true densities of both populations."""
    return [banana(), dist.Normal(torch.tensor([0.0, 3.5]), torch.tensor([1.0, 0.5])).to_event(1)]


def simulate(n: int) -> tuple[Tensor, Tensor]:
    """Draws labels and data."""
    k = dist.Categorical(WEIGHTS).sample((n,))
    return k, torch.stack([p.sample((n,)) for p in components()])[k, torch.arange(n)]


def draw(flow: NSF, name: str, x: Tensor, labels: Tensor | None = None, size: int | None = None) -> Tensor:
    """The program: a plate of data of which labels may be known, ``size`` of them at a time."""
    weights = pyro.param("weights", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    with pyro.plate(f"{name} data", len(x), subsample_size=size) as i:
        k = pyro.sample(f"{name} k", dist.Categorical(weights), obs=labels, infer={"enumerate": "parallel"})
        pyro.sample(f"{name} x", flow(one_hot(k, 2).float()), obs=x[i])
    return k


def train(steps: int, n: int = 4000, labelled: int = 400) -> NSF:
    """Maximises the likelihood, the component summed out."""
    k, x = simulate(n)
    flow = NSF(2, context=2, autoregressive=True, transforms=2, hidden_features=(32, 32), activation=SiLU)
    adam = partial(torch.optim.Adam, lr=5e-3)
    fit(flow, x[:labelled], one_hot(k[:labelled], 2).float(), optimizer=adam, max_epochs=30, seed=0, progress=False)

    def program() -> None:
        draw(flow, "unlabelled", x[labelled:], size=250)
        draw(flow, "labelled", x[:labelled], k[:labelled])

    pyro.clear_param_store()
    adam = pyro.optim.ClippedAdam({"lr": 0.005, "lrd": 0.03 ** (1 / steps)})
    svi = SVI(program, lambda: None, adam, TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(steps):
        svi.step()
    return flow


@torch.no_grad()
def rows(flow: NSF, n: int = 2000) -> list[Row]:
    """The mixture on fresh data against what the true densities say of them."""
    k, x = simulate(n)
    joint = torch.stack([p.log_prob(x) for p in components()], -1) + WEIGHTS.log()
    log_p, probability = joint.logsumexp(-1), joint.softmax(-1)
    best, drawn = (infer_discrete(lambda: draw(flow, "new", x), -2, temperature=t)() for t in (0, 1))
    log_q = (flow(torch.eye(2)).log_prob(x.unsqueeze(1)) + pyro.param("weights").log()).logsumexp(-1)
    table = [("weight of the Gaussian", pyro.param("weights")[1].item(), WEIGHTS[1].item(), FIT)]
    found = {"most probable k is right": ((best == k).float(), (probability.argmax(-1) == k).float())}
    found["drawn k: share of the Gaussian"] = drawn.float(), probability[:, 1]
    found["KL from the true density"] = log_p - log_q, torch.zeros(n)
    for name, (answer, truth) in found.items():
        error = ((answer - truth).var().item() / n + FIT**2) ** 0.5
        table.append((name, answer.mean().item(), truth.mean().item(), error))
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="steps of SVI")
    torch.manual_seed(0)
    print(f"{'':34}{'answer':>10}{'truth':>10}{'error':>10}")
    for name, answer, truth, error in rows(train(parser.parse_args().steps)):
        print(f"{name:34}{answer:10.3f}{truth:10.3f}{error:10.3f}")


if __name__ == "__main__":
    main()
