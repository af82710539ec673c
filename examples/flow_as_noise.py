"""A regression whose noise is a flow: what is gained when noise is not Normal.

    python examples/flow_as_noise.py

y_i = x_i beta + e_i with skewed noise e ~ 0.8 Normal(-0.5, 0.3) + 0.2 Normal(2, 1). In the Pyro program the residual is
a site whose law is a flow with free weights: SVI learns them together with the posterior of beta. Known answers: beta,
within its posterior deviation; the density of the noise, within 0.01 nats, as a flow of about 40 numbers fitted to n
data costs about 40 / 2n; and the least deviation possible, by the Fisher information of the true noise, within 30 %.
The same program with Normal noise is consistent too, three times less sure, and far from the density of the noise.
"""

import argparse

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

from pyro_dgm.models import NSF, DiagonalNormal, TractableModel

BETA = torch.tensor([1.0, -2.0])
NOISE = dist.MixtureSameFamily(
    dist.Categorical(torch.tensor([0.8, 0.2])), dist.Normal(torch.tensor([-0.5, 2.0]), torch.tensor([0.3, 1.0]))
)
Row = tuple[str, float, float, float]


def simulate(n: int) -> tuple[Tensor, Tensor]:
    """Draws regressors and responses."""
    x = torch.randn(n, 2)
    return x, x @ BETA + NOISE.sample((n,))


def best_deviation(x: Tensor) -> Tensor:
    """Deviations of an efficient estimate of beta: sqrt of the diagonal of (I x'x)^-1, I by quadrature."""
    e = torch.linspace(-3.0, 8.0, 20_001, dtype=torch.float64).requires_grad_()
    log_p = NOISE.log_prob(e)
    (score,) = torch.autograd.grad(log_p.sum(), e)
    information = torch.trapezoid(log_p.exp() * score.square(), e).item()
    return torch.linalg.inv(information * x.T @ x).diagonal().sqrt()


def regress(noise: TractableModel, x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Learns the noise and the posterior of beta; returns its mean and deviation."""

    def program() -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 5.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("residual", noise(), obs=(y - x @ beta).unsqueeze(-1))

    pyro.clear_param_store()
    least_squares = torch.linalg.lstsq(x, y.unsqueeze(-1)).solution.squeeze(-1)
    noise.initialize((y - x @ least_squares).unsqueeze(-1))
    start = {"beta": least_squares}
    guide = AutoMultivariateNormal(program, lambda site: start[site["name"]], init_scale=0.02)
    svi = SVI(program, guide, pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.02 ** (1 / steps)}), Trace_ELBO())
    for _ in range(steps):
        svi.step()
    posterior = guide.get_posterior()
    return posterior.mean.detach(), posterior.stddev.detach()


def rows(n: int = 2000, steps: int = 800) -> list[Row]:
    """Both kinds of noise against the truth."""
    x, y = simulate(n)
    best, e, table = best_deviation(x), NOISE.sample((5000,)), []
    flow = NSF(1, autoregressive=True, transforms=1, bins=12, hidden_features=(4,))
    for name, noise in {"flow": flow, "Normal": DiagonalNormal(1)}.items():
        mean, sd = regress(noise, x, y, steps)
        for i in range(2):
            table.append((f"{name} noise: beta_{i + 1}", mean[i].item(), BETA[i].item(), sd[i].item()))
        with torch.no_grad():
            gap = NOISE.log_prob(e) - noise().log_prob(e.unsqueeze(-1))
        least = best[0].item()
        table.append((f"{name} noise: KL from the true noise", gap.mean().item(), 0.0, 0.01))
        table.append((f"{name} noise: sd of beta_1, least possible", sd[0].item(), least, 0.3 * least))
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="steps of SVI")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'':42}{'answer':>10}{'truth':>10}{'error':>10}")
    for name, answer, truth, error in rows(steps=args.steps):
        print(f"{name:42}{answer:10.4f}{truth:10.4f}{error:10.4f}")


if __name__ == "__main__":
    main()
