"""A conditional flow as a guide written by hand: one network holds the posteriors of all data sets.

    python examples/conditional_flow_guide.py

Each data set y has its own latent z ~ Normal(0, I) in two dimensions and y ~ Normal(A z, 0.5^2 I) in three. The guide
is one line, ``pyro.sample("z", Proposal(flow(y)))``: the flow's context is the data, and after training it has the
posterior of a data set never seen at the cost of a forward pass. This posterior is known, Normal(S A'y / 0.25, S)
with S = (I + A'A / 0.25)^-1, and its two features are correlated by -0.9. The table compares means, deviations and
correlation of 1000 draws with it, for new data sets, within the Monte Carlo error of so many draws.
"""

import argparse
from functools import partial

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO

from pyro_dgm import fit
from pyro_dgm.distributions import Proposal
from pyro_dgm.models import IAF
from pyro_dgm.training import one_cycle

A, SIGMA = torch.tensor([[1.0, 0.9], [0.8, 1.0], [0.3, 0.1]]), 0.5
DRAWS = 1000


def model(y: torch.Tensor) -> None:
    """Many data sets at once, one a row."""
    with pyro.plate("data sets", len(y)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z @ A.T, SIGMA).to_event(1), obs=y)


def exact(y: torch.Tensor) -> dist.MultivariateNormal:
    """The posterior of each data set."""
    covariance = (torch.eye(2) + A.T @ A / SIGMA**2).inverse()
    return dist.MultivariateNormal(y @ A @ covariance / SIGMA**2, covariance)


def simulate(n: int) -> torch.Tensor:
    """Returns n data sets from the model."""
    return torch.randn(n, 2) @ A.T + SIGMA * torch.randn(n, 3)


def train(steps: int, batch_size: int = 256) -> IAF:
    """Fits the guide to simulated data sets; the bound needs no pairs (y, z), so real ones would do as well."""
    flow = IAF(2, context=3, transforms=2, hidden_features=(64,))

    def guide(y: torch.Tensor) -> None:
        with pyro.plate("data sets", len(y)):
            pyro.sample("z", Proposal(flow(y)))

    adam, y = partial(torch.optim.Adam, lr=1e-2), simulate(steps * batch_size)
    settings = {"batch_size": batch_size, "max_epochs": 1, "schedule": one_cycle, "compile": False, "progress": False}
    fit(Trace_ELBO()(model, guide), y, optimizer=adam, **settings)
    return flow


@torch.no_grad()
def compare(flow: IAF, y: torch.Tensor) -> dict[str, tuple[float, float, float]]:
    """Returns what 1000 draws say, the truth, and the Monte Carlo error of the former, in posterior deviations."""
    draws, p = flow(y).sample((DRAWS,)), exact(y)
    rows, correlation = {}, float(p.covariance_matrix[0, 0, 1] / p.stddev[0].prod())
    for i in range(len(y)):
        scaled = (draws[:, i] - p.mean[i]) / p.stddev[i]
        for k in range(2):
            rows[f"{i}: mean of z{k}"] = float(scaled[:, k].mean()), 0.0, DRAWS**-0.5
            rows[f"{i}: deviation of z{k}"] = float(scaled[:, k].std()), 1.0, (2 * DRAWS) ** -0.5
        found = float(torch.corrcoef(scaled.T)[0, 1])
        rows[f"{i}: correlation"] = found, correlation, (1 - correlation**2) * DRAWS**-0.5
    return rows


def main() -> None:
    """Trains the guide and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    args = parser.parse_args()
    torch.manual_seed(0)
    flow = train(args.steps)
    print(f"{'data set':24}{'found':>9}{'exact':>9}{'error':>9}{'off by':>9}")
    for name, (found, truth, error) in compare(flow, simulate(4)).items():
        print(f"{name:24}{found:9.3f}{truth:9.3f}{error:9.3f}{(found - truth) / error:9.1f}")
    y = simulate(1000)
    with torch.no_grad():
        z, log_q = flow(y).rsample_and_log_prob()
        kl = log_q - exact(y).log_prob(z)
    print(f"\nKL(q | p) over 1000 new data sets: {kl.mean():.4f} ± {kl.std() / 1000**0.5:.4f} nats")


if __name__ == "__main__":
    main()
