"""A trained generator as a prior of images: lower halves of digits, drawn from their posterior given the upper ones.

    python examples/inpaint_with_a_generator.py [--epochs 300] [--out out]

A GAN learns 1400 digits of 8x8 pixels. Of other digits only the upper half is seen, under noise; from which noise z the
generator could have made them is then a question of Bayesian inference, p(z | y) in proportion to p(z) p(y | G(z)),
answered three ways: by annealed Markov chains for all digits at once, and, for a few of them, by a normal guide under
SVI and by NUTS. The picture has a column for each digit: the digit, what is seen of it, the mean of p(x | y), and
draws. The table says how far means are from the hidden half, and how often it lies within the central 80 % of draws.
"""

import argparse
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import pyro
import torch
from pyro.distributions import Normal
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor
from torch.distributions import constraints
from torch.optim import Adam

from pyro_dgm import fit, plots
from pyro_dgm.datasets import digits
from pyro_dgm.models import GAN
from pyro_dgm.objectives import Adversarial, GradientPenalty, Wasserstein
from pyro_dgm.tasks import InverseProblem, invert

SHAPE, LATENT, NOISE, DRAWS = (1, 8, 8), 10, 0.2, 5


def observe(x: Tensor) -> Normal:
    """Returns p(y | x): the upper half, with noise, which also stands for what the generator cannot make."""
    return Normal(x[..., :4, :], NOISE).to_event(3)


def train(x: Tensor, epochs: int) -> GAN:
    """Fits a generator to images."""
    gan = GAN(SHAPE, LATENT, hidden_features=(128, 128), support=constraints.unit_interval)
    game = Adversarial(Wasserstein(), GradientPenalty(10.0), critic_steps=3)
    adam = partial(Adam, lr=1e-3, betas=(0.5, 0.9))
    fit(gan, x, objective=game, max_epochs=epochs, batch_size=100, optimizer=adam, ema=0.999, seed=0, progress=False)
    return gan.eval()


def by_svi(problem: InverseProblem, y: Tensor, steps: int) -> Tensor:
    """Returns draws of x given one observation, by a normal guide over z."""
    pyro.clear_param_store()
    guide = AutoMultivariateNormal(problem, init_scale=0.3)
    svi = SVI(
        problem, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO(32, max_plate_nesting=0, vectorize_particles=True)
    )
    for _ in range(steps):
        svi.step(y)
    return Predictive(problem, guide=guide, num_samples=200)(y)["x"].detach()


def by_nuts(problem: InverseProblem, y: Tensor, steps: int) -> Tensor:
    """Returns draws of x given one observation, by a Markov chain."""
    mcmc = MCMC(NUTS(problem, max_tree_depth=5), num_samples=steps // 2, warmup_steps=steps // 3, disable_progbar=True)
    mcmc.run(y)
    return problem.generate(mcmc.get_samples()["z"]).detach()


def row(name: str, x: Tensor, draws: Tensor) -> str:
    """Returns a line of the table, about the hidden halves of digits and draws of them."""
    hidden, drawn = x[..., 4:, :], draws[..., 4:, :]
    error = (drawn.mean(0) - hidden).square().mean().sqrt()
    noisy = drawn + NOISE * torch.randn(drawn.shape)  # of what the generator cannot make
    low, high = noisy.quantile(torch.tensor([0.1, 0.9]), 0)
    ink = (hidden > 0) & (hidden < 1)  # pixels on the edge of the scale are beyond any quantile
    inside = ((hidden >= low) & (hidden <= high))[ink].float().mean()
    return f"{name:34s}{len(x):8d}{error:12.3f}{inside:12.2f}"


def main() -> None:
    """Trains, infers, compares and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--temperatures", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300, help="steps of SVI and NUTS")
    parser.add_argument("--few", type=int, default=3, help="digits for SVI and NUTS")
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images, _ = digits()
    x = images[torch.randperm(len(images))] / 16
    train_x, test_x = x[:1400], x[1400:1464]
    gan = train(train_x, arguments.epochs)
    y = observe(test_x).sample()
    settings = {"num_chains": arguments.chains, "num_temperatures": arguments.temperatures}
    found = invert(gan, y, observe, num_samples=200, **settings)
    problem, few = InverseProblem(gan, observe), arguments.few
    print(f"effective chains of {arguments.chains}: {found.effective_size.median():.0f} (median)")
    print(f"{'hidden halves by':34s}{'digits':>8s}{'rms error':>12s}{'in 80 %':>12s}")
    nearest = torch.cdist(y.flatten(1), train_x[..., :4, :].flatten(1)).argmin(1)
    print(row("the mean of all digits", test_x, train_x.mean(0).expand(200, *test_x.shape)))
    print(row("the digit with the nearest half", test_x, train_x[nearest].expand(200, *test_x.shape)))
    print(row("the generator, annealed chains", test_x, found.samples))
    print(row("  some of them, annealed chains", test_x[:few], found.samples[:, :few]))
    for name, draw in (("a normal guide", by_svi), ("NUTS", by_nuts)):
        draws = torch.stack([draw(problem, each, arguments.steps) for each in y[:few]], 1)
        print(row(f"  some of them, {name}", test_x[:few], draws))
    seen = torch.cat([y[:16], torch.full_like(y[:16], 0.5)], -2)
    rows = [test_x[:16], seen, found.samples[:, :16].mean(0), *found.samples[:DRAWS, :16]]
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure = plots.image_grid(torch.cat(rows), columns=16)
    figure.savefig(arguments.out / "GAN_inpainting.png", dpi=120)
    print(f"picture in {arguments.out}/")


if __name__ == "__main__":
    main()
