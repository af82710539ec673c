"""Annealed importance sampling against exact normalisers: Gaussians, a linear-Gaussian model, a Boltzmann machine.

Statistical tests are seeded; bounds are stated in standard errors of their own.
"""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch

from pyro_dgm import models as m
from pyro_dgm.evaluation import annealed, bidirectional
from pyro_dgm.mcmc import HMC, Geometric, Weights, anneal, sigmoid_schedule

from .test_distributions import linear_gaussian
from .zoo import MODELS


def gaussians():
    """A path between two Gaussians of 2 dimensions; the log of its normaliser is log 2 pi + 2 log 0.5."""
    initial = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
    path = Geometric(initial.log_prob, lambda z: -0.5 * ((z - 1) / 0.5).square().sum(-1))
    return initial, path, math.log(2 * math.pi) + 2 * math.log(0.5)


def test_hmc_leaves_its_density_invariant():
    """Moments of 20,000 chains, within 5 standard errors (chance failure below 1e-5), after 10 transitions."""
    _, path, _ = gaussians()
    hmc, one = HMC(path, 0.3, 5), torch.ones(()).double()
    z = 1 + 0.5 * torch.randn(20_000, 2).double()
    for _ in range(10):
        z = hmc(z, one)
    assert 0.7 < hmc.acceptance < 1.0
    assert ((z.mean(0) - 1).abs() < 5 * 0.5 / 20_000**0.5).all()
    assert ((z.std(0) - 0.5).abs() < 5 * 0.5 / 40_000**0.5).all()


def test_tuning_reaches_the_wanted_acceptance_for_each_datum():
    scale = torch.tensor([0.01, 1.0]).double()
    path = Geometric(lambda z: -0.5 * (z / scale[:, None]).square().sum(-1), lambda z: z.sum(-1))
    hmc = HMC(path, 0.5)
    z = scale[:, None] * torch.randn(200, 2, 5).double()
    hmc.tune(z, torch.zeros(1).double(), warmup=60)
    hmc(z, torch.zeros(()).double())
    assert ((hmc.acceptance - 0.65).abs() < 0.15).all()
    ratio = hmc._step_sizes[-1, 1] / hmc._step_sizes[-1, 0]
    assert 50 < ratio < 200


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_weights_are_unbiased_whatever_the_number_of_temperatures(steps):
    """Within 5 of its own standard errors (below 1e-5, if they are right), forwards and backwards."""
    initial, path, truth = gaussians()
    betas = sigmoid_schedule(steps, torch.zeros(()).double())
    _, log_w = anneal(initial.sample((20_000,)), path, HMC(path, 0.3, 3), betas)
    w = Weights().add(log_w)
    assert abs(w.log_mean - truth) < 5 * w.error
    assert log_w.mean() < truth
    if steps > 1:  # one step back weighs by a ratio of infinite variance
        exact = 1 + 0.5 * torch.randn(20_000, 2).double()
        _, log_w = anneal(exact, path, HMC(path, 0.3, 3), betas.flip(0))
        assert (-log_w).mean() > truth
        if steps == 20:
            w = Weights().add(log_w)
            assert abs(w.log_mean + truth) < 5 * w.error + 0.01


def test_the_core_anneals_a_boltzmann_machine_under_gibbs_sampling():
    """Any path, any transition: the partition function of a 6 x 3 machine within 5 standard errors of enumeration."""
    weight = torch.randn(6, 3).double()

    class Machine:
        def __call__(self, v, beta):
            return torch.nn.functional.softplus(beta * (v @ weight)).sum(-1)

        def log_ratio(self, v, previous, beta):
            return self(v, beta) - self(v, previous)

    def gibbs(v, beta):
        h = torch.bernoulli(torch.sigmoid(beta * (v @ weight)))
        return torch.bernoulli(torch.sigmoid(beta * (h @ weight.T)))

    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).double()
    log_z = [Machine()(states, torch.tensor(b)).logsumexp(0) for b in (0.0, 1.0)]
    v = torch.bernoulli(torch.full((2000, 6), 0.5).double())
    _, log_w = anneal(v, Machine(), gibbs, torch.linspace(0, 1, 30).double())
    w = Weights().add(log_w)
    assert abs(w.log_mean - (log_z[1] - log_z[0])) < 5 * w.error and w.error < 0.05


