"""Likelihoods: they are densities, their samples have them, and no parameter a network gives breaks them."""

import math

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.nn import functional as F

from pyro_dgm import fit
from pyro_dgm import models as m
from pyro_dgm.distributions import ContinuousBernoulli, NegativeBinomial, Poisson, heads
from pyro_dgm.distributions.heads.continuous import positive
from pyro_dgm.objectives import ELBO

from .statistics import chi_squared_p_value, within

POINTS, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
UNIT, UNIT_WEIGHTS = (POINTS + 1) / 2, WEIGHTS / 2
HEADS = {
    "coins": heads.Bernoulli(),
    "grey": heads.ContinuousBernoulli(),
    "normal": heads.Normal(),
    "known": heads.Normal(scale=0.3),
    "normals": heads.NormalMixture(3),
    "logistics": heads.LogisticMixture(3),
    "classes": heads.Categorical(5),
    "levels": heads.DiscretizedLogisticMixture(3, 16),
    "Poisson": heads.Poisson(),
    "negative binomial": heads.NegativeBinomial(),
}
every_head = pytest.mark.parametrize("name", HEADS)


def mass(head, theta):
    """Points and their probabilities: all levels, counts to 3000, Gauss' rule, or a fine grid."""
    if head.levels is not None:
        x, weights = torch.arange(head.levels, dtype=torch.float64), 1.0
    elif isinstance(head, heads.ContinuousBernoulli):
        x, weights = UNIT, UNIT_WEIGHTS
    elif head.has_rsample:
        x, weights = torch.linspace(-80, 80, 160_001, dtype=torch.float64), 1e-3
    else:
        x, weights = torch.arange(3001, dtype=torch.float64), 1.0
    return x, head(theta).log_prob(x).exp() * weights


def parameters(head, seed=0):
    torch.manual_seed(seed)
    return torch.randn(head.size, dtype=torch.float64)


# --- every head ----------------------------------------------------------------------------------------------------


@every_head
def test_probabilities_add_up_to_one_and_the_mean_is_theirs(name):
    head = HEADS[name]
    for seed in range(3):
        theta = parameters(head, seed)
        x, p = mass(head, theta)
        assert p.sum().item() == pytest.approx(1, abs=1e-6)
        assert head(theta).mean.item() == pytest.approx((p * x).sum().item(), abs=1e-6)


@every_head
def test_draws_have_these_probabilities(name):
    """By the distribution and by the head, over 20 cells of equal mass or the levels; fails once in 10,000 seeds."""
    head, n = HEADS[name], 20_000
    theta = parameters(head)
    x, p = mass(head, theta)
    integers = head.levels is not None or not head.has_rsample
    edges = x + 0.5 if integers else x
    below = p.cumsum(0)
    cuts = edges[torch.searchsorted(below, torch.linspace(0.05, 0.95, 19).double()).clamp(max=len(x) - 1)].unique()
    expected = torch.zeros(len(cuts) + 1, dtype=torch.float64).index_add(0, torch.bucketize(x, cuts), p)
    torch.manual_seed(1)
    wide = theta.expand(n, -1)
    for draws in (head(theta).sample((n,)), head.draw(wide, head.noise((n,), wide))):
        assert draws.is_floating_point() and head.support.check(draws).all()
        found = torch.bincount(torch.bucketize(draws.double(), cuts), minlength=len(expected))
        assert chi_squared_p_value(found.double(), n * expected / expected.sum()) > 1e-4


@every_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_parameters_have_finite_scores_and_gradients_at_the_edges(name, dtype):
    head = HEADS[name]
    edges = [0.0, 1.0] if head.levels is None else [0.0, head.levels - 1.0]
    values = [*edges, 17.0, 1e6] if name in ("Poisson", "negative binomial") else edges
    sizes = (50.0, 1000.0)
    rows = [[s * a for a in signs] for s in sizes for signs in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)]
    rows = [[*row, *row, *row, *row][: head.size] for row in rows] + [[0.0] * head.size]
    theta = torch.tensor(rows, dtype=dtype).requires_grad_()
    for value in values:
        p = head(theta)
        score = p.log_prob(torch.tensor(value, dtype=dtype))
        assert score.isfinite().all() and score.dtype == dtype
        assert torch.autograd.grad(score.sum(), theta)[0].isfinite().all()
        assert p.mean.isfinite().all() and p.sample().isfinite().all()
        assert head.draw(theta.detach(), head.noise(theta.shape[:-1], theta)).isfinite().all()


