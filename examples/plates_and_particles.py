"""A hierarchical program with a flow as the law of its groups, run in all the vectorised ways that Pyro knows.

    python examples/plates_and_particles.py

The program: group effects z_j ~ flow (two features), j = 1, ..., 4, and in a plate nested within, measurements
y_ij ~ Normal(z_j1 + x_i z_j2, sigma), i = 1, ..., 6. A flow whose batch shape is right can be run for all particles at
once, for all samples at once, and for a part of the groups. Each way is compared with a loop over plain tensors. What
is exact has rounding as its error; averages over draws have their Monte Carlo error.
"""

import argparse
from itertools import combinations, product
from typing import NamedTuple

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.importance import vectorized_importance_weights
from torch import Tensor

from pyro_dgm.models import MAF

Row = tuple[str, float, float, float]
GROUPS, SIZE, SIGMA, ROUNDING = 4, 6, 0.5, 2e-4
X = torch.linspace(-1.0, 1.0, SIZE).unsqueeze(-1)


class Hierarchy(NamedTuple):
    """The program, its guide, and its log joint density by loops."""

    flow: MAF
    y: Tensor

    def model(self, subsample: Tensor | None = None, predict: bool = False) -> None:
        """Measurements nested in groups."""
        with pyro.plate("groups", GROUPS, subsample=subsample) as j:
            z = pyro.sample("z", self.flow())
            with pyro.plate("measurements", SIZE):
                law = dist.Normal(z[..., 0] + X * z[..., 1], SIGMA)
                pyro.sample("y", law, obs=None if predict else self.y[:, j])

    def guide(self, subsample: Tensor | None = None) -> None:
        """Normal group effects."""
        with pyro.plate("groups", GROUPS, subsample=subsample):
            pyro.sample("z", dist.Normal(torch.zeros(2), 0.7).to_event(1))

    def log_joint(self, z: Tensor) -> float:
        """The log joint density, datum by datum."""
        total = sum(self.flow().log_prob(z_j).item() for z_j in z)
        for i, j in product(range(SIZE), range(GROUPS)):
            total += dist.Normal(z[j, 0] + X[i, 0] * z[j, 1], SIGMA).log_prob(self.y[i, j]).item()
        return total


@torch.no_grad()
def rows(particles: int = 200) -> list[Row]:
    """One row for each way to run the program."""
    flow = MAF(2, transforms=2, hidden_features=(16,)).eval()
    for p in flow.parameters():  # a flow that has learned something
        p.add_(0.1 * torch.randn_like(p))
    z_true = flow().sample((GROUPS,))
    h = Hierarchy(flow, z_true[:, 0] + X * z_true[:, 1] + SIGMA * torch.randn(SIZE, GROUPS))
    model, guide, z = h.model, h.guide, flow().sample((GROUPS,))
    log_joint = poutine.trace(poutine.condition(model, {"z": z})).get_trace().log_prob_sum().item()
    table = [("nested plates: log joint", log_joint, h.log_joint(z), ROUNDING)]
    parts = []
    for j in combinations(range(GROUPS), 2):
        part = poutine.condition(model, {"z": z[list(j)]})
        parts.append(poutine.trace(part).get_trace(torch.tensor(j)).log_prob_sum())
    table.append(("subsampling: mean over pairs of groups", sum(parts).item() / len(parts), h.log_joint(z), ROUNDING))
    weights, traces, _ = vectorized_importance_weights(model, guide, num_samples=particles, max_plate_nesting=2)
    draws = traces.nodes["z"]["value"].reshape(particles, GROUPS, 2)
    loop = torch.tensor([h.log_joint(z) - dist.Normal(0.0, 0.7).log_prob(z).sum().item() for z in draws])
    table.append(("vectorised particles: worst against a loop", (weights - loop).abs().max().item(), 0.0, ROUNDING))
    elbo = Trace_ELBO(num_particles=10 * particles, vectorize_particles=True, max_plate_nesting=2)
    error = loop.std().item() * (1.1 / particles) ** 0.5
    table.append(("vectorised ELBO against the loop's mean", -elbo.loss(model, guide), loop.mean().item(), error))
    predictive = Predictive(model, num_samples=20 * particles, parallel=True)(predict=True)
    for i in (0, SIZE - 1):
        y, by_hand = predictive["y"][:, i].flatten(), flow().sample((100_000,))
        truth = by_hand[:, 0] + X[i, 0] * by_hand[:, 1]
        error = (y.var() / len(y) + truth.var() / len(truth)).sqrt().item()
        table.append((f"parallel Predictive: mean, x = {X[i, 0]:+.0f}", y.mean().item(), truth.mean().item(), error))
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=200, help="particles, each also run in a loop")
    torch.manual_seed(0)
    print(f"{'':46}{'answer':>10}{'truth':>10}{'error':>10}")
    for name, answer, truth, error in rows(parser.parse_args().particles):
        print(f"{name:46}{answer:10.4f}{truth:10.4f}{error:10.4f}")


if __name__ == "__main__":
    main()
