"""Defects of objectives found by trying to break them, one test each, so that they stay mended."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_dgm import fit
from pyro_dgm.guides import AutoFlow
from pyro_dgm.models import RBM, VAE, DiagonalNormal, EnergyModel, StandardNormal
from pyro_dgm.objectives import (
    ELBO,
    RBF,
    Balance,
    FreeBits,
    LinearWarmup,
    MaximumMeanDiscrepancy,
    PersistentContrastiveDivergence,
)
from pyro_dgm.objectives.discrepancy import squared_mmd

X = torch.linspace(-2, 2, 8)


def vae():
    return VAE(StandardNormal(1), DiagonalNormal(1, context=1), DiagonalNormal(1, context=1))


def value(objective, *programs, x=X):
    torch.manual_seed(0)
    with torch.no_grad():
        return objective(*programs)(x).item()


def location(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("charge", [lambda: FreeBits(1e-3), lambda: Balance(10**9)])
def test_charges_pay_for_the_divergence_of_an_autoguide(charge):
    """Its entropy and its cross-entropy, which two sites of Pyro's tell, are no divergences."""
    guide = AutoNormal(location, init_scale=0.3)
    guide(X)
    exact = value(ELBO(num_particles=64), location, guide)
    assert value(ELBO(charges=[charge()], num_particles=64), location, guide) == pytest.approx(exact, rel=1e-5)
    weighed = {"kl_weight": {"z": 0.0}, "num_particles": 64}
    likelihood = value(ELBO(kl_weight=0.0, num_particles=64), location, guide)
    assert value(ELBO(analytic=True, **weighed), location, guide) == pytest.approx(likelihood, rel=1e-5)
    with pytest.raises(ValueError, match="kl_weight: expected one number, since the guide draws 'z_unconstrained'"):
        value(ELBO(**weighed), location, guide)


def test_latents_that_a_guide_draws_together_have_one_divergence():
    def c(loc):
        return pyro.sample("c", dist.Normal(loc, 1.0))

    def model(x):
        a, b = pyro.sample("a", dist.Normal(0.0, 1.0)), pyro.sample("b", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a, b), obs=x)

    guide = AutoFlow(model).setup(X)
    exact = value(ELBO(num_particles=64), model, guide)
    with pytest.raises(ValueError, match=r"kl_weight: expected latent sites among \['a, b', 'c'\], got \['d'\]"):
        value(ELBO(kl_weight={"d": 0.5}, analytic=True), lambda x: (model(x), c(0.0)), lambda x: (guide(x), c(1.0)))
    assert value(ELBO(charges=[FreeBits(1e-3)], num_particles=64), model, guide) == pytest.approx(exact, rel=1e-5)
    with pytest.raises(ValueError, match=r"kl_weight: expected latent sites among \['a, b'\], got \['a'\]"):
        value(ELBO(kl_weight={"a": 0.5}, analytic=True), model, guide)


def scaled(p):
    with poutine.scale(scale=0.3):
        return pyro.sample("z", p)


@pytest.mark.parametrize("kind", ["scale", "mask", "masks", "folded"])
def test_closed_forms_are_of_the_same_loss(kind):
    """Draws are taken where the two sites are weighed differently, or no formula holds."""
    zero, width = torch.zeros(8), torch.full((8,), 0.7)
    prior, posterior = dist.Normal(zero, 1.0), dist.Normal(zero + 0.5, width)
    if kind == "masks":
        prior, posterior = prior.mask(X > 0), posterior.mask(X > 1)
    if kind == "folded":
        prior, posterior = dist.FoldedDistribution(prior), dist.FoldedDistribution(posterior)

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=(x > 0) if kind == "mask" else True):
                z = scaled(prior) if kind == "scale" else pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior)

    bounds = [value(ELBO(analytic=analytic, num_particles=50), model, guide) for analytic in (False, True)]
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-5)


