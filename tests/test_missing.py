"""Models of data with holes against a linear-Gaussian decoder, whose conditionals are known exactly."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import constraints

from pyro_dgm import fit
from pyro_dgm.distributions import PossiblyMissing, heads
from pyro_dgm.distributions.missing import possibly_missing
from pyro_dgm.models import MIWAE, VAE, DiagonalNormal, NotMIWAE, StandardNormal
from pyro_dgm.objectives import ELBO, NegativeLogLikelihood
from pyro_dgm.tasks import impute
from pyro_dgm.training import trace

from .statistics import within
from .zoo import perturb

D, L = 4, 2
NAN = math.nan
W = torch.tensor([[1.0, 0.5], [-0.7, 0.8], [0.3, -1.2], [0.9, 0.1]], dtype=torch.float64)
B = torch.tensor([0.3, -0.5, 0.0, 1.0], dtype=torch.float64)
SIGMA = torch.tensor([0.5, 0.8, 0.4, 0.6], dtype=torch.float64)
LOC, SCALE = torch.tensor([0.0, 10.0, -3.0, 0.5]).double(), torch.tensor([1.0, 2.0, 0.1, 30.0]).double()
TRUTH = dist.MultivariateNormal(LOC + SCALE * B, SCALE[:, None] * (W @ W.T + SIGMA.square().diag()) * SCALE)
PATTERNS = torch.tensor([*itertools.product([False, True], repeat=D)])  # what is missing; all observed first


class Factors(nn.Module):
    """The decoder of factor analysis: x = W z + b + noise, in the parameters of a normal head."""

    def forward(self, z):
        raw = torch.log(torch.expm1(SIGMA - 1e-3)) - math.log(math.expm1(1 - 1e-3))
        loc = z @ W.T + B
        return torch.stack([loc, raw.expand_as(loc)], -1)


class Posterior(nn.Module):
    """The exact q(z | x_obs), of [x, s]."""

    def forward(self, xs):
        x, s = xs.chunk(2, -1)
        weighted = W * (s / SIGMA.square())[..., None]
        precision = torch.eye(L, dtype=W.dtype) + W.T @ weighted
        loc = torch.linalg.solve(precision, (weighted.mT @ (x - B)[..., None]))[..., 0]
        return dist.MultivariateNormal(loc, precision_matrix=precision)


class Poor(nn.Module):
    """A proposal that is off, and wider."""

    def forward(self, xs):
        exact = Posterior()(xs)
        return dist.Normal(exact.mean + 0.2, 1.5 * exact.stddev).to_event(1)


def factor_analysis(posterior=None, cls=MIWAE, **settings):
    model = cls(D, L, network=Factors(), posterior=posterior, hidden_features=(8,), **settings).double()
    model.loc.copy_(LOC)
    model.scale.copy_(SCALE)
    return model


def with_holes(n=1):
    x = TRUTH.sample((n * len(PATTERNS),))
    return torch.where(PATTERNS.repeat(n, 1), NAN, x)


def conditional(row):
    """Mean and covariance of what is missing given what is observed, and the log-density of that."""
    m = row.isnan()
    mean, cov = TRUTH.mean, TRUTH.covariance_matrix
    if m.all():
        return mean, cov, torch.zeros(()).double()
    gain = torch.linalg.solve(cov[~m][:, ~m], cov[~m][:, m]).mT
    loc = mean[m] + gain @ (row[~m] - mean[~m])
    observed = dist.MultivariateNormal(mean[~m], cov[~m][:, ~m])
    return loc, cov[m][:, m] - gain @ cov[~m][:, m], observed.log_prob(row[~m])


# --- the density of what was observed ------------------------------------------------------------------------------


def test_with_the_exact_posterior_one_draw_gives_the_exact_density_in_the_units_of_the_data():
    x = with_holes()
    exact = torch.stack([conditional(row)[2] for row in x])
    got = factor_analysis(Posterior(), num_particles=1)().log_prob(x)
    torch.testing.assert_close(got, exact)
    assert got[-1] == 0  # nothing was observed
    torch.testing.assert_close(got[0], TRUTH.log_prob(x[0]))


def test_bound_is_below_and_converges():
    """Of 4000 draws each: gaps at K = 1 and 10 differ by far more than their errors; K = 4000 is within 0.1."""
    model, x = factor_analysis(Poor(), num_particles=1), with_holes()
    exact = torch.stack([conditional(row)[2] for row in x])
    with torch.no_grad():
        gaps = [exact - model().with_particles(k).log_prob(x.expand(4000 // k, -1, -1)).mean(0) for k in (1, 10, 4000)]
    for more, fewer in itertools.pairwise(reversed(gaps)):
        assert (more[:-1] < fewer[:-1]).all()
    assert (gaps[0][:-1] > 0.1).all() and gaps[2].abs().max() < 0.1
    assert all(gap[-1] == 0 for gap in gaps)


def test_nothing_missing_is_the_bound_of_a_vae():
    class Seen(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(torch.cat([x, torch.ones_like(x)], -1))

    class Likelihood(nn.Module):
        def forward(self, z):
            return dist.Normal(z.double() @ W.T + B, SIGMA).to_event(1)

    posterior = perturb(DiagonalNormal(L, 2 * D, (8,))).double()
    vae = VAE(StandardNormal(L).double(), Likelihood(), Seen(posterior), num_particles=5)
    model = MIWAE(D, L, network=Factors(), posterior=posterior, num_particles=5).double()
    x = torch.randn(6, D).double()
    torch.manual_seed(3)
    expected = vae().log_prob(x)
    torch.manual_seed(3)
    torch.testing.assert_close(model().log_prob(x), expected)


def test_a_missing_category_is_summed_out_and_samples_are_complete():
    head = heads.Columns([heads.Categorical(3), heads.StudentT(), heads.Bernoulli()])
    model = perturb(MIWAE(3, 2, 2, (8,), head=head)).double()
    p = model.decode(torch.randn(5, 2).double(), torch.randn(5, 2).double())
    rows = torch.tensor([[k, 0.3, b] for k in range(3) for b in range(2)]).double()
    sums = p.log_prob(rows[:, None]).reshape(3, 2, 5)
    torch.testing.assert_close(sums.logsumexp(0)[1], p.log_prob(torch.tensor([NAN, 0.3, 1.0]).double()))
    torch.testing.assert_close(sums.logsumexp((0, 1)), p.log_prob(torch.tensor([NAN, 0.3, NAN]).double()))
    draws = model(torch.zeros(2).double()).sample((50,))
    assert not draws.isnan().any() and model.support.check(draws).all()


@pytest.mark.parametrize("cls", [MIWAE, NotMIWAE])
def test_gradients_are_finite_and_do_not_know_what_nan_stands_for(cls):
    """Every pattern of holes, contexts, and a gradient with respect to the data."""
    model = perturb(cls(D, L, 2, (8,), num_particles=3)).double()
    x, c = with_holes().requires_grad_(), torch.randn(len(PATTERNS), 2).double()
    loss = -model(c).log_prob(x).mean()
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())
    assert x.grad.isfinite().all() and (x.grad[x.isnan()] == 0).all() and (x.grad[0] != 0).all()


# --- imputation ----------------------------------------------------------------------------------------------------


def test_imputations_have_the_conditional_mean_and_covariance():
    """Six standard errors of 16 patterns; the mean averages E[x | z], with less error than draws have."""
    x = with_holes()
    found = impute(factor_analysis(Posterior()), x, num_samples=4000, num_particles=4000)
    assert torch.equal(found.samples[:, ~x.isnan()], x[~x.isnan()].expand(4000, -1))
    assert torch.equal(found.mean[~x.isnan()], x[~x.isnan()])
    assert (found.effective_size > 3999.9).all()
    for row, mean, draws, log_p in zip(x, found.mean, found.samples.unbind(1), found.log_prob_observed, strict=True):
        loc, cov, exact = conditional(row)
        m, error = row.isnan(), (cov.diagonal() / 4000).sqrt()
        assert log_p.item() == pytest.approx(exact.item(), abs=1e-6)
        assert ((mean[m] - loc).abs() < 6 * error).all()
        assert ((draws[:, m].mean(0) - loc).abs() < 6 * math.sqrt(2) * error).all()  # particles, then draws of them
        whitened = (draws[:, m] - loc) @ torch.linalg.cholesky(torch.linalg.inv(cov))
        assert ((whitened.mT @ whitened / 4000 - torch.eye(int(m.sum()))).abs() < 0.2).all()


def test_weights_make_up_for_a_poor_posterior():
    x = with_holes()
    found = impute(factor_analysis(Poor()), x, num_particles=4000)
    assert found.effective_size[:-1].max() < 3500
    for row, mean, size in zip(x, found.mean, found.effective_size, strict=True):
        loc, cov, _ = conditional(row)
        assert ((mean[row.isnan()] - loc).abs() < 6 * (cov.diagonal() / size).sqrt()).all()


def test_a_mask_may_be_given_beside_complete_data_and_images_have_holes_too():
    model, x = factor_analysis(Posterior()), TRUTH.sample((3,))
    missing = torch.tensor([True, False, False, True])
    found = impute(model, x, missing, num_particles=8)
    torch.testing.assert_close(found.log_prob_observed, model().log_prob(torch.where(missing, NAN, x)))
    image = perturb(MIWAE((1, 2, 3), 2, hidden_features=(8,), head=heads.Bernoulli()))
    holes = torch.where(torch.rand(5, 1, 2, 3) < 0.5, NAN, image().sample((5,)))
    found = impute(image, holes, num_samples=7)
    assert image.support.check(found.samples).all() and not found.samples.isnan().any()
    for wrong in (math.inf, 0.5):
        with pytest.raises(ValueError, match="x: expected observed numbers that are finite and in the model's support"):
            impute(image, torch.full((1, 1, 2, 3), wrong))


# --- not at random -------------------------------------------------------------------------------------------------


def test_bound_with_a_mask_converges_to_the_density_of_what_was_observed_and_that_it_was():
    """One number missing: p(x_obs) times a one-dimensional integral; and with 50,000 draws within 0.03."""
    model = factor_analysis(Posterior(), NotMIWAE, sign=[1, -1, 1, -1])
    x = torch.tensor([[NAN, 8.0, -3.1, 20.0], [0.4, 9.0, NAN, 33.0]], dtype=torch.float64)
    exact = []
    for row in x:
        loc, cov, log_p = conditional(row)
        grid = loc + cov[0].sqrt() * torch.linspace(-9, 9, 4001, dtype=torch.float64)
        full = torch.where(row.isnan(), grid[:, None], row)
        log_s = model.mask((full - LOC) / SCALE).log_prob((~row.isnan()).double().expand_as(full))
        weight = dist.Normal(loc, cov[0].sqrt()).log_prob(grid) + log_s
        exact.append(log_p + torch.trapezoid(weight.exp(), grid).log())
    with torch.no_grad():
        one = model().with_particles(1).log_prob(x.expand(4000, -1, -1)).mean(0)
        many = model().with_particles(50_000).log_prob(x)
    assert (one < torch.stack(exact) - 0.02).all() and (many - torch.stack(exact)).abs().max() < 0.03


def test_what_hides_for_being_large_is_found_by_a_model_of_the_mask_alone():
    """Taken for missing at random, hidden numbers stay too low; a model of the mask makes less than half that error."""
    full = torch.randn(600, 1) + 0.5 * torch.randn(600, 3)
    hidden = torch.rand(600) < torch.sigmoid(4 * full[:, 0])
    x = torch.where(hidden[:, None] & torch.tensor([True, False, False]), NAN, full)
    short = []
    for cls in (MIWAE, NotMIWAE):
        torch.manual_seed(1)
        model = cls(3, 1, hidden_features=(), num_particles=10)
        adam = partial(torch.optim.Adam, lr=0.03)
        fit(model, x, batch_size=200, max_epochs=60, seed=0, progress=False, optimizer=adam)
        imputed = impute(model, x, num_particles=200).mean[hidden, 0].mean()
        short.append([full[hidden, 0].mean() - imputed, -model().sample((20_000,))[:, 0].mean()])
    (imputed, mean), (better_imputed, better_mean) = short
    assert imputed > 0.8 and mean > 0.3  # the truth is that the mean is 0
    assert better_imputed < imputed / 2 and abs(better_mean) < mean / 2


# --- citizenship ---------------------------------------------------------------------------------------------------


def test_pyro_trains_the_programs_on_data_with_holes_and_validation():
    """The program's bound is the objective's, over 100 draws of each; five standard errors."""
    model, x = factor_analysis(Poor()), with_holes()
    log_joint = poutine.trace(poutine.condition(model.model, {"z": torch.zeros(16, L).double()})).get_trace(x)
    assert torch.equal(log_joint.nodes["x"]["value"].isnan(), PATTERNS)
    with torch.no_grad():
        program, own = Trace_ELBO(), ELBO()(model)
        draws = [torch.stack([f() for _ in range(100)]) for f in (
            lambda: torch.tensor(program.loss(model.model, model.guide, x) / len(x)), lambda: own(x)
        )]  # fmt: skip
    assert abs(draws[0].mean() - draws[1].mean()) < 5 * math.sqrt((draws[0].var() + draws[1].var()) / 100)


@pytest.mark.parametrize("cls", [MIWAE, NotMIWAE])
def test_traced_equals_eager_on_data_with_holes(cls):
    bound = NegativeLogLikelihood()(perturb(cls(D, L, 0, (8,), num_particles=3)).double())
    x, twin = with_holes(), copy.deepcopy(bound)
    traced = trace(bound, x)
    torch.manual_seed(2)
    traced(x).backward()
    torch.manual_seed(2)
    twin(x).backward()
    for p, q in zip(bound.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_units_are_those_of_what_was_observed():
    x = torch.tensor([[1.0, NAN, 1.0, NAN, 7.0], [3.0, 5.0, NAN, NAN, NAN], [NAN, 9.0, 0.0, NAN, 7.0]])
    head = heads.Columns([heads.Normal(), heads.StudentT(), heads.Bernoulli(), heads.Normal(), heads.Normal()])
    model = MIWAE(5, 2, head=head)
    fit(model, x, max_epochs=1, progress=False)
    assert model.loc.tolist() == [2.0, 7.0, 0.0, 0.0, 7.0] and model.scale.tolist() == [1.0, 2.0, 1.0, 1.0, 1.0]


def test_fit_takes_nan_where_the_support_does_and_nowhere_else():
    x = torch.randn(20, 2)
    x[3, 1] = NAN
    history = fit(MIWAE(2, 1, hidden_features=(4,)), x, max_epochs=2, validation=0.2, progress=False, seed=0)
    assert all(map(math.isfinite, history["loss"] + history["validation"]))
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 20 rows, the first at row 3; .*MIWAE"):
        fit(DiagonalNormal(2), x, progress=False)
    with pytest.raises(ValueError, match="x's context: expected finite numbers"):
        fit(MIWAE(2, 1, 2), x, x, progress=False)
    with pytest.raises(ValueError, match="1 of 20 rows, the first at row 5"):
        fit(MIWAE(2, 1), x.index_fill(0, torch.tensor([5]), math.inf), progress=False)
    with pytest.raises(ValueError, match=r"in the model's support.*from -?[0-9.]+ to [0-9.]+$"):
        fit(MIWAE(2, 1, head=heads.Bernoulli()), x, progress=False)


def test_supports():
    nan = torch.tensor(NAN)
    both = possibly_missing(constraints.stack([constraints.boolean, constraints.positive], -1))
    assert both.is_discrete and both.event_dim == 1
    assert both.check(torch.tensor([[NAN, 2.0], [0.5, NAN], [1.0, -1.0]])).tolist() == [
        [True, True], [False, True], [True, False]
    ]  # fmt: skip
    assert PossiblyMissing(constraints.positive).check(nan) and not constraints.real.check(nan)
    with pytest.raises(ValueError, match="single numbers, got Simplex"):
        possibly_missing(constraints.simplex)


@pytest.mark.parametrize("i", range(3))
def test_draws_of_students_t_have_the_density_and_its_gradient(i):
    """E[cos x] and its gradient by draws against quadrature, five standard errors: fails once in a million seeds."""
    head, theta = heads.StudentT(), torch.randn(3, dtype=torch.float64, requires_grad=True)
    grid = torch.linspace(-500, 500, 100_001, dtype=torch.float64)
    density = head(theta.expand(len(grid), -1)).log_prob(grid).exp()
    exact = torch.trapezoid(density * torch.cos(grid), grid)
    gradient = torch.autograd.grad(exact, theta)[0]
    wide = theta.detach().expand(40_000, -1).clone().requires_grad_()
    values = torch.cos(head.draw(wide, head.noise((40_000,), wide)))
    gradients = torch.autograd.grad(values.sum(), wide)[0]
    assert within(values.detach(), exact.item(), 5)
    assert all(within(gradients[:, k], gradient[k].item(), 5) for k in range(3))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="head: expected one whose draws have gradients, got Bernoulli"):
        NotMIWAE(3, 2, head=heads.Bernoulli())
    with pytest.raises(ValueError, match="sign: expected 1 or -1, or 3 of them"):
        NotMIWAE(3, 2, sign=[1, 0, 1])
    with pytest.raises(ValueError, match="mask: expected 3 ones and zeros"):
        NotMIWAE(3, 2, mask=DiagonalNormal(3, 3))
    with pytest.raises(
        ValueError, match=r"posterior: expected distributions over z with event shape \(2,\), got \(3,\)"
    ):
        MIWAE(3, 2, posterior=DiagonalNormal(3, 6))
    with pytest.raises(ValueError, match="posterior: expected a model with context=6"):
        MIWAE(3, 2, posterior=DiagonalNormal(2, 3))
