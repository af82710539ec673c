"""Adversarial variational Bayes against exact critics and posteriors: as a model, and as a guide of any program.

Statistical tests are seeded; each states how it did under other seeds.
"""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import constraints

from pyro_dgm import fit
from pyro_dgm import models as m
from pyro_dgm import objectives as o
from pyro_dgm.distributions import Pushforward
from pyro_dgm.evaluation import held_out
from pyro_dgm.nn import MLP
from pyro_dgm.objectives.adversarial_elbo import Moments, _Run
from pyro_dgm.training import trace

from .statistics import within
from .zoo import MODELS

Adam = torch.optim.Adam


class Shift(nn.Module):
    """z = a x + s eps, an encoder whose posterior N(a x, s^2) is known."""

    def __init__(self, a, s):
        super().__init__()
        self.a, self.s = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(s))

    def forward(self, d):
        x, noise = d.chunk(2, -1)
        return self.a * x + self.s * noise


class BestCritic(nn.Module):
    """log q(z | x) - log r(z), with q the posterior of a Shift and r a normal distribution, z perhaps in its units."""

    def __init__(self, encoder, loc=0.0, scale=1.0):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))
        self.encoders, self.loc, self.scale = (encoder,), loc, scale  # which is not its own

    def forward(self, z, x):
        encoder, r = self.encoders[0], dist.Normal(self.loc, self.scale)
        z = z * self.scale + self.loc
        q = dist.Normal(encoder.a.detach() * x, encoder.s.detach())
        return (q.log_prob(z) - r.log_prob(z)).squeeze(-1)


class Known(nn.Module):
    """p(x | z) = N(2 z, 0.5^2), without parameters."""

    def forward(self, z):
        return dist.Normal(2 * z, 0.5).to_event(1)


def conjugate(a, s, critic=None, **settings):
    """z ~ N(0, 1), x ~ N(2 z, 0.5^2), so that p(x) = N(0, 4.25) and p(z | x) = N(x 2 / 4.25, 0.25 / 4.25)."""
    encoder = Shift(a, s)
    settings = {"contrast": False, **settings}
    return m.AdversarialVariationalBayes(
        m.StandardNormal(1), Known(), encoder, noise_features=1, critic=critic or BestCritic(encoder),
        **settings
    )  # fmt: skip


A, S = 2 / 4.25, math.sqrt(0.25 / 4.25)


def test_loss_under_the_best_critic_is_the_elbo_with_its_pathwise_gradient():
    """At the same draws; and log p(x) itself, whatever they are, where the posterior is exact."""
    x = torch.randn(50, 1)
    model = conjugate(0.2, 0.7)
    loss = model.objective()(model).players[1].loss
    torch.manual_seed(0)
    value = loss(x)
    torch.manual_seed(0)
    z = model.encoder(torch.cat([x, torch.randn(50, 1)], -1))
    log_q = dist.Normal(model.encoder.a.detach() * x, model.encoder.s.detach()).log_prob(z)
    by_hand = -(dist.Normal(2 * z, 0.5).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z) - log_q).mean()
    torch.testing.assert_close(value, by_hand)
    parameters = [model.encoder.a, model.encoder.s]
    for got, expected in zip(*(torch.autograd.grad(each, parameters) for each in (value, by_hand)), strict=True):
        torch.testing.assert_close(got, expected)
    model = conjugate(A, S)
    expected = -dist.Normal(0.0, math.sqrt(4.25)).log_prob(x).mean()
    torch.testing.assert_close(model.objective()(model).players[1].loss(x), expected)
    gradients = torch.autograd.grad(model.objective()(model).players[1].loss(x), [model.encoder.a, model.encoder.s])
    assert all(g.abs() < 1e-4 for g in gradients)


def test_adaptive_contrast_is_the_same_bound(monkeypatch):
    """The critic compares with another normal distribution, whose log-density comes back in."""
    x = torch.randn(50, 1)
    moments = Moments(torch.full((50, 1), 0.3), torch.full((50, 1), 0.6))
    monkeypatch.setattr(_Run, "moments", lambda self, draws: moments if draws else None)
    model = conjugate(A, S)
    model.critic, model.contrast = BestCritic(model.encoder, 0.3, 0.6), True
    expected = -dist.Normal(0.0, math.sqrt(4.25)).log_prob(x).mean()
    torch.testing.assert_close(model.objective()(model).players[1].loss(x), expected)


def test_moments_are_those_of_the_guide():
    """Within 5 standard errors, all of 8 numbers: fails at 5e-6."""
    model, x = conjugate(0.5, 0.7), torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    objective = o.AdversarialELBO(model.critic, model.seen, contrast=4000)
    loc, scale = _Run(objective, model, None, (x,), {}).moments(4000)
    assert ((loc - 0.5 * x).abs() < 5 * 0.7 / 4000**0.5).all()
    assert ((scale - 0.7).abs() < 5 * 0.7 / 8000**0.5).all()


