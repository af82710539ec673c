"""What is said of latents, against known truth: exact likelihoods, Gaussian divergences, codes made to order."""

import math
import warnings

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm import models as m
from pyro_dgm.evaluation import DCI, dci, divergence, importance_weighted, latent_units, mig, sap
from pyro_dgm.mcmc import Weights
from pyro_dgm.tasks import interpolate, traverse
from pyro_dgm.tasks.explore import between

from .test_distributions import linear_gaussian
from .zoo import MODELS

LATENT = ("VAE", "VAE-flows", "VAE-conditional-prior")


# --- importance-weighted likelihood ----------------------------------------------------------------------------------


def test_weights_are_those_of_one_sum_however_they_come():
    log_w = 3 * torch.randn(100, 4).double() - 700
    w = Weights().add(log_w[:1]).add(log_w[1:60]).add(log_w[60:])
    plain = (log_w + 700).exp()
    torch.testing.assert_close(w.log_mean, plain.mean(0).log() - 700)
    torch.testing.assert_close(w.effective_size, plain.sum(0) ** 2 / plain.square().sum(0))
    torch.testing.assert_close(w.error, plain.std(0) / 10 / plain.mean(0))


def test_importance_weighted_likelihood_and_its_errors():
    """Errors of 200 data in units of the stated ones are standard normal: spread within 6 of its errors (1e-8)."""
    vae, exact, x = linear_gaussian(posterior_scale=1.6)
    truth = exact.log_prob(x)
    found = importance_weighted(vae, x, num_particles=1000)
    assert abs(found.mean - truth.mean()) < 5 * found.monte_carlo_error + 0.002
    z = (found.log_prob - truth) / found.log_prob_error
    assert 0.7 < z.std() < 1.3
    assert found.standard_error == pytest.approx(truth.std().item() / 200**0.5, rel=0.05)
    assert found.monte_carlo_error == pytest.approx(found.log_prob_error.square().mean().sqrt().item() / 200**0.5)
    assert found.bits_per_dim == pytest.approx(-found.mean / 4 / math.log(2))
    # E w^2 of N(0, I) proposed by N(0, a^2 I) in two dimensions is a^4 / (2 a^2 - 1)
    assert found.effective_size.mean() == pytest.approx(1000 * (2 * 1.6**2 - 1) / 1.6**4, rel=0.03)
    assert found.density == "lower_bound" and "1000 particles" in str(found) and "trusted" not in str(found)


def test_a_proposal_that_wastes_its_draws_shows():
    vae, _, x = linear_gaussian(posterior_scale=8.0)
    found = importance_weighted(vae, x, num_particles=100)
    assert found.effective_size.median() < 10 and "not to be trusted" in str(found)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 10_000])
def test_chunks_change_nothing_and_bound_what_is_decoded(chunk_size):
    vae, exact, x = linear_gaussian()
    sizes, inferred = [], []
    decode, infer = vae.decode, vae.infer
    vae.decode = lambda z, c=None: sizes.append(z.shape[:-1].numel()) or decode(z, c)
    vae.infer = lambda x, c=None: inferred.append(len(x)) or infer(x, c)
    found = importance_weighted(vae, x[:9], num_particles=20, chunk_size=chunk_size)
    torch.testing.assert_close(found.log_prob, exact.log_prob(x[:9]), atol=1e-8, rtol=1e-8)
    assert max(sizes) <= chunk_size and sum(sizes) == 180 and sum(inferred) == 9


@pytest.mark.parametrize("name", [*LATENT, "Dequantized"])
@pytest.mark.parametrize("context", [0, 2])
def test_every_latent_variable_model_is_scored(name, context):
    row = MODELS[name]
    model = row.build(context).train()
    x, c = row.data(model, 5), torch.randn(5, context) if context else None
    found = importance_weighted(model, x, c, num_particles=6, chunk_size=8)
    assert found.log_prob.shape == found.effective_size.shape == (5,) and model.training
    assert (found.effective_size <= 6 + 1e-6).all() and (found.effective_size >= 1 - 1e-6).all()


def test_compiled_scores_are_scores(monkeypatch):
    """Replayed, not compiled, which takes long; with the exact posterior every weight is the likelihood."""
    monkeypatch.setattr("pyro_dgm.training.compilation.inductor", lambda graph, inputs: graph)
    vae, exact, x = linear_gaussian()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = importance_weighted(vae, x[:6], num_particles=11, chunk_size=8, compile=True)
    torch.testing.assert_close(found.log_prob, exact.log_prob(x[:6]), atol=1e-8, rtol=1e-8)


