"""A Bayesian flow: priors over its weights, a posterior by NUTS and by SVI.

    python examples/bayesian_flow.py

``with_priors`` makes a Bayesian model of any flow. This one is so small that its posterior is known: one ActNorm,
x = exp(s) z + b, is a Normal with unknown mean b and log deviation s, both Normal(0, 1) before 25 data are seen.
Quadrature gives the moments of the posterior; NUTS must agree, and so must the draws of an SVI guide once they are
weighted to the posterior. Errors are of Monte Carlo alone.
"""

import argparse

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.infer.importance import vectorized_importance_weights
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from pyro_dgm.models import NormalizingFlow
from pyro_dgm.transforms import ActNorm

Row = tuple[str, float, float, float]


def with_priors(flow: NormalizingFlow) -> NormalizingFlow:
    """Puts a standard normal prior on every parameter, in place."""
    to_pyro_module_(flow)
    for module in list(flow.modules()):
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, PyroSample(dist.Normal(torch.zeros_like(p), 1.0).to_event(p.dim())))
    return flow


def by_quadrature(x: Tensor, n: int = 500) -> Tensor:
    """Posterior means and deviations of b and s on a grid."""
    b, s = torch.meshgrid(torch.linspace(-1.0, 3.0, n), torch.linspace(-2.0, 2.0, n), indexing="ij")
    unit = dist.Normal(0.0, 1.0)
    log_p = unit.log_prob(b) + unit.log_prob(s) + dist.Normal(b, s.exp()).log_prob(x.reshape(-1, 1, 1)).sum(0)
    p, theta = log_p.flatten().double().softmax(0).unsqueeze(-1), torch.stack([b.flatten(), s.flatten()], -1)
    mean = (p * theta).sum(0)
    return torch.cat([mean, (p * (theta - mean).square()).sum(0).sqrt()])


def compare(name: str, theta: Tensor, weights: Tensor, ess: Tensor, truth: Tensor) -> list[Row]:
    """Means and deviations of weighted draws, with their errors at this effective sample size."""
    mean = (weights * theta).sum(0)
    sd = (weights * (theta - mean).square()).sum(0).sqrt()
    answer, error = torch.cat([mean, sd]), torch.cat([sd / ess.sqrt(), sd / (2 * ess).sqrt()])
    names = [f"{name}: {what}" for what in ("mean of b", "mean of s", "sd of b", "sd of s")]
    return list(zip(names, answer.tolist(), truth.tolist(), error.tolist(), strict=True))


def train(program, guide, x: Tensor, steps: int, lr: float) -> None:
    """Fits a guide."""
    svi = SVI(program, guide, pyro.optim.ClippedAdam({"lr": lr, "lrd": 0.05 ** (1 / steps)}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


def rows(samples: int = 400, steps: int = 500) -> list[Row]:
    """The small flow by NUTS and by SVI, against quadrature."""
    x = 0.7 + 0.6 * torch.randn(25, 1)
    flow, truth = with_priors(NormalizingFlow(1, [ActNorm(1)], standardize=False)), by_quadrature(x)
    mcmc = MCMC(NUTS(flow.model), samples, warmup_steps=samples // 2, disable_progbar=True)
    mcmc.run(x)
    (site, theta), *_ = mcmc.get_samples().items()
    even = torch.full((samples, 1), 1 / samples)
    table = compare("NUTS", theta, even, effective_sample_size(theta[None]), truth)
    guide = AutoMultivariateNormal(flow.model, init_scale=0.1)
    train(flow.model, guide, x, steps, 0.03)
    with torch.no_grad():
        sizes = {"num_samples": 2000, "max_plate_nesting": 1}
        log_weights, trace, _ = vectorized_importance_weights(flow.model, guide, x, **sizes)
    weights = log_weights.softmax(0).unsqueeze(-1)
    theta = trace.nodes[site]["value"].reshape(2000, 2)
    return table + compare("SVI", theta, weights, 1 / weights.square().sum(), truth)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400, help="draws of NUTS, after half as many to warm up")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'':28}{'answer':>10}{'truth':>10}{'MC error':>10}")
    for name, answer, truth, error in rows(args.samples):
        print(f"{name:28}{answer:10.3f}{truth:10.3f}{error:10.3f}")


if __name__ == "__main__":
    main()