class Quadratic(nn.Module):
    """Scores quadratic in z and x, which log-ratios of normal densities are."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))

    def forward(self, z, x):
        z, x = z.squeeze(-1), x.squeeze(-1)
        return torch.stack([z * z, z * x, x * x, z, x, torch.ones_like(z)], -1) @ self.weight


def test_the_critic_learns_the_log_ratio():
    """q(z | x) = N(x / 2, 0.8^2) against N(0, 1); over 8 seeds the coefficients were off by at most 0.02."""
    torch.manual_seed(0)
    model = conjugate(0.5, 0.8, Quadratic())
    player = model.objective()(model).players[0]
    adam = Adam(player.parameters, 0.05)
    for step in range(200):
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        (model.critic.weight.grad,) = torch.autograd.grad(player.loss(torch.randn(1024, 1)), player.parameters)
        adam.step()
    precision = 1 / 0.8**2
    best = [0.5 - precision / 2, precision / 2, -precision / 8, 0.0, 0.0, -math.log(0.8)]
    torch.testing.assert_close(model.critic.weight.detach(), torch.tensor(best), atol=0.15, rtol=0)


@pytest.mark.usefixtures("replayed_not_compiled")
def test_the_posterior_of_a_conjugate_model_is_found_for_every_datum():
    """Over 8 seeds slope and deviation were off by at most 0.03; log_prob is at most log p(x), and near it."""
    torch.manual_seed(0)
    model = conjugate(0.0, 1.0, Quadratic(), contrast=True, moments=100, num_particles=20)
    x = 4.25**0.5 * torch.randn(512, 1)
    rates = {"critic": partial(Adam, lr=0.05, betas=(0.5, 0.99)), "loss": partial(Adam, lr=0.02, betas=(0.5, 0.99))}
    fit(model, x, max_epochs=50, batch_size=128, optimizer=rates, compile=True, seed=0, progress=False)
    assert abs(model.encoder.a - A) < 0.05 and abs(model.encoder.s.abs() - S) < 0.05
    exact = dist.Normal(0.0, 4.25**0.5).log_prob(x).mean()
    got = held_out(model, x)
    assert got.density == "lower_bound" and exact - 0.1 < got.mean < exact + 0.01


# --- any program -----------------------------------------------------------------------------------------------------


def square(x):
    """z ~ N(0, 1), x ~ N(z^2, 0.5^2): of x = 1 two posterior modes."""
    z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z[..., 0].square(), 0.5), obs=x)


class Noise(nn.Module):
    """A guide: noise through a network."""

    def __init__(self):
        super().__init__()
        self.network = MLP(4, 1, (32,), activation=nn.LeakyReLU)

    def forward(self, x):
        noise = dist.Normal(torch.zeros(4), 1.0).to_event(1)
        pyro.sample("z", Pushforward(noise, lambda e: e[..., :1] + self.network(e), (1,)))


def distance(z):
    """Kolmogorov's distance of draws from the posterior of ``square`` given 1, which quadrature knows."""
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    log_p = -0.5 * grid**2 - 0.5 * ((grid**2 - 1) / 0.5) ** 2
    cdf = log_p.softmax(0).cumsum(0)
    z = z.flatten().double().sort().values
    at = cdf[((z + 4) * 500).round().long().clamp(0, 4000)]
    return float((at - (torch.arange(len(z)) + 0.5) / len(z)).abs().max())


def draws_of(guide, x):
    with torch.no_grad(), poutine.trace() as capture, pyro.plate("draws", 4000):
        guide(x)
    return capture.trace.nodes["z"]["value"]


@pytest.mark.usefixtures("replayed_not_compiled")
def test_an_implicit_guide_has_both_modes_and_a_normal_one_has_not():
    """Over 8 seeds the distance was at most 0.05; of a normal guide, which takes one of the modes, 0.49."""
    torch.manual_seed(0)
    x, guide = torch.ones(1), Noise()
    objective = o.AdversarialELBO(MLP(1, 1, (32, 32), activation=nn.LeakyReLU), num_particles=256)
    rates = {"critic": partial(Adam, lr=2e-2, betas=(0.5, 0.99)), "loss": partial(Adam, lr=1e-2, betas=(0.5, 0.99))}

    def falling(optimizer, steps):
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)

    bound = objective(square, guide)
    fit(bound, x, max_epochs=300, optimizer=rates, schedule=falling, compile=True, seed=0, progress=False)
    assert distance(draws_of(guide, x)) < 0.1
    auto = AutoNormal(square)
    svi = SVI(square, auto, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO(num_particles=32, vectorize_particles=True))
    for _ in range(100):
        svi.step(x)
    assert distance(draws_of(auto, x)) > 0.15


def plates(n, size):
    """A positive scale that all data share, scored as usual, and latents of a row, with a density or without."""

    def rows():
        return pyro.plate("rows", n, subsample_size=size, dim=-1)

    def model(x):
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        with rows():
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(rate, scale), obs=x)

    def guide(x, implicit=True):
        pyro.sample("scale", dist.LogNormal(0.0, 0.1))
        with rows():
            base = dist.Normal(0.3 * x, 0.5)
            q = Pushforward(base, torch.exp, (), constraints.positive) if implicit else dist.LogNormal(0.3 * x, 0.5)
            pyro.sample("rate", q)

    return model, guide


