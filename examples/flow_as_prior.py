"""What one study has learned, as a flow, becomes the prior of the next.

    python examples/flow_as_prior.py

Both studies measure y ~ Normal(mu, 1 / sqrt(tau)). The first, of 20 measurements under a Normal-Gamma prior, is known
by draws from its posterior only. A flow over theta = (mu, log tau), fitted to 40,000 of them, is the prior of the
second study, of 30, under NUTS and SVI (draws of the guide are weighted to the posterior). The known answer is that of
both studies in closed form. The error is Monte Carlo's and the fitted prior's, 1 % of a deviation, in quadrature.
"""

import argparse
from functools import partial

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.infer.importance import vectorized_importance_weights
from pyro.ops.stats import effective_sample_size
from torch import Tensor
from torch.nn import SiLU
from torch.optim import Adam

from pyro_dgm import fit
from pyro_dgm.models import MAF
from pyro_dgm.training import one_cycle

PRIOR = (0.0, 1.0, 2.0, 2.0)  # mu | tau ~ Normal(m, 1 / sqrt(k tau)), tau ~ Gamma(a, b)
FIT = 0.01  # of a deviation: what the fit of the prior adds to the error
Row = tuple[str, float, float, float]


def conjugate(y: Tensor) -> tuple[float, float, float, float]:
    """The posterior m, k, a, b given y."""
    (m, k, a, b), n, mean = PRIOR, len(y), y.mean().item()
    square = (y - mean).square().sum().item() + k * n * (mean - m) ** 2 / (k + n)
    return (k * m + n * mean) / (k + n), k + n, a + n / 2, b + square / 2


def draws(m: float, k: float, a: float, b: float, n: int) -> Tensor:
    """Draws theta = (mu, log tau) from a Normal-Gamma."""
    tau = dist.Gamma(a, b).sample((n,))
    return torch.stack([m + torch.randn(n) / (k * tau).sqrt(), tau.log()], -1)


def moments(m: float, k: float, a: float, b: float) -> Tensor:
    """Means and deviations of mu and log tau under a Normal-Gamma, in closed form."""
    a, b = torch.tensor([a, b])
    return torch.stack([torch.tensor(m), a.digamma() - b.log(), (b / (k * (a - 1))).sqrt(), a.polygamma(1).sqrt()])


def compare(name: str, theta: Tensor, weights: Tensor, ess: Tensor, truth: Tensor) -> list[Row]:
    """Means and deviations of weighted draws, with their errors at this effective sample size."""
    mean = (weights * theta).sum(0)
    sd = (weights * (theta - mean).square()).sum(0).sqrt()
    error = torch.cat([sd * (1 / ess + FIT**2).sqrt(), sd * (1 / (2 * ess) + FIT**2).sqrt()])
    names = [f"{name}: {what}" for what in ("mean of mu", "mean of log tau", "sd of mu", "sd of log tau")]
    return list(zip(names, torch.cat([mean, sd]).tolist(), truth.tolist(), error.tolist(), strict=True))


def rows(epochs: int = 8, samples: int = 400, steps: int = 600) -> list[Row]:
    """Two studies, the second by NUTS and by SVI, against the posterior on both."""
    y_1, y_2 = (1.0 + 0.5 * torch.randn(n) for n in (20, 30))
    flow = MAF(2, transforms=3, hidden_features=(32,), activation=SiLU)
    settings = {"optimizer": partial(Adam, lr=5e-3), "schedule": one_cycle, "max_epochs": epochs, "batch_size": 500}
    fit(flow, draws(*conjugate(y_1), n=40_000), seed=0, progress=False, **settings)
    flow.eval().requires_grad_(False)

    def study(y: Tensor) -> None:
        mu, log_tau = pyro.sample("theta", flow()).unbind(-1)
        with pyro.plate("measurements", len(y)):
            pyro.sample("y", dist.Normal(mu, (-log_tau / 2).exp()), obs=y)

    mcmc = MCMC(NUTS(study), samples, warmup_steps=samples // 2, disable_progbar=True)
    mcmc.run(y_2)
    theta, truth = mcmc.get_samples()["theta"], moments(*conjugate(torch.cat([y_1, y_2])))
    table = compare("NUTS", theta, torch.tensor(1 / samples), effective_sample_size(theta[None]), truth)
    guide = AutoMultivariateNormal(study, init_scale=0.1)
    svi = SVI(study, guide, pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.05 ** (1 / steps)}), Trace_ELBO())
    for _ in range(steps):
        svi.step(y_2)
    with torch.no_grad():
        log_w, trace, _ = vectorized_importance_weights(study, guide, y_2, num_samples=2000, max_plate_nesting=1)
    weights, theta = log_w.softmax(0).unsqueeze(-1), trace.nodes["theta"]["value"].reshape(2000, 2)
    return table + compare("SVI", theta, weights, 1 / weights.square().sum(), truth)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400, help="draws of NUTS, after half as many to warm up")
    torch.manual_seed(0)
    print(f"{'':28}{'answer':>10}{'truth':>10}{'error':>10}")
    for name, answer, truth, error in rows(samples=parser.parse_args().samples):
        print(f"{name:28}{answer:10.3f}{truth:10.3f}{error:10.3f}")


if __name__ == "__main__":
    main()
