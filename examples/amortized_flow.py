"""``AutoAmortizedFlow``: a posterior for every row of a plate, from batches of any size.

    python examples/amortized_flow.py

Customers make n_i ~ Poisson(rate_i) visits, rate_i ~ Gamma(2, 0.5), and buy k_i ~ Binomial(20, share_i) of 20 goods
shown to them, share_i ~ Beta(1, 1). Both latents are local: one of each per customer, on different supports, in a
plate that is subsampled. An encoder reads (n_i, k_i), a conditional flow does the rest, so a customer never seen has
a posterior at once. It is known, rate_i | n_i ~ Gamma(2 + n_i, 1.5) and share_i | k_i ~ Beta(1 + k_i, 21 - k_i). The
table compares mean and deviation of 1000 draws with it; "error" is the Monte Carlo error of so many draws.
"""

import argparse
from functools import partial

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_dgm import fit
from pyro_dgm.guides import AutoAmortizedFlow
from pyro_dgm.models import NSF
from pyro_dgm.training import one_cycle

CUSTOMERS, GOODS, DRAWS = 5000, 20, 1000
NEW = torch.tensor([[0.0, 1.0], [3.0, 10.0], [6.0, 4.0], [10.0, 20.0]])


class Logarithms(nn.Module):
    """Logarithms of visits, goods bought and goods left, which a network reads more easily than counts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (n, 2) to (n, 3)."""
        return torch.stack([x[:, 0], x[:, 1], GOODS - x[:, 1]], -1).log1p()


def customers(x: torch.Tensor) -> pyro.plate:
    """The plate: the rows given stand for all customers."""
    return pyro.plate("customers", CUSTOMERS, subsample_size=len(x), dim=-1)


def model(x: torch.Tensor) -> None:
    """Visits and purchases, in the columns of x."""
    with customers(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        share = pyro.sample("share", dist.Beta(1.0, 1.0))
        pyro.sample("visits", dist.Poisson(rate), obs=x[:, 0])
        pyro.sample("purchases", dist.Binomial(GOODS, share), obs=x[:, 1])


def simulate() -> torch.Tensor:
    """Returns all customers."""
    rate, share = dist.Gamma(2.0, 0.5).sample((CUSTOMERS,)), torch.rand(CUSTOMERS)
    return torch.stack([torch.poisson(rate), dist.Binomial(GOODS, share).sample()], -1)


def exact(x: torch.Tensor) -> dict[str, dist.TorchDistribution]:
    """The posterior of each row."""
    return {"rate": dist.Gamma(2 + x[:, 0], 1.5), "share": dist.Beta(1 + x[:, 1], 1 + GOODS - x[:, 1])}


def train(x: torch.Tensor, epochs: int, batch_size: int = 256) -> AutoAmortizedFlow:
    """Fits the guide by batches, the last of an epoch a smaller one."""
    encoder = nn.Sequential(Logarithms(), nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 16))
    flow = partial(NSF, transforms=2, hidden_features=(32,), bins=6)
    guide = AutoAmortizedFlow(model, "customers", encoder, flow, create_plates=customers).setup(x)
    adam, settings = partial(torch.optim.Adam, lr=5e-3), {"batch_size": batch_size, "max_epochs": epochs}
    fit(Trace_ELBO()(model, guide), x, optimizer=adam, schedule=one_cycle, compile=False, progress=False, **settings)
    return guide


def compare(guide: AutoAmortizedFlow, x: torch.Tensor) -> dict[str, tuple[float, float, float]]:
    """Returns what 1000 draws say, the truth, and the Monte Carlo error of the former."""
    draws, rows = guide.sample_posterior(DRAWS, x), {}
    for name, p in exact(x).items():
        far = p.sample((100_000,)) - p.mean  # for the fourth moment, which the error of a deviation needs
        kurtosis = (far**4).mean(0) / p.variance**2
        for i in range(len(x)):
            label, sd = f"{x[i].int().tolist()} {name}", float(p.stddev[i])
            rows[f"{label} mean"] = float(draws[name][:, i].mean()), float(p.mean[i]), sd * DRAWS**-0.5
            error = sd * float((kurtosis[i] - 1) / (4 * DRAWS)) ** 0.5
            rows[f"{label} deviation"] = float(draws[name][:, i].std()), sd, error
    return rows


def main() -> None:
    """Fits the guide and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="passes over the customers")
    args = parser.parse_args()
    torch.manual_seed(0)
    guide = train(simulate(), args.epochs)
    print(f"{'[visits, purchases]':28}{'found':>9}{'exact':>9}{'error':>9}{'off by':>9}")
    for name, (found, truth, error) in compare(guide, NEW).items():
        print(f"{name:28}{found:9.3f}{truth:9.3f}{error:9.3f}{(found - truth) / error:9.1f}")


if __name__ == "__main__":
    main()