@pytest.mark.parametrize("contrast", [0, 5])
@pytest.mark.parametrize("particles", [1, 3])
def test_sites_with_a_density_plates_and_supports_count_as_in_the_elbo(contrast, particles, monkeypatch):
    """Given the log-ratio of the unconstrained latents as critic, the loss is Trace_ELBO's at the same draws."""
    x, (model, guide) = torch.rand(4) + 0.5, plates(20, 4)
    moments = Moments(torch.full((4, 1), 0.2), torch.full((4, 1), 0.8))
    monkeypatch.setattr(_Run, "moments", lambda self, draws: moments if draws else None)

    class Ratio(nn.Module):
        def forward(self, z, d):
            u = z.squeeze(-1) * (0.8 if contrast else 1.0) + (0.2 if contrast else 0.0)
            q = dist.Normal(0.3 * d.squeeze(-1), 0.5)
            r = dist.Normal(0.2, 0.8) if contrast else dist.TransformedDistribution(
                dist.Gamma(2.0, 1.0), [dist.transforms.ExpTransform().inv])  # fmt: skip
            return q.log_prob(u) - r.log_prob(u)

    objective = o.AdversarialELBO(
        Ratio(), lambda x: x.unsqueeze(-1), contrast=contrast, num_particles=particles, max_plate_nesting=1
    )
    torch.manual_seed(0)
    got = objective.loss_of(model, guide, x)
    torch.manual_seed(0)
    elbo = Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    explicit = partial(guide, implicit=False)
    expected = elbo.loss(model, explicit, x) / 4
    assert got.item() == pytest.approx(expected, rel=1e-4)
    critic = objective.critic_loss(model, guide, x)
    assert critic.isfinite()


def test_a_model_and_its_objective_are_traced_and_learn_with_a_context():
    row = MODELS["AdversarialVariationalBayes"]
    model = row.build(2)
    x, c = row.data(model), torch.randn(6, 2)
    for contrast in (True, False):
        model.contrast = contrast
        bound = model.objective()(model)
        replay = trace(bound, (x, c))
        torch.manual_seed(0)
        expected = bound(x, c)
        torch.manual_seed(0)
        torch.testing.assert_close(replay(x, c), expected)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(model, x, c, max_epochs=1, progress=False)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert len(pyro.get_param_store()) == 0
    assert poutine.trace(model.implicit_guide).get_trace(x, c).nodes["z"]["fn"].density == "implicit"


def test_parameters_of_pyros_store_are_trained_too():
    def guide(x):
        loc = pyro.param("loc", torch.tensor([3.0]))
        noise = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        pyro.sample("z", Pushforward(noise, lambda e: loc + 0.1 * e, (1,)))

    fit(o.AdversarialELBO(nn.Linear(1, 1))(square, guide), torch.ones(1), max_epochs=3, progress=False)
    assert pyro.param("loc") < 2.999


def test_draws_of_the_posterior_are_its_own_and_the_guide_has_its_moments():
    """Within 5 standard errors: fails at 3e-6."""
    model, x = conjugate(0.5, 0.7, moments=2000), torch.tensor([[1.0], [-2.0]])
    draws = model.encode(x, num_samples=4000)
    assert within(draws[:, 0], 0.5, 5) and within(draws[:, 1], -1.0, 5)
    q = poutine.trace(model.guide).get_trace(x).nodes["z"]["fn"]
    assert ((q.mean - 0.5 * x).abs() < 5 * 0.7 / 2000**0.5).all()
    assert ((q.variance.sqrt() - 0.7).abs() < 5 * 0.7 / 4000**0.5).all()


def test_errors_say_what_to_do():
    x = torch.ones(2)
    objective = o.AdversarialELBO(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="guide: expected a site sampled from an implicit distribution"):
        objective.loss_of(square, AutoNormal(square), x)

    def mixed(x):
        noise = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        pyro.sample("z", Pushforward(noise, torch.exp, (1,)))
        with pyro.plate("data", 2):
            pyro.sample("y", Pushforward(noise, torch.exp, (1,)))

    with pytest.raises(ValueError, match="all implicit sites in the same plates"):
        objective.loss_of(square, mixed, x)
    with pytest.raises(ValueError, match="contrast: expected 0, or at least 2"):
        o.AdversarialELBO(nn.Linear(1, 1), contrast=1)
    with pytest.raises(ValueError, match="num_particles, critic_steps"):
        o.AdversarialELBO(nn.Linear(1, 1), num_particles=0)
    with pytest.raises(ValueError, match="prior: expected one of real numbers"):
        m.AdversarialVariationalBayes(m.NCSF(2), m.DiagonalNormal(3, 2))
    with pytest.raises(ValueError, match="moments, noise_features"):
        conjugate(0.0, 1.0, moments=1)
    with pytest.raises(NotImplementedError, match="a game has several"):
        SVI(square, Noise(), pyro.optim.Adam({}), objective).step(x)