def test_annealed_likelihood_is_exact_within_its_error_and_a_bound():
    """A wrong proposal does no harm: mean of 40 data within 4 Monte Carlo errors (1e-4; the bias is 1e-3)."""
    vae, exact, x = linear_gaussian(posterior_scale=0.3)
    x, truth = x[:40], exact.log_prob(x[:40])
    for initial in ("prior", "posterior"):
        found = annealed(vae, x, num_temperatures=40, num_chains=32, initial=initial, leapfrog_steps=4)
        assert abs(found.mean - truth.mean()) < 4 * found.monte_carlo_error + 0.01
        assert found.density == "lower_bound" and found.num_particles == 32
    coarse = annealed(vae, x, num_temperatures=3, num_chains=1)
    assert coarse.mean < truth.mean() < found.mean + 0.1
    assert math.isnan(coarse.monte_carlo_error)


def test_bidirectional_bounds_hold_the_exact_likelihood_between_them():
    vae, exact, _ = linear_gaussian()
    few = bidirectional(vae, 60, num_temperatures=4, num_chains=2, leapfrog_steps=4)
    assert few.gap > 3 * few.gap_error > 0
    many = bidirectional(vae, 60, num_temperatures=60, num_chains=4, leapfrog_steps=4)
    assert many.gap > -2 * many.gap_error and many.gap < 0.3 * few.gap
    entropy = -exact.entropy()  # of 60 data, each with a deviation of sqrt(2)
    for bounds in (few, many):
        assert bounds.lower.mean - 4 * bounds.lower.standard_error < entropy
        assert bounds.upper.mean + 4 * bounds.upper.standard_error > entropy
    assert many.upper.density == "upper_bound"


@pytest.mark.parametrize("name", ["VAE", "VAE-conditional-prior"])
@pytest.mark.parametrize("context", [0, 2])
def test_every_continuous_latent_can_be_annealed(name, context):
    model = MODELS[name].build(context)
    x = torch.randn(3, *model.event_shape)
    c = torch.randn(3, context) if context else None
    found = annealed(model, x, c, num_temperatures=3, num_chains=2, batch_size=2, leapfrog_steps=1)
    assert found.log_prob.shape == (3,) and found.log_prob.isfinite().all()
    assert math.isfinite(bidirectional(model, 3, c, num_temperatures=2, num_chains=2, leapfrog_steps=1).gap)
    assert all(p.grad is None for p in model.parameters())


def test_what_hamiltonian_dynamics_cannot_move_is_refused():
    discrete = m.VAE(m.IndependentBernoulli(3), m.DiagonalNormal(2, 3, (8,)), m.IndependentBernoulli(3, 2, (8,)))
    with pytest.raises(ValueError, match="support real"):
        annealed(discrete, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="latent variable"):
        annealed(m.StandardNormal(2), torch.zeros(2, 2))
    vae = linear_gaussian()[0]
    with pytest.raises(ValueError, match="initial"):
        annealed(vae, torch.zeros(2, 4).double(), initial="data")
    with pytest.raises(ValueError, match="num_chains"):
        annealed(vae, torch.zeros(2, 4).double(), num_chains=0)
    with pytest.raises(ValueError, match="steps"):
        annealed(vae, torch.zeros(2, 4).double(), num_temperatures=0)
    with pytest.raises(ValueError, match="leapfrog_steps"):
        annealed(vae, torch.zeros(2, 4).double(), leapfrog_steps=0)
