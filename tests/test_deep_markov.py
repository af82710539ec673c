"""The deep Markov model: a linear-Gaussian one against its exact likelihood and smoother; missing steps; forecasts.

Statistical tests ask for four standard errors, which chance alone exceeds once in 16,000 times; seeds are fixed.
"""

from functools import partial

import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import nn

from pyro_dgm import fit
from pyro_dgm.distributions import Hierarchy, Steps
from pyro_dgm.models import IAF, DeepMarkovModel, DiagonalNormal, IndependentBernoulli
from pyro_dgm.nn.recurrent import BackwardGRU, GatedTransition
from pyro_dgm.objectives import ELBO, NegativeLogLikelihood

from .statistics import within

NAN = torch.nan
T = 5
A, Q, B, R, START = 0.8, 0.6, 1.3, 0.5, 0.4  # z_t = A z_{t-1} + Q noise, x_t = B z_t + R noise, z_0 = START


class Scaled(nn.Module):
    """A normal distribution around a multiple of its context."""

    def __init__(self, slope, scale):
        super().__init__()
        self.slope, self.scale = slope, scale

    def forward(self, c):
        return dist.Normal(self.slope * c, self.scale).to_event(1)


class Messages(nn.Module):
    """Precision and information of z_t in x_{t:T}: what a recurrent network would have to find out."""

    def forward(self, x, observed):
        seen = torch.ones_like(x[..., 0]) if observed is None else observed.to(x)
        precision = information = torch.zeros_like(x[..., 0, 0])
        found = []
        for t in reversed(range(x.shape[-2])):
            spread = 1 + Q**2 * precision
            precision = A**2 * precision / spread + seen[..., t] * B**2 / R**2
            information = A * information / spread + seen[..., t] * B * x[..., t, 0] / R**2
            found.append(torch.stack([precision, information], -1))
        return torch.stack(found[::-1], -2)


