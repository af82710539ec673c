"""Inversion of generators whose posterior is known: a linear one, whose posterior is normal, and one with two modes.

Statistical tests are seeded; each states how often it would fail under other seeds.
"""

import copy
import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import nn

from pyro_dgm import models as m
from pyro_dgm.tasks import InverseProblem, invert

NOISE = 0.4


def linear_gan(features=5, latent=2):
    torch.manual_seed(3)
    return m.GAN(features, latent, generator=nn.Linear(latent, features))


def blur(x):
    """The mean of neighbours, and the last number is lost."""
    return 0.5 * (x[..., :-2] + x[..., 1:-1])


def observe(x):
    return dist.Normal(blur(x), NOISE).to_event(1)


def known_posterior(gan, y):
    """Mean and covariance of z | y for y = B(W z + b) + noise, and log p(y)."""
    with torch.no_grad():
        w, b = blur(gan.generator.weight.T).T, blur(gan.generator.bias)
        covariance = torch.linalg.inv(torch.eye(w.shape[1]) + w.T @ w / NOISE**2)
        mean = (y - b) @ w @ covariance / NOISE**2
        marginal = dist.MultivariateNormal(b, w @ w.T + NOISE**2 * torch.eye(len(b)))
        return mean, covariance, marginal.log_prob(y)


Y = torch.tensor([1.0, -0.5, 0.3])


def test_svi_finds_the_posterior_of_a_linear_generator_and_leaves_it_alone():
    """Over 5 seeds means were within 0.06 and covariances within 0.02 of the exact ones."""
    gan = linear_gan()
    before = copy.deepcopy(gan.state_dict())
    problem = InverseProblem(gan, observe)
    guide = AutoMultivariateNormal(problem, init_scale=0.5)
    elbo = Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(problem, guide, pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.05 ** (1 / 150)}), elbo)
    for _ in range(150):
        svi.step(Y)
    mean, covariance, _ = known_posterior(gan, Y)
    posterior = guide.get_posterior()
    torch.testing.assert_close(posterior.mean.detach(), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(posterior.covariance_matrix.detach(), covariance, atol=0.08, rtol=0)
    assert all("generator" not in name and "critic" not in name for name in pyro.get_param_store())
    assert all(torch.equal(value, before[name]) for name, value in gan.state_dict().items())


def test_nuts_finds_it_too():
    """Within 5 standard errors of 40 effective draws, and so are its images: fails below 1e-4."""
    gan = linear_gan()
    problem = InverseProblem(gan, observe)
    mcmc = MCMC(NUTS(problem, max_tree_depth=4), num_samples=80, warmup_steps=30, disable_progbar=True)
    mcmc.run(Y)
    z = mcmc.get_samples()["z"]
    mean, covariance, _ = known_posterior(gan, Y)
    assert ((z.mean(0) - mean).abs() < 5 * (covariance.diagonal() / 40).sqrt()).all()
    torch.testing.assert_close(z.mT.cov(), covariance, atol=5 * float(covariance.max()) / 20**0.5, rtol=0)
    x = Predictive(problem, {"z": z})()["x"]
    torch.testing.assert_close(x, gan.generate(z))


def test_annealed_chains_of_many_observations_and_their_evidence():
    """Draws within 5 standard errors, fails at 1e-5; log p(y) within 0.1 (over 5 seeds within 0.04)."""
    gan = linear_gan()
    y = torch.stack([Y, -Y])
    found = invert(gan, y, observe, num_samples=256, num_chains=256, num_temperatures=40, leapfrog_steps=5)
    mean, covariance, log_evidence = known_posterior(gan, y)
    torch.testing.assert_close(found.log_prob_observed, log_evidence, atol=0.1, rtol=0)
    assert (found.effective_size > 128).all()
    # chains are drawn with replacement, so that draws count half
    assert ((found.z.mean(0) - mean).abs() < 5 * (covariance.diagonal() / 64).sqrt()).all()
    torch.testing.assert_close(found.samples, gan.generate(found.z))


def test_both_modes_of_a_posterior_are_found():
    """x = |z| is seen, so z has either sign: the share of one is 1/2 within 5 errors of 64 draws (fails at 1e-6)."""

    class Fold(nn.Module):
        def forward(self, z):
            return (z.square() + 1e-3).sqrt()

    gan = m.GAN(1, 1, generator=Fold())
    found = invert(
        gan, torch.ones(1, 1), lambda x: dist.Normal(x, 0.2).to_event(1), num_samples=128, num_chains=128,
        num_temperatures=40, leapfrog_steps=5,
    )  # fmt: skip
    assert abs((found.z > 0).float().mean() - 0.5) < 5 * 0.5 / 8
    assert abs(found.z.abs().mean() - 1 / 1.04) < 0.1  # the posterior of |z| is near N(1 / (1 + 0.2^2), 0.2^2)


def test_contexts_and_other_models():
    c = torch.randn(3, 2)
    gan = m.GAN((1, 2, 2), 2, 2, (8,))
    seen = lambda x: dist.Normal(x.flatten(-3)[..., :2], 0.5).to_event(1)  # noqa: E731
    found = invert(gan, torch.zeros(3, 2), seen, c, num_samples=2, num_chains=4, num_temperatures=5)
    assert found.samples.shape == (2, 3, 1, 2, 2)
    torch.testing.assert_close(found.samples, gan.generate(found.z, c))
    problem = InverseProblem(gan, seen, c)
    trace = pyro.poutine.trace(problem).get_trace(torch.zeros(3, 2))
    assert trace.nodes["z"]["fn"].batch_shape == (3,) and trace.nodes["y"]["cond_indep_stack"][0].name == "data"
    vae = m.VAE(m.StandardNormal(2), m.DiagonalNormal(4, 2, (8,)), m.DiagonalNormal(2, 4, (8,)))
    halves = lambda x: dist.Normal(x[..., :2], 0.5).to_event(1)  # noqa: E731
    problem = InverseProblem(vae, halves)
    torch.testing.assert_close(problem.generate(torch.ones(2)), vae.decode(torch.ones(2)).mean)
    assert problem().shape == (2,) and problem(torch.zeros(6, 2)).shape == (6, 2)
    assert problem.evidence().with_particles(50).log_prob(torch.zeros(2)).isfinite()


def test_errors_say_what_to_do():
    gan = linear_gan()
    with pytest.raises(ValueError, match=r"observe: expected a distribution with batch shape \(\)"):
        InverseProblem(gan, lambda x: dist.Normal(x, 1.0))
    with pytest.raises(ValueError, match="no differentiable function of latents"):
        InverseProblem(m.Autoencoder(m.StandardNormal(2), m.DiagonalNormal(5, 2)), observe)
    with pytest.raises(ValueError, match="no differentiable function of latents"):
        InverseProblem(m.RealNVP(5), observe)
    with pytest.raises(ValueError, match=r"y: expected shape \(3\) or \(n, 3\)"):
        InverseProblem(gan, observe)(torch.zeros(4))
    with pytest.raises(ValueError, match=r"y: expected shape \(n, 3\)"):
        invert(gan, Y, observe)
    with pytest.raises(ValueError, match="num_samples"):
        invert(gan, Y[None], observe, num_samples=0)
    assert math.isfinite(float(InverseProblem(gan, observe).prior.log_prob(torch.zeros(2))))