@every_head
def test_factorized_models_multiply_their_heads_and_fold_into_programs(name):
    """Against the head by hand, parameters first; expanded, masked, and with the context's batch shape."""
    head = HEADS[name]
    torch.manual_seed(0)
    model = m.Factorized((2, 3), head, context=2, hidden_features=(4,))
    c = torch.randn(5, 1, 2)
    p = model(c)
    x = p.sample()
    theta = model.network(c).reshape(5, 1, head.size, 2, 3).movedim(2, -1)
    by_hand = head(theta).log_prob(x).sum((-1, -2))
    torch.testing.assert_close(p.log_prob(x), by_hand)
    wide = p.expand((4, 5, 7))
    assert wide.sample().shape == wide.mean.shape == (4, 5, 7, 2, 3)
    torch.testing.assert_close(wide.log_prob(x), by_hand.expand(4, 5, 7))
    assert p.mask(False).log_prob(x).sum() == 0 and p.support.check(x).all()
    assert p.has_rsample == p.base_dist.has_rsample
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.full((2, 3), math.nan))


# --- the continuous Bernoulli distribution --------------------------------------------------------------------------

LOGITS = [0.0, 1e-8, -1e-4, 0.02, 0.7, -0.999, 1.001, 3.0, -12.0, 40.0, -40.0]


def by_quadrature(logits, f):
    """E f(x) in float64, straight from the definition sigma^x (1 - sigma)^(1 - x) up to its constant."""
    density = torch.exp(logits[..., None] * UNIT - F.softplus(logits[..., None]))
    return (density * f(UNIT) * UNIT_WEIGHTS).sum(-1) / (density * UNIT_WEIGHTS).sum(-1)


def test_grey_levels_in_float32_are_those_of_float64_quadrature():
    """The log-normaliser and its derivative, which is the mean, on both sides of every switch."""
    exact = torch.tensor(LOGITS, dtype=torch.float64)
    weight = torch.exp(exact[:, None] * UNIT) * UNIT_WEIGHTS
    at_zero = -weight.sum(-1).log()  # log p(0)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-12)):
        logits = exact.to(dtype).requires_grad_()
        p = ContinuousBernoulli(logits)
        score = p.log_prob(torch.zeros((), dtype=dtype))
        (slope,) = torch.autograd.grad(score.sum(), logits, create_graph=True)
        mean = by_quadrature(exact, lambda x: x)
        for got, true in ((score, at_zero), (p.mean, mean), (-slope, mean)):
            assert ((got.double() - true).abs() / (1 + true.abs())).max() < tolerance
        (curvature,) = torch.autograd.grad(p.mean.sum(), logits)
        variance = by_quadrature(exact, lambda x: x.square()) - mean.square()
        assert ((curvature.double() - variance).abs()).max() < 5 * tolerance


def test_torchs_own_distribution_would_fail_that_test():
    p = torch.distributions.ContinuousBernoulli(logits=torch.tensor([40.0]), validate_args=False)
    exact = math.log(40) - math.log1p(-math.exp(-40))
    assert abs(p.log_prob(torch.ones(1)).item() - exact) > 0.1
    assert ContinuousBernoulli(torch.tensor([40.0])).log_prob(torch.ones(1)).item() == pytest.approx(exact, rel=1e-6)


