"""A conditional flow as amortised posterior of a simulator, and whether to believe it.

    python examples/simulation_based_inference.py

The simulator: theta ~ Normal(0, I), two parameters; three measurements x = A theta + noise, noise ~ Normal(0, I / 4).
The flow sees simulated pairs only and learns q(theta | x) for every x at once. Known answer: the posterior, Normal in
closed form. The error is that of Monte Carlo and that of the fit, 2 % of a deviation or 0.003 nats, in quadrature. So
the two checks that remain where no answer is known are checked too: ranks of simulation-based calibration are uniform
and expected coverage is nominal for a calibrated posterior; for one that is 10 % too narrow they are not.
"""

import argparse
from functools import partial

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.nn import SiLU

from pyro_dgm import fit
from pyro_dgm.evaluation import expected_coverage, rank_test, sbc_ranks
from pyro_dgm.models import NormalizingFlow
from pyro_dgm.training import one_cycle
from pyro_dgm.transforms import MaskedAutoregressive

A, NOISE = torch.tensor([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]]), 0.5
OBSERVED, FIT = torch.tensor([1.0, 0.5, 0.0]), 0.02  # FIT: error of the fit at x = OBSERVED, in deviations
Row = tuple[str, float, float, float]


def simulate(n: int) -> tuple[Tensor, Tensor]:
    """Draws parameters and what the simulator makes of them."""
    theta = torch.randn(n, 2)
    return theta, theta @ A.T + NOISE * torch.randn(n, 3)


def exact(x: Tensor, scale: float = 1.0) -> dist.MultivariateNormal:
    """The posterior in closed form, its deviations multiplied by ``scale``."""
    covariance = torch.linalg.inv(torch.eye(2) + A.T @ A / NOISE**2)
    return dist.MultivariateNormal(x @ A @ covariance / NOISE**2, scale**2 * covariance)


def train(simulations: int = 20_000, epochs: int = 20) -> NormalizingFlow:
    """Fits the flow to simulated pairs."""
    layer = MaskedAutoregressive(2, hidden_features=(64,), context=3, activation=SiLU)
    flow = NormalizingFlow(2, [layer.inv], context=3)
    adam = partial(torch.optim.Adam, lr=1e-2, fused=True)
    settings = {"optimizer": adam, "schedule": one_cycle, "max_epochs": epochs, "batch_size": 500, "progress": False}
    fit(flow, *simulate(simulations), seed=0, **settings)
    return flow


@torch.no_grad()
def rows(flow: NormalizingFlow, n: int = 2000) -> list[Row]:
    """Compares the flow with the exact posterior at one observation and on average over n of them."""
    theta, x = simulate(n)
    q, p, draws = flow(OBSERVED), exact(OBSERVED), 10_000
    samples, table = q.sample((draws,)), []
    for i in range(2):
        sd = p.stddev[i].item()
        table.append(
            (f"mean of theta_{i + 1}", samples[:, i].mean().item(), p.mean[i].item(), sd * (1 / draws + FIT**2) ** 0.5)
        )
        table.append(
            (f"deviation of theta_{i + 1}", samples[:, i].std().item(), sd, sd * (0.5 / draws + FIT**2) ** 0.5)
        )
    coverage = expected_coverage(flow(x), theta, levels=(0.5, 0.8, 0.95))
    for level, found, error in zip(*(t.tolist() for t in coverage[:3]), strict=True):
        table.append((f"coverage of the {level:.0%} region", found, level, error))
    gap = exact(x).log_prob(theta) - flow(x).log_prob(theta)
    table.append(("KL from the exact posterior", gap.mean().item(), 0.0, (gap.var().item() / n + 0.003**2) ** 0.5))
    return table


@torch.no_grad()
def p_values(n: int = 5000, flow: NormalizingFlow | None = None, scale: float = 1.0) -> dict[str, float]:
    """P-values of calibration of the flow, or of the exact posterior with deviations too large by ``scale``."""
    theta, x = simulate(n)
    q = exact(x, scale) if flow is None else flow(x)
    ranks = torch.cat([sbc_ranks(q, theta), expected_coverage(q, theta).ranks.unsqueeze(-1)], -1)
    return dict(zip(("theta_1", "theta_2", "HPD"), rank_test(ranks, 99).tolist(), strict=True))


def main() -> None:
    """Trains and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="passes over the simulations")
    args = parser.parse_args()
    torch.manual_seed(0)
    flow = train(epochs=args.epochs)
    print(f"{'':32}{'answer':>10}{'truth':>10}{'error':>10}")
    for name, answer, truth, error in rows(flow):
        print(f"{name:32}{answer:10.3f}{truth:10.3f}{error:10.3f}")
    checks = {"flow": p_values(flow=flow), "exact": p_values(), "exact, 10 % narrow": p_values(scale=0.9)}
    for name, p in checks.items():
        print(f"p-values, {name:22}" + "".join(f"{key:>10}{value:7.3f}" for key, value in p.items()))


if __name__ == "__main__":
    main()