@pytest.mark.parametrize("particles", [1, 10])
def test_renyis_bound_is_per_datum_whatever_the_data_stand_for(particles):
    model, x = vae(), torch.randn(32, 1)
    settings = {"num_particles": particles, "vectorize_particles": True, "max_plate_nesting": 1}
    losses = []
    for data_size in (32, 320):
        torch.manual_seed(0)
        bound = ELBO(RenyiELBO(alpha=0.0, **settings))
        losses.append(bound.loss(model.model, model.guide, x, data_size=data_size))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_enumeration_is_evaluated_without_gradients():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    objective = ELBO(TraceEnum_ELBO(max_plate_nesting=1))
    parts = dist.Normal(torch.tensor([0.0, 1.0]), 1.0).log_prob(X[:, None]) + torch.tensor([0.7, 0.3]).log()
    expected = -parts.logsumexp(-1).mean().item()
    assert value(objective, model, lambda x: None) == pytest.approx(expected)
    loss = SVI(model, lambda x: None, pyro.optim.Adam({}), loss=objective).evaluate_loss(X)
    assert loss == pytest.approx(expected)


def test_chains_start_where_the_initialised_model_does():
    x = torch.randn(256, 3) * 5 + 100
    model = EnergyModel(3, hidden_features=(8,))
    loss = PersistentContrastiveDivergence(chains=50, steps=1)(model)
    fit(loss, x, max_epochs=1, batch_size=128, progress=False, seed=0, compile=False)
    torch.testing.assert_close(loss.chains.states.mean(0), x.mean(0), atol=5.0, rtol=0)  # five standard errors and more


def test_each_model_that_an_objective_is_bound_to_has_chains_of_its_own():
    objective = PersistentContrastiveDivergence(chains=5)
    losses = [objective(RBM(6, 4)), objective(RBM(4, 3))]
    before = [loss.chains.states.clone() for loss in losses]
    losses[0](torch.ones(3, 6))
    moved = [not torch.equal(loss.chains.states, old) for loss, old in zip(losses, before, strict=True)]
    assert moved == [True, False]


def test_parts_of_a_batch_are_one_step_of_a_schedule():
    steps = []
    for accumulate in (1, 4):
        weight, balance = LinearWarmup(100), Balance(100)
        objective = ELBO(kl_weight=weight, charges=[balance])
        settings = {"batch_size": 32, "max_epochs": 3, "seed": 0, "progress": False}
        fit(vae(), torch.randn(64, 1), objective=objective, accumulate=accumulate, **settings)
        steps.append((weight.step.item(), balance.step.item()))
    assert steps == [(6.0, 6.0)] * 2


def test_an_estimate_is_out_of_date_when_moments_change():
    model = EnergyModel(3, hidden_features=(8,))
    model.estimate_log_partition(20, 20)
    model().log_prob(torch.zeros(3))
    model.initialize(torch.randn(100, 3) * 2 + 3)
    with pytest.raises(ValueError, match="have changed since log Z was estimated"):
        model().log_prob(torch.zeros(3))


def test_a_batch_of_one_has_no_discrepancy():
    history = fit(
        vae(), torch.randn(33, 1), objective=MaximumMeanDiscrepancy(), batch_size=32, max_epochs=1, progress=False
    )
    assert math.isfinite(history["loss"][-1])


def test_discrepancy_far_from_the_origin():
    x, y = torch.randn(40, 2) + 1000, torch.randn(50, 2) * 1.2 + 1000
    a, b = x.double().numpy(), y.double().numpy()

    def k(u, v):
        return np.exp(-((u[:, None] - v[None]) ** 2).sum(-1) / 2)

    same = [(k(u, u).sum() - len(u)) / (len(u) * (len(u) - 1)) for u in (a, b)]
    assert squared_mmd(x, y, RBF(1.0)).item() == pytest.approx(sum(same) - 2 * k(a, b).mean(), rel=1e-3)
