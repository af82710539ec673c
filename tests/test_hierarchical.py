"""Several latents: the joint distribution by itself, and hierarchical autoencoders against exact marginals.

Statistical tests ask for four standard errors, which chance alone exceeds once in 16,000 times; seeds are fixed.
"""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence

from pyro_dgm.distributions import Hierarchy, Marginal
from pyro_dgm.models import DiagonalNormal, HierarchicalVAE, LadderVAE, StandardNormal
from pyro_dgm.models.approximate.hierarchical import normal_product
from pyro_dgm.objectives import ELBO, NegativeLogLikelihood

from .statistics import within
from .zoo import MODELS, C

ROWS = ["LadderVAE", "HierarchicalVAE", "HierarchicalVAE-parts", "DeepMarkovModel", "DeepMarkovModel-missing"]
# z_2 ~ N(0, I), z_1 ~ N(A z_2, R), x ~ N(W z_1, S), all of double precision
A = torch.tensor([[0.9, -0.4], [0.3, 1.1]], dtype=torch.float64)
W = torch.tensor([[1.0, 0.5], [-0.7, 0.8], [0.2, -1.2]], dtype=torch.float64)
R, S = (scale * torch.eye(n, dtype=torch.float64) for n, scale in ((2, 0.4), (3, 0.3)))


class Linear(nn.Module):
    """A normal distribution around a linear map of its context, of any covariance."""

    def __init__(self, weight, covariance):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("covariance", covariance)

    def forward(self, c):
        diagonal = self.covariance.diagonal()
        if torch.equal(self.covariance, diagonal.diag()):
            return dist.Normal(c @ self.weight.mT, diagonal.sqrt()).to_event(1)
        return dist.MultivariateNormal(c @ self.weight.mT, self.covariance)


def posterior(weight, prior, noise):
    """The gain and the covariance of z given x = weight z + noise."""
    gain = prior @ weight.mT @ torch.linalg.inv(weight @ prior @ weight.mT + noise)
    return gain, prior - gain @ weight @ prior


def linear_gaussian(exact, **settings):
    """The model, and its marginal; its posterior is the exact one, or one of independent numbers."""
    i = torch.eye(2, dtype=torch.float64)
    prior_1 = A @ A.mT + R
    parts = [posterior(W, prior_1, S), posterior(A, i, R)]
    if not exact:
        parts = [(0.7 * gain, 1.5 * covariance.diagonal().diag()) for gain, covariance in parts]
    model = HierarchicalVAE(
        (2, 2), Linear(W, S), prior=[Linear(A, R), StandardNormal(2)], posterior=[Linear(*p) for p in parts], **settings
    )
    marginal = dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), W @ prior_1 @ W.mT + S)
    return model.double(), marginal, parts


# --- the joint distribution ----------------------------------------------------------------------------------------


def three_coins():
    z_2 = yield "z_2", dist.Bernoulli(torch.tensor([0.3])).to_event(1)
    yield "z_1", dist.Bernoulli(logits=z_2 * torch.tensor([1.0, -2.0])).to_event(1)


def test_a_discrete_hierarchy_sums_to_one_and_is_sampled_by_its_density():
    p = Hierarchy({"z_1": 2, "z_2": 1}, three_coins, has_rsample=False)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    probabilities = p.log_prob(states).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-6)
    z = p.sample((20_000,))
    for state, probability in zip(states, probabilities, strict=True):
        assert within((z == state).all(-1), float(probability), 4)
    assert p.split(z)["z_2"].shape == (20_000, 1) and torch.equal(p.split(z)["z_1"], z[:, :2])


