"""NeuTra: NUTS in the latent space of a flow that was fitted to the posterior first.

    python examples/neutra.py

Neal's funnel, v ~ Normal(0, 3), x_i ~ Normal(0, exp(v / 2)) for i = 1, 2, is narrow where v is small: a sampler with
one step size for all of it either does not enter the neck or crawls elsewhere. ``AutoFlow`` learns a map from a
normal distribution to the funnel, imperfectly; ``NeuTraReparam`` lets NUTS sample what is left to do, so that the
draws are exact where the guide alone is not (Hoffman et al., NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo
Using Neural Transport, 2019, arXiv:1903.03704). The truth is known: v is Normal(0, 3). The table has its mean,
deviation and 5 and 95 % quantiles with their errors, from the effective sample size, and that size per thousand
evaluations of the model.
"""

import argparse
from functools import partial

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import MCMC, NUTS, Trace_ELBO
from pyro.infer.reparam import NeuTraReparam
from pyro.ops.stats import effective_sample_size
from torch import Tensor, nn

from pyro_dgm import fit
from pyro_dgm.guides import AutoFlow
from pyro_dgm.models import IAF
from pyro_dgm.training import one_cycle

SCALE = 3.0
EXACT = {"mean": 0.0, "deviation": SCALE, "5 %": -1.645 * SCALE, "95 %": 1.645 * SCALE}
# deviations of these estimates from n independent draws of a normal distribution, times sqrt(n) and over its own
ERRORS = {"mean": 1.0, "deviation": 0.5**0.5, "5 %": 2.11, "95 %": 2.11}


class Funnel:
    """The program, which counts how often it is run."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, _: Tensor | None = None) -> None:
        """Samples v, then x."""
        self.runs += 1
        v = pyro.sample("v", dist.Normal(0.0, SCALE))
        pyro.sample("x", dist.Normal(torch.zeros(2), (v / 2).exp()[..., None]).to_event(1))


def train(steps: int) -> AutoFlow:
    """Fits the guide to the funnel: autoregressive, v first, as the funnel is; smooth, as NUTS wants it."""
    model = Funnel()
    guide = AutoFlow(model, partial(IAF, transforms=2, hidden_features=(32,), activation=nn.SiLU)).setup()
    elbo = Trace_ELBO(num_particles=256, vectorize_particles=True, max_plate_nesting=0)(model, guide)
    adam = partial(torch.optim.Adam, lr=0.02)
    fit(elbo, torch.zeros(1), optimizer=adam, schedule=one_cycle, max_epochs=steps, compile=False, progress=False)
    return guide


def sample(guide: AutoFlow | None, samples: int, warmup: int) -> tuple[Tensor, Tensor, int]:
    """Returns draws of v and x by NUTS, through the guide if there is one, and the evaluations they took."""
    model = Funnel()
    neutra = None if guide is None else NeuTraReparam(guide.requires_grad_(False))
    program = model if neutra is None else neutra.reparam(model)
    mcmc = MCMC(NUTS(program, max_tree_depth=6), num_samples=samples, warmup_steps=warmup, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()
    if neutra is not None:
        draws = neutra.transform_sample(next(iter(draws.values())))
    return draws["v"].flatten(), draws["x"], model.runs


def summary(v: Tensor) -> tuple[dict[str, float], float]:
    """Returns the estimates from draws of v, and their effective sample size, of v or its square, whichever is less."""
    low, high = torch.quantile(v, torch.tensor([0.05, 0.95])).tolist()
    size = min(float(effective_sample_size(t[None], sample_dim=1, chain_dim=0)) for t in (v, v.square()))
    return {"mean": float(v.mean()), "deviation": float(v.std()), "5 %": low, "95 %": high}, size


def main() -> None:
    """Samples the funnel in two ways and prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="training steps of the guide")
    parser.add_argument("--samples", type=int, default=1000, help="draws of NUTS")
    args = parser.parse_args()
    torch.manual_seed(0)
    guide = train(args.steps)
    print(f"{'truth':16}" + "".join(f"{k:>10} {v:6.2f}" for k, v in EXACT.items()))
    for name, through in (("NUTS", None), ("NUTS, NeuTra", guide)):
        v, _, runs = sample(through, args.samples, args.samples // 2)
        found, size = summary(v)
        cells = "".join(f"{value:8.2f} ± {SCALE * ERRORS[k] / size**0.5:4.2f}  " for k, value in found.items())
        print(f"{name:16}{cells} ESS {size:6.0f}, {1000 * size / runs:6.2f} per 1000 evaluations", flush=True)


if __name__ == "__main__":
    main()