def test_what_cannot_be_scored_is_refused():
    vae, _, x = linear_gaussian()
    for call, match in (
        (lambda: importance_weighted(m.StandardNormal(4), x.float()), "use held_out"),
        (lambda: importance_weighted(vae, x, num_particles=0), "num_particles"),
        (lambda: importance_weighted(vae, x[:1]), "at least 2"),
        (lambda: importance_weighted(vae, x[:, :3]), r"\(n, \*\(4,\)\)"),
        (lambda: importance_weighted(MODELS["VAE"].build(2), torch.zeros(3, 3), torch.zeros(4, 2)), "one row for each"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


# --- units and divergences -------------------------------------------------------------------------------------------


class Posterior(nn.Module):
    """q(z | x) = N(a_d x_d, s_d^2) of units with given a and s."""

    def __init__(self, a, s):
        super().__init__()
        self.register_buffer("a", torch.tensor(a))
        self.register_buffer("s", torch.tensor(s))

    def forward(self, x):
        return dist.Normal(self.a * x, self.s.expand_as(x)).to_event(1)


def gaussian_vae(a, s):
    return m.VAE(m.StandardNormal(len(a)), m.DiagonalNormal(len(a), len(a), (4,)), Posterior(a, s))


def test_units_are_told_apart():
    vae = gaussian_vae([0.9, 0.0, 0.05], [0.3, 1.0, 1.0])
    x = torch.randn(4000, 3)
    units = latent_units(vae, x)
    assert units.active.tolist() == [True, False, False]
    assert units.variance.tolist() == pytest.approx([0.81, 0.0, 0.0025], rel=0.1)
    expected = [0.5 * (0.81 + 0.09 - 1 - math.log(0.09)), 0.0, 0.5 * 0.0025]
    assert units.kl.tolist() == pytest.approx(expected, rel=0.1)
    assert "1 of 3 units active" in str(units) and "inactive: 1, 2" in str(units)
    assert latent_units(vae, x, threshold=1e-3).active.tolist() == [True, False, True]


def test_collapse_is_reported():
    with pytest.warns(UserWarning, match=r"posterior collapse: 0 of 2 .*LinearWarmup.*free bits"):
        units = latent_units(gaussian_vae([0.01, 0.0], [1.0, 1.0]), torch.randn(50, 2))
    assert not units.active.any()


def test_a_flow_has_units_without_divergences_of_their_own():
    model = MODELS["VAE-flows"].build()
    assert latent_units(model, 10 * torch.randn(40, 3), threshold=0.0).kl is None


def test_the_divergence_splits_into_its_parts():
    """q(z) is N(0, a^2 + s^2): within 5 standard errors of the exact parts (and the finite data, 0.02)."""
    vae = gaussian_vae([0.9], [0.5])
    x = torch.randn(1500, 1)
    found = divergence(vae, x, num_samples=2)
    v = 0.81 + 0.25
    exact = [0.5 * (v - 1 - math.log(0.25)), 0.5 * math.log(v / 0.25), 0.5 * (v - 1 - math.log(v))]
    for value, truth, error in zip(found[:3], exact, found.errors, strict=True):
        assert abs(value - truth) < 5 * error + 0.02
    assert found.kl == pytest.approx(found.mutual_information + found.marginal_kl)
    few = divergence(vae, x, num_components=3)
    assert few.mutual_information > found.mutual_information + 0.1


def test_the_aggregate_is_the_mixture_of_all():
    vae, x = gaussian_vae([0.9, 0.3], [0.5, 0.9]), torch.randn(7, 2)
    torch.manual_seed(3)
    found = divergence(vae, x, batch_size=3)
    torch.manual_seed(3)
    z = torch.cat([vae.infer(part).sample((1,)) for part in x.split(3)], 1)[0]
    mixture = vae.infer(x).log_prob(z[:, None]).logsumexp(1) - math.log(7)
    assert found.marginal_kl == pytest.approx((mixture - vae.prior().log_prob(z)).mean().item(), abs=1e-5)
    assert divergence(vae, x, num_components=7).n == 7


def test_information_is_at_most_log_n():
    vae = gaussian_vae([100.0], [0.01])
    assert divergence(vae, torch.randn(20, 1)).mutual_information == pytest.approx(math.log(20), abs=0.1)
    with pytest.raises(ValueError, match="num_components: expected 2 to n = 20"):
        divergence(vae, torch.randn(20, 1), num_components=21)


# --- disentanglement -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def factors():
    torch.manual_seed(0)
    return torch.stack([torch.randint(0, k, (800,)) for k in (2, 3, 4)], 1)


def standard(factors):
    z = factors.double()
    return (z - z.mean(0)) / z.std(0)


def test_codes_that_are_the_factors_score_one(factors):
    z = standard(factors)[:, [2, 0, 1]] * torch.tensor([3.0, -1.0, 0.1])
    assert mig(z, factors) > 0.98 and sap(z, factors) > 0.9
    for predictor in ("forest", "lasso"):
        assert min(dci(z, factors, predictor)[:3]) > 0.98


def test_rotated_codes_are_informative_and_entangled(factors):
    rotation = torch.linalg.qr(torch.randn(3, 3).double()).Q
    z = standard(factors) @ rotation
    scores = dci(z, factors)
    assert mig(z, factors) < 0.6 and sap(z, factors) < 0.6
    assert scores.disentanglement < 0.6 and scores.completeness < 0.6 and scores.informativeness > 0.9


def test_noise_scores_nothing(factors):
    z = torch.randn(800, 3)
    assert mig(z, factors) < 0.03 and abs(sap(z, factors)) < 0.1
    scores = dci(z, factors)
    assert isinstance(scores, DCI) and abs(scores.informativeness) < 0.1 and scores.disentanglement < 0.1
    assert scores.importance.shape == (3, 3) and scores.importance.sum() == pytest.approx(1.0)


def test_scores_refuse_what_they_cannot_judge(factors):
    z = torch.randn(800, 3)
    for call, match in (
        (lambda: mig(z[:, 0], factors), "codes"),
        (lambda: mig(z, factors[:5]), "factors"),
        (lambda: mig(z, torch.zeros(800, 1)), "of 2 to n / 2"),
        (lambda: sap(z, torch.randn(800, 1)), "put continuous factors into bins"),
        (lambda: mig(z, factors, bins=1), "bins"),
        (lambda: dci(z, factors[:, :1]), "at least 2 factors"),
        (lambda: dci(z, factors, "tree"), "predictor"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


# --- representations and walks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("context", [0, 2])
def test_encode_in_batches_and_draws(name, context):
    model = MODELS[name].build(context)
    x, c = torch.randn(7, 3), torch.randn(7, context) if context else None
    mean = model.encode(x, c)
    torch.testing.assert_close(model.encode(x, c, batch_size=3), mean)
    if context:
        torch.testing.assert_close(model.encode(x, c[0], batch_size=3), model.encode(x, c[0]))
    assert model.encode(x, c, 5).shape == model.encode(x, c, num_samples=5, batch_size=2).shape == (5, 7, 2)
    assert mean.requires_grad and model.encode(x[0], None if c is None else c[0]).shape == (2,)
    with pytest.raises(ValueError, match="batch_size"):
        model.encode(x[0], batch_size=3)


def test_draws_are_those_of_the_posterior():
    """Moments of 20,000 draws within 5 standard errors."""
    vae, _, x = linear_gaussian()
    q, z = vae.infer(x[:2]), vae.encode(x[:2], num_samples=20_000)
    assert ((z.mean(0) - q.mean).abs() < 5 * q.stddev / 20_000**0.5).all()


def test_a_posterior_without_mean_says_so():
    model = MODELS["Dequantized"].build()
    with pytest.raises(NotImplementedError, match="num_samples"):
        model.encode(torch.ones(2, 3))
    assert model.encode(torch.ones(2, 3), num_samples=4).shape == (4, 2, 3)


def test_a_great_circle_keeps_the_radius_and_a_line_does_not():
    a, b, t = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.linspace(0, 1, 5)
    torch.testing.assert_close(between(a, b, t).norm(dim=-1), torch.full((1, 5), 2.0))
    torch.testing.assert_close(between(a, b, t, spherical=False)[0, 2], torch.ones(2))
    for z in (between(a, b, t), between(a, a, t), between(a, -a, t), between(a, 0 * a, t)):
        assert z.isfinite().all() and torch.allclose(z[:, 0], a)
    torch.testing.assert_close(between(a, 3 * a, t)[0, :, 0], torch.linspace(2, 6, 5))


@pytest.mark.parametrize("context", [0, 2])
def test_walks_start_and_end_at_reconstructions(context):
    model = MODELS["VAE"].build(context)
    x, c = torch.randn(4, 3), torch.randn(4, context) if context else None
    way = interpolate(model, x, x.flip(0), c, steps=5)
    assert way.shape == (4, 5, 3)
    torch.testing.assert_close(way[:, 0], model.reconstruct(x, c).detach())
    z = model.encode(x[0], None if c is None else c[0]).detach()
    grid = traverse(model, x[0], torch.stack([z[1], z[1] + 1]), None if c is None else c[0], units=[1])
    torch.testing.assert_close(grid[0, 0], way[0, 0])
    assert grid.shape == (1, 2, 3) and not torch.allclose(grid[0, 1], way[0, 0])
    for call in (
        lambda: interpolate(model, x, x[:2], c),
        lambda: interpolate(model, x, x, c, steps=1),
        lambda: interpolate(model, x, x, c, line="curved"),
        lambda: traverse(model, x[0], torch.zeros(2, 2), None if c is None else c[0]),
        lambda: traverse(model, x[0], torch.zeros(2), None if c is None else c[0], units=[2]),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