def test_a_proposal_without_gradient_scores_and_is_refused_where_a_gradient_is_asked_for():
    logit = nn.Parameter(torch.zeros(1))

    def conditionals():
        z_1 = yield "z_1", dist.Bernoulli(logits=logit).to_event(1)
        yield "z_2", dist.Bernoulli(logits=z_1 + logit).to_event(1)

    p = Hierarchy({"z_1": 1, "z_2": 1}, conditionals, has_rsample=False)
    marginal = Marginal(p, lambda z: dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), None, (1,), num_particles=9)
    x = torch.zeros(4, 1)
    with torch.no_grad():
        assert marginal.log_prob(x).isfinite().all()
    with pytest.raises(NotImplementedError, match="without reparameterisation"):
        marginal.log_prob(x)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ([("z_1", 2)], "got \\['z_1'\\] only"),
        ([("z_1", 2), ("z_1", 2)], "got 'z_1' .* after \\['z_1'\\]"),
        ([("z_1", 2), ("z_2", 2)], "got 'z_2' with event shape \\(2,\\)"),
        ([("z_3", 2)], "got 'z_3'"),
    ],
)
def test_conditionals_that_do_not_fit_are_refused(parts, match):
    def conditionals():
        for name, size in parts:
            yield name, dist.Normal(torch.zeros(size), 1.0).to_event(1)

    with pytest.raises(ValueError, match=match):
        Hierarchy({"z_1": 2, "z_2": 1}, conditionals).sample()


# --- rows of the zoo -----------------------------------------------------------------------------------------------


def case(name, context):
    row = MODELS[name]
    model = row.build(context).double()
    c = (torch.randn(6, context, dtype=torch.float64),) if context else ()
    return model, row.data(model).double(), c


@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("name", ROWS)
def test_terms_by_site_are_those_of_the_traces_and_add_up(name, context):
    """By Pyro's programs, by each distribution's ``log_probs``, and by the one run that the objective makes."""
    model, x, c = case(name, context)
    torch.manual_seed(3)
    guide = poutine.trace(model.guide).get_trace(x, *c)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(x, *c)
    for t in (guide, trace):
        t.compute_log_prob()
    p = model(*c)
    q = p.proposal(x)
    sites = list(q.sizes)
    z = torch.cat([guide.nodes[site]["value"] for site in sites], -1)
    log_q, log_p = q.log_probs(z), p.prior.expand((6,)).log_probs(z)
    assert log_q.keys() == log_p.keys() == set(sites) == {s for s in guide.stochastic_nodes if s != "data"}
    for site in sites:
        torch.testing.assert_close(guide.nodes[site]["log_prob"], log_q[site])
        torch.testing.assert_close(trace.nodes[site]["log_prob"], log_p[site])
    torch.testing.assert_close(sum(log_p.values()), p.prior.log_prob(z))
    torch.manual_seed(3)
    log_likelihood, log_ratios = p.terms(x, q)
    torch.testing.assert_close(log_likelihood, trace.nodes["x"]["log_prob"])
    for site in sites:
        torch.testing.assert_close(log_ratios[site], log_p[site] - log_q[site])