def test_draws_of_grey_levels_are_differentiable():
    """d E[x^2] / d logit by draws against quadrature, five standard errors: fails once in a million seeds."""
    for value in (0.0, 0.005, -2.0):
        logit = torch.tensor(value, dtype=torch.float64)
        exact = torch.autograd.functional.jacobian(lambda t: by_quadrature(t, lambda x: x.square()), logit)
        torch.manual_seed(0)
        wide = logit.expand(20_000).clone().requires_grad_()
        (gradients,) = torch.autograd.grad(ContinuousBernoulli(wide).rsample().square().sum(), wide)
        assert within(gradients, exact.item(), 5)


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_mean", [-4.0, 0.3, 3.0, 8.0])
def test_counts_in_float32_are_those_of_another_formula_in_float64(log_mean):
    x = torch.cat([torch.arange(40), torch.logspace(2, 5, 40).round()]).double()
    mean = torch.tensor(log_mean, dtype=torch.float64)
    pairs = [(Poisson(mean.float()), dist.Poisson(mean.exp()))]
    for log_r in (-5.0, -1.0, 0.0, 3.0, 9.0):
        r = torch.tensor(log_r, dtype=torch.float64)
        other = dist.NegativeBinomial(r.exp(), logits=mean - r)
        pairs.append((NegativeBinomial(mean.float(), r.float()), other))
        torch.testing.assert_close(NegativeBinomial(mean, r).log_prob(x), other.log_prob(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(NegativeBinomial(mean, r).variance, other.variance)
    for p, exact in pairs:
        score, true = p.log_prob(x.float()).double(), exact.log_prob(x)
        assert ((score - true).abs() / (1 + true.abs())).max() < 1e-5
        assert p.mean.item() == pytest.approx(exact.mean.item(), rel=1e-5)


def test_the_negative_binomial_tends_to_poisson_where_the_usual_formula_is_lost():
    x, log_mean, log_r = torch.arange(20.0), torch.tensor(1.0), torch.tensor(15.0)
    limit = Poisson(log_mean).log_prob(x)
    torch.testing.assert_close(NegativeBinomial(log_mean, log_r).log_prob(x), limit, atol=1e-4, rtol=0)
    usual = dist.NegativeBinomial(log_r.exp(), logits=log_mean - log_r).log_prob(x)
    assert (usual - limit).abs().max() > 0.1


def test_counts_of_any_logarithm_are_pulled_back():
    """Beyond the largest logarithm the gradient is finite and points to the count, where exp would overflow."""
    log_rate = torch.tensor(500.0, requires_grad=True)
    Poisson(log_rate).log_prob(torch.tensor(3.0)).backward()
    assert log_rate.grad.isfinite() and log_rate.grad < 0


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [m.IndependentBernoulli, m.MADE, lambda d: m.Factorized(d, heads.Bernoulli()),
    lambda d: m.VAE(m.StandardNormal(1), m.IndependentBernoulli(d, 1), m.DiagonalNormal(1, d))])  # fmt: skip
def test_grey_data_are_no_coins_and_the_refusal_says_what_to_do(make):
    grey, model = torch.rand(8, 3), make(3)
    for attempt in (lambda: model().log_prob(grey), lambda: fit(model, grey, max_epochs=1, progress=False)):
        with pytest.raises(ValueError, match=r"(?s)binarise.*ContinuousBernoulli.*DiscretizedLogisticMixture"):
            attempt()
    with pytest.raises(ValueError, match="support") as refused:
        model().log_prob(grey + 3)
    assert "binarise" not in str(refused.value)


def test_normal_and_coins_are_the_distributions_they_were():
    """State dicts keep their names; closed-form divergences find torch's classes."""
    torch.manual_seed(0)
    c, x = torch.randn(6, 2), torch.randn(6, 1, 3)
    model = m.DiagonalNormal((1, 3), 2, (4,), min_scale=0.1)
    loc, raw = model.network(c).chunk(2, -1)
    by_hand = dist.Normal(loc.unflatten(-1, (1, 3)), positive(raw, 0.1).unflatten(-1, (1, 3))).to_event(2)
    torch.testing.assert_close(model(c).log_prob(x), by_hand.log_prob(x))
    shared = m.DiagonalNormal(3, 2, (4,), shared_scale=True)
    assert "raw_scale" in shared.state_dict() and shared.state_dict()["raw_scale"].shape == (1,)
    assert list(m.IndependentBernoulli(3).state_dict()) == ["network.value"]
    vae = m.VAE(m.StandardNormal(2), m.IndependentBernoulli(3, 2), m.Factorized(2, heads.Normal(), 3))
    q, p = vae.infer(x[:, 0]), vae.prior()
    assert torch.distributions.kl_divergence(q, p.expand((6,))).shape == (6,)
    assert ELBO(TraceMeanField_ELBO())(vae)((x[:, 0] > 0).float()).isfinite()


def test_shared_widths_are_learned_beside_the_network():
    """A width per feature, found by fit: within 10% of that of the data, 20 times the error of 4000 of them."""
    torch.manual_seed(0)
    x = torch.randn(4000, 3) * torch.tensor([0.2, 1.0, 3.0]) + 1
    model = m.Factorized(3, heads.Normal(), shared=(3,))
    fit(model, x, max_epochs=8, batch_size=100, progress=False, seed=0, compile=False,
        optimizer=lambda p: torch.optim.Adam(p, 5e-2))  # fmt: skip
    scale = positive(model.raw_scale, 1e-3).detach()
    torch.testing.assert_close(scale, x.std(0), rtol=0.1, atol=0)
    assert m.Factorized((), heads.Normal(), shared=())().sample().shape == ()


def test_a_posterior_sees_what_the_likelihood_shows():
    seen = []

    class Posterior(nn.Module):
        def forward(self, context):
            seen.append(context)
            return dist.Normal(context[..., :1], 1.0).to_event(1)

    head = heads.Columns([heads.Categorical(3), heads.Poisson()])
    vae = m.VAE(m.StandardNormal(1), m.Factorized(2, head, 1), Posterior())
    vae.infer(torch.tensor([[2.0, math.e - 1]]))
    torch.testing.assert_close(seen[-1], torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]))
    levels = m.VAE(m.StandardNormal(1), m.Factorized(2, heads.DiscretizedLogisticMixture(1, 5), 1), Posterior())
    levels.infer(torch.tensor([0.0, 4.0]))
    assert seen[-1].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(("make", "match"), [
    (lambda: m.Factorized(3, heads.Poisson(), shared=()), "shared: expected a head whose last parameter"),
    (lambda: m.Factorized(3, heads.Columns([heads.Poisson()])), "heads: expected one for each feature"),
    (lambda: heads.Normal(scale=0.0), "scale: expected a positive number"),
    (lambda: m.Factorized(3, heads.Normal(), 2, network=nn.Linear(2, 5))(torch.zeros(4, 2)),
     r"network: expected 2 numbers for each of an event, parameters first, such as shape \(4, 6\), got \(4, 5\)"),
])  # fmt: skip
def test_refusals(make, match):
    with pytest.raises(ValueError, match=match):
        make()