class Smoother(nn.Module):
    """q(z_t | z_{t-1}, x_{t:T}), exact, or too wide."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, c):
        z, precision, information = c.split(1, -1)
        total = 1 / Q**2 + precision
        return dist.Normal((A * z / Q**2 + information) / total, self.width * total.rsqrt()).to_event(1)


def state_space(width=1.0, missing=False):
    """The model, and the joint distribution of [z, x] as one large normal distribution."""
    model = DeepMarkovModel(
        T, 1, Scaled(B, R), recurrent_features=2, missing=missing,
        transition=Scaled(A, Q), posterior=Smoother(width), encoder=Messages(),
    ).double()  # fmt: skip
    nn.init.constant_(model.z_0, START)
    powers = torch.tensor([[A ** (t - s) if s <= t else 0.0 for s in range(T)] for t in range(T)], dtype=torch.float64)
    loc = START * A ** torch.arange(1, T + 1, dtype=torch.float64)
    both = torch.cat([powers * Q, B * powers * Q])
    noise = torch.cat([torch.zeros(T), torch.full((T,), R**2)]).double().diag()
    return model, torch.cat([loc, B * loc]), both @ both.mT + noise


def marginal(loc, covariance, keep):
    """The exact distribution of the steps kept."""
    places = T + torch.tensor(keep)
    return dist.MultivariateNormal(loc[places], covariance[places][:, places])


def small(steps=T, **settings):
    torch.manual_seed(2)
    model = DeepMarkovModel(steps, 2, DiagonalNormal(3, 2, (6,)), 0, (6,), 5, **settings)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


PATTERNS = [[0, 1, 2, 3, 4], [0, 1, 2], [0, 3], [4]]  # whole, shorter, with gaps


# --- known truth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", PATTERNS)
def test_with_the_exact_smoother_the_bound_is_the_likelihood_of_what_is_observed(keep):
    model, loc, covariance = state_space(missing=len(keep) < T)
    exact = marginal(loc, covariance, keep)
    values = exact.sample((20,))
    x = torch.full((20, T, 1), NAN, dtype=torch.float64)
    x[:, keep, 0] = values
    torch.testing.assert_close(model().log_prob(x), exact.log_prob(values), rtol=1e-10, atol=1e-10)
    places = T + torch.tensor(keep)
    gain = covariance[:T, places] @ torch.linalg.inv(covariance[places][:, places])
    torch.testing.assert_close(model.encode(x), loc[:T] + (values - loc[places]) @ gain.mT)


def test_with_another_posterior_the_bound_lies_below_and_converges():
    model, loc, covariance = state_space(width=1.4)
    exact = marginal(loc, covariance, list(range(T)))
    torch.manual_seed(0)
    value = exact.sample()
    x = value[:, None]
    gap = T * (0.5 * (1.4**2 - 1) - torch.tensor(1.4).log())  # every step too wide by as much
    assert gap > 0.5 and within(model().log_prob(x.expand(10_000, T, 1)), float(exact.log_prob(value) - gap), 4)
    means = [model().with_particles(k).log_prob(x.expand(500, T, 1)).mean() for k in (1, 5, 100)]
    assert means[0] < means[1] < means[2] < exact.log_prob(value) + 0.02
    assert abs(model().with_particles(50_000).log_prob(x) - exact.log_prob(value)) < 0.03


def test_samples_are_of_the_state_space_model():
    model, loc, covariance = state_space()
    torch.manual_seed(0)
    x = model().sample((20_000,))[..., 0]
    for t in range(T):
        assert within(x[:, t], float(loc[T + t]), 4)
        square = (x[:, t] - loc[T + t]) * (x[:, 0] - loc[T])
        assert within(square, float(covariance[T + t, T]), 4)


def test_forecasts_are_the_exact_predictions():
    model, loc, covariance = state_space()
    torch.manual_seed(0)
    value = marginal(loc, covariance, list(range(T))).sample()
    gain = covariance[T - 1, T:] @ torch.linalg.inv(covariance[T:, T:])
    mean, variance = loc[T - 1] + gain @ (value - loc[T:]), covariance[T - 1, T - 1] - gain @ covariance[T:, T - 1]
    draws = model.forecast(value[:, None], steps=3, sample_shape=(20_000,))
    assert draws.shape == (20_000, 3, 1)
    for t in range(3):
        mean, variance = A * mean, A**2 * variance + Q**2
        draw = draws[:, t, 0]
        assert within(draw, float(B * mean), 4)
        assert within((draw - B * mean).square(), float(B**2 * variance + R**2), 4)


# --- missing steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", [None, "IAF"])
@pytest.mark.parametrize("objective", [ELBO(), ELBO(TraceMeanField_ELBO()), NegativeLogLikelihood()])
def test_padding_counts_nothing(posterior, objective):
    """A padded sequence has the loss and the gradients of the sequence, from the same random numbers."""
    losses, gradients = [], []
    x = torch.randn(4, 3, 3)
    for steps in (3, T):
        torch.manual_seed(1)
        settings = {} if posterior is None else {"posterior": IAF(2, 7, transforms=1, hidden_features=(6,))}
        model = small(steps, missing=True, num_particles=1, **settings)
        data = torch.cat([x, torch.full((4, steps - 3, 3), NAN)], 1)
        torch.manual_seed(0)
        losses.append(objective(model)(data))
        gradients.append(torch.autograd.grad(losses[-1], list(model.parameters())))
    torch.testing.assert_close(*losses)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_where_nothing_is_to_come_the_posterior_is_the_transition():
    model = small(missing=True)
    x = torch.randn(2, T, 3)
    x[0, 2:] = NAN
    x[1, 1] = NAN
    p = model()
    log_ratios = p.terms(x, p.proposal(x))[1]
    zero = torch.stack([log_ratios[f"z_{t}"] == 0 for t in range(1, T + 1)], -1)
    assert zero.tolist() == [[False, False, True, True, True], [False] * 5]


def test_a_model_of_whole_sequences_refuses_missing_steps():
    x = torch.randn(8, T, 3)
    x[1, 3:] = NAN
    with pytest.raises(ValueError, match="support"):
        small()().log_prob(x)
    with pytest.raises(ValueError, match="expected finite numbers"):
        fit(small(), x, max_epochs=1, progress=False)
    history = fit(small(missing=True), x, max_epochs=2, progress=False, seed=0)
    assert all(torch.isfinite(torch.tensor(history["loss"])))
    x[0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="expected finite numbers"):
        fit(small(missing=True), x, max_epochs=1, progress=False)


def test_programs_take_missing_steps_with_validation_on():
    model = small(missing=True)
    x = torch.randn(4, T, 3)
    x[:2, 3:] = NAN
    trace = poutine.trace(model.model).get_trace(x)
    assert trace.log_prob_sum().isfinite() and trace.nodes["x"]["fn"].support.check(x).all()
    x[0, 0] = torch.inf
    outside = IndependentBernoulli((2,))().expand((T,))
    assert not Steps(outside).support.check(torch.full((T, 2), 0.5))


@pytest.mark.parametrize("shape", [(), (2,), (2, 2)])
def test_steps_leave_out_what_is_not_observed(shape):
    base = dist.Gamma(torch.rand(3, T, *shape) + 1, 2.0).to_event(len(shape))
    x = base.sample()
    missing = torch.rand(3, T) < 0.4
    holes = x.clone()
    holes.view(3, T, -1)[..., 0][missing] = NAN
    p = Steps(base)
    torch.testing.assert_close(p.log_prob(holes), (base.log_prob(x) * ~missing).sum(-1))
    assert (p.batch_shape, p.event_shape, p.support.event_dim) == ((3,), (T, *shape), 1 + len(shape))
    assert p.support.check(holes).all() and not p.support.check(-x).any()
    assert p.expand((2, 3)).log_prob(holes).shape == (2, 3) and p.has_rsample and torch.equal(p.mean, base.mean)


# --- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, 2])
def test_the_chain_is_scored_at_once_as_one_by_one(context):
    model = DeepMarkovModel(T, 2, DiagonalNormal(3, 2 + context, (6,)), context).double()
    c = torch.randn(4, 1, context).double() if context else None
    p = model(c).prior
    slow = Hierarchy(p.sizes, p.conditionals, p.batch_shape)
    for shape in ((), (6,), (2, 4, 6)):
        z = torch.randn(*shape, 2 * T).double()
        fast, expected = p.log_probs(z), slow.log_probs(z)
        assert fast.keys() == expected.keys()
        for name, score in fast.items():
            torch.testing.assert_close(score, expected[name])


def test_the_recurrent_network_is_torchs_gru_on_reversed_data():
    ours, theirs = BackwardGRU(3, 4), nn.GRU(3, 4, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.input.weight)
        theirs.bias_ih_l0.copy_(ours.input.bias)
        theirs.weight_hh_l0.copy_(ours.recurrent.weight)
        theirs.bias_hh_l0.copy_(ours.recurrent.bias)
    x = torch.randn(5, 7, 3)
    torch.testing.assert_close(ours(x), theirs(x.flip(1))[0].flip(1))
    observed = torch.tensor([True, True, False, True, False, True, True]).expand(5, 7)
    kept = ours(x[:, observed[0]])
    torch.testing.assert_close(ours(x, observed)[:, observed[0]], kept)


def test_the_transition_starts_as_a_gated_random_walk():
    network, z = GatedTransition(3), torch.randn(5, 3)
    loc, _ = network(z).chunk(2, -1)
    gate, proposed = torch.sigmoid(network.gate(z)), network.proposed(z)
    torch.testing.assert_close(loc, (1 - gate) * z + gate * proposed)


def test_it_learns_what_a_static_model_cannot():
    """Random walks, whose steps are predictable: the bound passes the likelihood of independent steps."""
    torch.manual_seed(0)
    x = torch.randn(200, 8, 1).cumsum(1)
    static = dist.Normal(0.0, x.std(0)).to_event(2).log_prob(x).mean()
    model = DeepMarkovModel(8, 1, DiagonalNormal(1, 1, (), shared_scale=True), 0, (8,), 8)
    optimizer = partial(torch.optim.Adam, lr=2e-2)
    history = fit(model, x, optimizer=optimizer, batch_size=100, max_epochs=60, progress=False, seed=0)
    assert -history["loss"][-1] > static + 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"steps": 0}, "steps: expected at least 1"),
        ({"transition": DiagonalNormal(2, 3)}, "transition: expected a model with context=2"),
        ({"posterior": DiagonalNormal(3, 7)}, "posterior: expected distributions of 2 real numbers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        small(**settings)