@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("name", ROWS)
def test_programs_and_distributions_give_one_bound(name, context):
    """Value and gradient from the same seed; the weight of the divergences reaches every site."""
    model, x, c = case(name, context)
    parameters = list(model.parameters())
    for weight in (1.0, 0.3):
        found = []
        for objective in (ELBO(kl_weight=weight), ELBO(Trace_ELBO(), kl_weight=weight)):
            torch.manual_seed(1)
            loss = objective(model)(x, *c)
            found.append([loss, *torch.autograd.grad(loss, parameters)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ROWS)
def test_upper_latents_rule_the_lower_ones(name):
    """Conditioning and intervening fix a site; what is below it (after it, in time) follows, what is above does not."""
    model, _, _ = case(name, 0)
    p = model().prior
    first, second = list(p.log_probs(p.sample()))[:2]
    value = torch.full((p.sizes[first],), 1.5, dtype=torch.float64)
    given = {}

    def remember(site, conditional):
        given[site] = conditional
        return value if site == first else conditional.sample()

    p.run(remember)
    at = torch.zeros(p.sizes[second], dtype=torch.float64)
    plain = poutine.trace(model.model).get_trace()
    for handler in (poutine.condition, poutine.do):
        trace = poutine.trace(handler(model.model, {first: value})).get_trace()
        score = trace.nodes[second]["fn"].log_prob(at)
        torch.testing.assert_close(score, given[second].log_prob(at))
        assert not torch.isclose(score, plain.nodes[second]["fn"].log_prob(at), rtol=1e-3)
        assert trace.nodes[first]["is_observed"] is (handler is poutine.condition)
        torch.testing.assert_close(trace.nodes[first]["fn"].log_prob(value), given[first].log_prob(value))
    hidden = poutine.trace(poutine.block(model.model, hide=[first])).get_trace()
    assert first not in hidden.nodes and second in hidden.nodes


# --- known truth ---------------------------------------------------------------------------------------------------


def test_with_the_exact_posterior_the_bound_is_the_likelihood():
    model, marginal, _ = linear_gaussian(exact=True)
    x = marginal.sample((50,))
    torch.testing.assert_close(model().log_prob(x), marginal.log_prob(x), rtol=1e-10, atol=1e-10)
    gain = torch.linalg.inv(torch.eye(2) + A.mT @ torch.linalg.inv(R) @ A) @ A.mT @ torch.linalg.inv(R)
    z_1 = x @ posterior(W, A @ A.mT + R, S)[0].mT
    torch.testing.assert_close(model.encode(x), torch.cat([z_1, z_1 @ gain.mT], -1))


def test_bound_lies_below_by_the_divergence_and_converges():
    model, marginal, (one, two) = linear_gaussian(exact=False)
    x = torch.tensor([0.7, -1.0, 0.4], dtype=torch.float64)
    exact = marginal.log_prob(x)
    i = torch.eye(2, dtype=torch.float64)
    both = torch.cat([A @ A.mT + R, A.mT]), torch.cat([A, i])  # covariance of [z_1, z_2]
    gain, covariance = posterior(torch.cat([W, torch.zeros(3, 2)], -1), torch.cat(both, -1), S)
    loc = torch.cat([(m := one[0] @ x), two[0] @ m])
    cross = two[0] @ one[1]
    q = torch.cat([torch.cat([one[1], cross.mT], -1), torch.cat([cross, two[1] + cross @ two[0].mT], -1)])
    gap = kl_divergence(dist.MultivariateNormal(loc, q), dist.MultivariateNormal(gain @ x, covariance))
    assert gap > 0.1
    torch.manual_seed(0)
    draws = model().log_prob(x.expand(20_000, 3))
    assert within(draws, float(exact - gap), 4)
    means = [model().with_particles(k).log_prob(x.expand(1000, 3)).mean() for k in (1, 4, 64)]
    assert means[0] < means[1] < means[2] < exact + 0.02
    assert abs(model().with_particles(100_000).log_prob(x) - exact) < 0.02


def ladder():
    """Two chains of numbers, x = w z_1 + noise, z_1 = a z_2 + noise, with the posterior that a ladder can express."""
    a, w, r, s = (torch.tensor(v, dtype=torch.float64) for v in ([0.8, -1.5], [1.2, 0.6], [0.5, 0.9], [0.3, 0.7]))
    model = LadderVAE(
        (2, 2),
        Linear(w.diag(), s.square().diag()),
        ((2,), (2,)),
        prior=[Linear(a.diag(), r.square().diag()), StandardNormal(2)],
        bottom_up=[nn.Identity(), nn.Identity()],
    ).double()
    marginal = dist.Normal(torch.zeros(2, dtype=torch.float64), (w**2 * (a**2 + r**2) + s**2).sqrt()).to_event(1)
    slope = w * a
    variance = 1 / (1 + slope**2 / (w**2 * r**2 + s**2))
    messages = (1 / w, s / w.abs()), (variance * slope / (w**2 * r**2 + s**2), variance.sqrt())
    for part, (gain, scale) in zip(model.evidence, messages, strict=True):
        linear = part.network.network.layers[0]
        least = part.head.min_scale
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        with torch.no_grad():
            linear.weight[:2].copy_(gain.diag())
            linear.bias[2:].copy_((scale - least).expm1().log() - math.log(math.expm1(1 - least)))
    return model, marginal


def test_a_ladder_holds_the_exact_posterior_of_chains():
    model, marginal = ladder()
    x = marginal.sample((50,))
    torch.testing.assert_close(model().log_prob(x), marginal.log_prob(x), rtol=1e-10, atol=1e-10)
    loss = ELBO(TraceMeanField_ELBO())(model)
    torch.manual_seed(0)
    mean_field = torch.stack([loss(x).detach() for _ in range(40)])
    assert within(mean_field, -float(marginal.log_prob(x).mean()), 4)  # closed form, so with noise left


def test_evidence_meets_prior_by_precision():
    z = torch.randn(200, 3, dtype=torch.float64)
    p, q = (dist.Normal(torch.randn(3).double(), torch.rand(3).double() + 0.2).to_event(1) for _ in range(2))
    ratio = p.log_prob(z) + q.log_prob(z) - normal_product(p, q).log_prob(z)
    torch.testing.assert_close(ratio, ratio.mean().expand(200))
    wide = dist.Normal(q.mean, torch.full((3,), 1e6).double()).to_event(1)  # evidence of nothing leaves the prior
    assert kl_divergence(normal_product(wide, p), p) < 1e-10


def test_closed_form_divergences_are_unbiased_from_the_top_down_and_warned_of_from_the_bottom_up():
    model, x, _ = case("LadderVAE", 0)
    x = x.repeat(100, 1)
    losses = {}
    for estimator in (Trace_ELBO, TraceMeanField_ELBO):
        torch.manual_seed(2)
        elbo = ELBO(estimator())(model)
        losses[estimator] = torch.stack([elbo(x).detach() for _ in range(20)])
    difference = losses[Trace_ELBO] - losses[TraceMeanField_ELBO]
    assert difference.std() > 0 and within(difference, 0.0, 4)
    model, x, _ = case("HierarchicalVAE", 0)
    with pytest.warns(UserWarning, match="mean field"):
        ELBO(TraceMeanField_ELBO())(model)(x)


def test_the_ladder_evaluates_its_prior_once():
    """In the objective, whose posterior is made from the prior; another prior is scored for itself."""
    model, x, _ = case("LadderVAE", 0)
    calls = []
    model.prior[0].register_forward_hook(lambda *_: calls.append(1))
    p = model()
    p.log_prob(x)
    assert len(calls) == 1
    q = p.proposal(x)
    assert q.is_update_of(p.prior) and q.expand((2, 6)).is_update_of(p.prior.expand((6,)))
    other = case("LadderVAE", 0)[0]
    assert (
        not q.is_update_of(other().prior) and not q.is_update_of(dist.Normal(0.0, 1.0)) and not p.prior.is_update_of(q)
    )
    loose = Marginal(other().prior, model.decode, model.infer, model.event_shape)
    torch.manual_seed(0)
    got = loose.log_prob(x)
    torch.manual_seed(0)
    torch.testing.assert_close(got, p.log_prob(x))


@pytest.mark.parametrize("cls", [LadderVAE, HierarchicalVAE])
def test_parts_that_do_not_fit_are_refused(cls):
    likelihood = DiagonalNormal(3, 2, ())
    make = partial(cls, (2, 1), likelihood)
    for settings, match in (
        ({"hidden_features": ((4,),)}, "hidden_features: expected widths, or a sequence"),
        ({"prior": [StandardNormal(1)]}, "prior: expected a module for each of 2 latents, got 1"),
        ({"prior": [DiagonalNormal(2, 3), StandardNormal(1)]}, "prior\\[0\\]: expected a model with context=1"),
        (
            {"prior": [DiagonalNormal(3, 1), StandardNormal(1)]},
            "prior\\[0\\]: expected distributions of 2 real numbers",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            make(**settings)
    with pytest.raises(ValueError, match="latents: expected"):
        cls((), likelihood)
    with pytest.raises(ValueError, match="likelihood: expected a model with context=5"):
        cls((5, 1), likelihood)


def test_two_layers_learn():
    """Forty steps of either objective lower the loss, by a nat at least; the parameter store stays empty."""
    torch.manual_seed(0)
    x = torch.randn(64, 1) * torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(64, 3)
    for objective in (ELBO(), NegativeLogLikelihood()):
        model = LadderVAE((2, 1), DiagonalNormal(3, 2, (8,)), (8,), num_particles=3)
        loss = objective(model)
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        values = []
        for _ in range(40):
            optimizer.zero_grad()
            value = loss(x)
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert sum(values[-5:]) < sum(values[:5]) - 5
    assert len(pyro.get_param_store()) == 0
