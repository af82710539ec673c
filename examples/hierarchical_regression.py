"""An ordinary Pyro program, three ways: the same answer, and a step that costs a fraction.

    python examples/hierarchical_regression.py

Varying intercepts and slopes, in the shape of the radon data (85 counties, 900 houses), simulated so that the truth is
known: y_i ~ Normal(a_g + b_g x_i, sigma) in group g = g(i), with a_g ~ Normal(mu_a, sigma_a), b_g ~ Normal(mu_b,
sigma_b) and wide priors on these five. The guide is Pyro's ``AutoNormal``. ``SVI`` runs the two programs at every
step. ``fit`` runs them for a step or two, keeps the tensor operations, and with ``compile`` replays those as one graph.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

from pyro_dgm import fit

GROUPS, ROWS = 85, 900
TRUTH = {"mu_a": 1.5, "mu_b": -0.7, "sigma_a": 0.5, "sigma_b": 0.3, "sigma": 0.75}


def simulate() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns data with columns group, x and y, and the true intercepts."""
    group, x = torch.randint(GROUPS, (ROWS,)), torch.randn(ROWS)
    a = TRUTH["mu_a"] + TRUTH["sigma_a"] * torch.randn(GROUPS)
    b = TRUTH["mu_b"] + TRUTH["sigma_b"] * torch.randn(GROUPS)
    y = a[group] + b[group] * x + TRUTH["sigma"] * torch.randn(ROWS)
    return torch.stack([group.float(), x, y], 1), a


def model(data: torch.Tensor) -> None:
    """The regression, with its data in the columns of one tensor."""
    group, x, y = data[:, 0].long(), data[:, 1], data[:, 2]
    mu_a, mu_b = (pyro.sample(name, dist.Normal(0.0, 3.0)) for name in ("mu_a", "mu_b"))
    sigma_a, sigma_b, sigma = (pyro.sample(n, dist.HalfNormal(2.0)) for n in ("sigma_a", "sigma_b", "sigma"))
    with pyro.plate("groups", GROUPS):
        a = pyro.sample("a", dist.Normal(mu_a, sigma_a))
        b = pyro.sample("b", dist.Normal(mu_b, sigma_b))
    with pyro.plate("houses", len(data)):
        pyro.sample("y", dist.Normal(a[group] + b[group] * x, sigma), obs=y)


def by_svi(guide: AutoNormal, data: torch.Tensor, steps: int) -> float:
    """Trains by ``SVI``; returns seconds per step."""
    svi, times = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()), []
    for _ in range(steps):
        svi.step(data)
        times.append(time.perf_counter())
    return (times[-1] - times[steps // 2]) / (len(times) - 1 - steps // 2)


def by_fit(guide: AutoNormal, data: torch.Tensor, steps: int, compile: bool) -> float:
    """Trains by ``fit``, an epoch being one step on all data; returns seconds per step, without those to compile."""
    adam, size = partial(torch.optim.Adam, lr=0.01, fused=True), len(data)
    settings = {"batch_size": size, "max_epochs": steps, "gradient_clip": None, "compile": compile, "progress": False}
    times = fit(Trace_ELBO()(model, guide), data, optimizer=adam, **settings)["seconds"]
    return (times[-1] - times[steps // 2]) / (len(times) - 1 - steps // 2)


def main() -> None:
    """Trains three times, prints a table and draws the intercepts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="steps of each way to train, at least 10")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small tensors are faster without a second thread
    torch.manual_seed(0)
    data, intercepts = simulate()
    ways = {"SVI": by_svi, "fit": partial(by_fit, compile=False), "fit compiled": partial(by_fit, compile=True)}
    print(f"{'':14}{'us/step':>9}{'ratio':>8}" + "".join(f"{name:>9}" for name in TRUTH))
    print(f"{'truth':31}" + "".join(f"{value:9.2f}" for value in TRUTH.values()))
    seconds, median = {}, {}
    for name, train in ways.items():
        pyro.clear_param_store()
        torch.manual_seed(1)
        guide = AutoNormal(model)
        seconds[name] = train(guide, data, args.steps)
        median = guide.median(data)
        row = "".join(f"{median[key].item():9.2f}" for key in TRUTH)
        print(f"{name:14}{1e6 * seconds[name]:9.0f}{seconds[name] / seconds['SVI']:8.2f}{row}", flush=True)
    draw(intercepts, data, median["a"].detach(), args.out / "intercepts.png")


def draw(truth: torch.Tensor, data: torch.Tensor, found: torch.Tensor, path: Path) -> None:
    """Draws the intercepts found against the true ones, larger where a group has more houses."""
    from matplotlib.figure import Figure

    houses = torch.bincount(data[:, 0].long(), minlength=GROUPS)
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    ends = [float(truth.min()) - 0.2, float(truth.max()) + 0.2]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.scatter(truth, found, s=4 * houses.float(), alpha=0.6)
    axes.set(xlabel="true intercept", ylabel="posterior median", title="85 groups, sized by their houses")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
