"""Continuous flows: closed forms, orders of solvers, estimators, regularisers, traces."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn

from pyro_dgm import fit
from pyro_dgm.models import FFJORD, VAE, DiagonalNormal, NormalizingFlow
from pyro_dgm.nn import AutogradField, MLPField
from pyro_dgm.nn.ode import FIXED, fixed_steps
from pyro_dgm.objectives import ELBO, NegativeLogLikelihood
from pyro_dgm.training import trace
from pyro_dgm.transforms import Continuous

from .statistics import grid_2d
from .zoo import TwoLayers, perturb

ACTIVATIONS = [nn.Tanh, nn.Softplus, nn.SiLU, nn.Sigmoid]


class Linear(nn.Module):
    """f(x) = A x + b, whose flow is x -> e^A x + A^-1 (e^A - 1) b."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x, t, context=None):
        return x @ self.a.T + self.b


class Explosive(nn.Module):
    def forward(self, x, t, context=None):
        return x * x  # reaches infinity at t = 1/x(0)


def linear_field(d=3):
    generator = torch.Generator().manual_seed(0)
    return Linear(*(torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((d, d), (d,))))


# --- against closed forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"rtol": 1e-7, "atol": 1e-7}, {"solver": "rk4", "steps": 100}])
def test_gaussian_pushed_by_a_linear_field(settings):
    """Log-densities within 1e-5 of the closed form, of data and of the flow's own samples."""
    field = linear_field()
    flow = NormalizingFlow(3, [Continuous(3, field=field, **settings)], standardize=False).double()
    e = torch.linalg.matrix_exp(field.a)
    loc = torch.linalg.solve(field.a, (e - torch.eye(3, dtype=torch.float64)) @ field.b)
    exact = dist.MultivariateNormal(loc, e @ e.T)
    x, log_prob = flow().expand((1000,)).rsample_and_log_prob()
    assert (log_prob - exact.log_prob(x)).abs().max() < 1e-5
    x = exact.sample((1000,))
    assert (flow().log_prob(x) - exact.log_prob(x)).abs().max() < 1e-5
    z = flow.encode(x)
    assert (flow.decode(z) - x).abs().max() < 1e-5


def test_density_integrates_to_one():
    torch.manual_seed(3)
    flow = perturb(FFJORD(2, hidden_features=(16, 16)), 0.7)
    grid, cell = grid_2d(-14, 14, 280, torch.float32)
    with torch.no_grad():
        log_prob = flow().log_prob(grid)
    total = log_prob.exp().sum() * cell
    assert abs(float(total) - 1) < 1e-3
    assert (log_prob - dist.Normal(0.0, 1.0).log_prob(grid).sum(-1)).abs().max() > 1  # not the standard normal


@pytest.mark.parametrize("solver", FIXED)
def test_order_of_fixed_steps(solver):
    """The slope of log error against log step, on dy/dt = y cos t, in either direction of time."""
    order = {"euler": 1, "midpoint": 2, "rk4": 4}[solver]
    y = torch.tensor([1.5], dtype=torch.float64)
    for t0, t1 in ((0.0, 2.0), (2.0, 0.0)):
        exact = y * math.exp(math.sin(t1) - math.sin(t0))
        steps = [40, 80, 160]
        runs = [fixed_steps(lambda t, y: y * t.cos(), y, t0, t1, solver, n) for n in steps]
        assert [nfe for _, nfe in runs] == [n * len(FIXED[solver][1]) for n in steps]
        errors = [math.log(float((end - exact).abs())) for end, _ in runs]
        slope = (errors[0] - errors[-1]) / math.log(steps[-1] / steps[0])
        assert abs(slope - order) < 0.2


@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"])
def test_evaluations_rise_and_errors_fall_with_the_tolerance(solver):
    field = linear_field()
    x, e = torch.randn(5, 3, dtype=torch.float64), torch.linalg.matrix_exp(field.a)
    shift = torch.linalg.solve(field.a, (e - torch.eye(3, dtype=torch.float64)) @ field.b)
    nfe, errors = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        t = Continuous(3, field=field, solver=solver, rtol=tolerance, atol=tolerance)
        assert t.nfe == 0
        y, _ = t.forward_and_ladj(x)
        nfe.append(t.nfe)
        errors.append(float((y - x @ e.T - shift).abs().max().detach()))
    assert nfe == sorted(nfe) and nfe[0] < nfe[-1] and errors[-1] < 1e-4 and errors[-1] < errors[0]
    assert "nfe" not in t.state_dict() and type(t.nfe) is int


# --- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(7,), (7, 5), (7, 5, 6), (7, 5, 6, 4)], ids=len)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("context", [0, 2])
def test_divergence_and_push_in_closed_form(activation, hidden, context):
    torch.manual_seed(1)
    field = perturb(MLPField(4, hidden, context, activation), 0.5).double()
    x, t = 2 * torch.randn(6, 4, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    c = torch.randn(3, 1, context, dtype=torch.float64) if context else None
    at, v = field.at(c), torch.randn(6, 4, dtype=torch.float64)
    f, divergence = at.divergence(x, t)
    plain, pushed = at.push(v, x, t)
    assert torch.equal(f, plain) and torch.equal(f, at(x, t))
    by_autograd = AutogradField(lambda x, t, c: at(x, t)).at()
    for got, expected in ((divergence, by_autograd.divergence(x, t)[1]), (pushed, by_autograd.push(v, x, t)[1])):
        torch.testing.assert_close(got, expected.expand(got.shape), atol=1e-12, rtol=1e-12)
    i = (1, 2) if context else (2,)
    here = field.at(c[1, 0] if context else None)
    jacobian = torch.autograd.functional.jacobian(lambda x: here(x, t), x[2])
    torch.testing.assert_close(divergence[i], jacobian.trace(), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(pushed[i], jacobian @ v[2], atol=1e-12, rtol=1e-12)


def test_starts_as_the_identity():
    flow, x = FFJORD(3, context=2), torch.randn(5, 3)
    torch.testing.assert_close(flow(torch.randn(5, 2)).log_prob(x), dist.Normal(0.0, 1.0).log_prob(x).sum(-1))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FFJORD(2, activation=nn.ReLU), "activation: expected one of Tanh.*got ReLU; at a kink"),
        (lambda: FFJORD(2, hidden_features=()), "hidden_features: expected at least one"),
        (lambda: FFJORD(2, solver="lsoda"), "solver: expected one of dopri5.*got 'lsoda'"),
        (lambda: FFJORD(2, trace="exactly"), "trace: expected one of exact, hutchinson"),
        (lambda: FFJORD(2, probe="cauchy"), "probe: expected one of"),
        (lambda: FFJORD(2, steps=0), "steps, max_num_steps: expected at least 1, got 0"),
        (lambda: FFJORD(2, rtol=0.0), "rtol, atol.*expected positive"),
        (lambda: FFJORD(2, kinetic=-1.0), "kinetic"),
        (lambda: FFJORD(2, solver="rk4", adjoint=True), "adjoint: expected an adaptive solver"),
        (lambda: Continuous(3).forward_and_ladj(torch.zeros(2)), "Continuous: expected vectors of 3 features"),
    ],
)
def test_errors_say_what_was_expected(make, match):
    with pytest.raises(ValueError, match=match):
        make()


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("own", [False, True], ids=["perceptron", "own field"])
def test_adjoint_gradients_agree_with_those_of_the_solver(context, own):
    torch.manual_seed(1)
    gradients = []
    for adjoint in (False, True):
        torch.manual_seed(2)
        settings = {"field": TwoLayers(3, context)} if own else {"hidden_features": (6, 5), "context": context}
        t = perturb(Continuous(3, **settings, adjoint=adjoint, rtol=1e-9, atol=1e-9), 0.4).double()
        inputs = [torch.randn(4, n, dtype=torch.float64, requires_grad=True) for n in (3, context) if n]
        y, ladj = t.inverse_and_ladj(*inputs)
        loss = y.square().sum() - ladj.sum()
        gradients.append(torch.autograd.grad(loss, [*inputs, *t.parameters()]))
    for a, b in zip(*gradients, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_weights_with_a_prior_are_refused_by_the_adjoint():
    """The backward solve runs after the program has ended, and would draw other weights at every evaluation."""
    flow = FFJORD(2, hidden_features=(4,), adjoint=True)
    pyro.nn.module.to_pyro_module_(flow)
    layer = flow.transform.transforms[0].field.network.layers[0]
    layer.weight = pyro.nn.PyroSample(dist.Normal(torch.zeros(4, 2), 1.0).to_event(2))
    x = torch.randn(3, 2)
    scored = poutine.trace(flow.model).get_trace(x).nodes["x"]["fn"]
    with pytest.raises(ValueError, match="adjoint=False"):
        scored.log_prob(x)


# --- Hutchinson's estimator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_in_training_and_absent_in_evaluation(probe):
    """Within 3 standard errors of the exact trace: by chance 0.3% of seeds fail."""
    torch.manual_seed(2)
    t = perturb(Continuous(4, (8, 8), solver="rk4", steps=4, trace="hutchinson", probe=probe), 0.5).double()
    x = torch.randn(4, dtype=torch.float64)
    _, exact = t.eval().forward_and_ladj(x)
    y, estimates = t.train().forward_and_ladj(x.expand(4000, 4))
    torch.testing.assert_close(y[0], t.eval().forward_and_ladj(x)[0])
    assert estimates.std() > 0.01
    assert (estimates.mean() - exact).abs() < 3 * estimates.std() / 4000**0.5
    assert torch.equal(t.forward_and_ladj(x)[1], exact)  # no noise in evaluation


@pytest.mark.parametrize("settings", [{}, {"adjoint": True}, {"solver": "rk4"}])
def test_the_probe_is_drawn_once_per_solve(settings):
    """A linear field makes the estimate v'Av, exactly, if v stays what it was."""
    field = linear_field()
    t = Continuous(3, field=field, trace="hutchinson", probe="gaussian", **settings)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.manual_seed(4)
    _, ladj = t.forward_and_ladj(x)
    after = torch.get_rng_state()
    torch.manual_seed(4)
    v = torch.randn_like(x)
    assert torch.equal(after, torch.get_rng_state())
    torch.testing.assert_close(ladj, ((v @ field.a.T) * v).sum(-1))


# --- regularisers ----------------------------------------------------------------------------------------------------


def test_regularisers_are_the_integrals(monkeypatch):
    """Against Simpson's rule on a fine path, the Jacobian by autograd; its estimate averaged over all signs."""
    torch.manual_seed(1)
    x = torch.randn(4, 2, dtype=torch.float64)
    t = perturb(Continuous(2, (6, 5), solver="rk4", steps=40), 0.5).double()
    y, n = x, 50
    integrals = torch.zeros(2, dtype=torch.float64)
    for k in range(2 * n + 1):
        time = torch.tensor(k / (2 * n), dtype=torch.float64)
        at = t.field.at()
        jacobian = torch.stack([torch.autograd.functional.jacobian(lambda v, at=at, s=time: at(v, s), p) for p in y])
        weight = (1 if k in (0, 2 * n) else 4 if k % 2 else 2) / (6 * n)
        integrals += weight * torch.stack([at(y, time).square().sum(-1).mean(), jacobian.square().sum((1, 2)).mean()])
        y, _ = fixed_steps(lambda s, p, at=at: at(p, s), y.detach(), k / (2 * n), (k + 1) / (2 * n), "rk4", 1)
    for direction in ("forward", "inverse"):
        start = x if direction == "forward" else t.eval().forward_and_ladj(x)[0]
        found = []
        for signs in ([1.0, 1.0], [1.0, -1.0]):
            flow = NormalizingFlow(2, [t if direction == "inverse" else t.inv], standardize=False).train()
            t.kinetic, t.jacobian = 2.0, 3.0
            monkeypatch.setattr(Continuous, "_draw", lambda self, x, s=signs: x.new_tensor(s).expand_as(x))
            loss = NegativeLogLikelihood()(flow)
            found.append(loss(start) - loss.eval()(start))
        torch.testing.assert_close(sum(found) / 2, 2 * integrals[0] + 3 * integrals[1], atol=1e-6, rtol=1e-6)


def test_penalties_join_the_training_loss_only():
    torch.manual_seed(1)
    flow = perturb(FFJORD(2, hidden_features=(8,), solver="rk4", steps=5, kinetic=1.0, standardize=False), 0.5)
    x = torch.randn(10, 2)
    loss = NegativeLogLikelihood()(flow)
    plain = -flow().log_prob(x).mean().detach()  # nobody listens
    assert loss(x) > plain + 1e-3
    assert loss.eval()(x) == plain
    vae = VAE(flow, DiagonalNormal(3, context=2), DiagonalNormal(2, context=3))
    losses = []
    for mode in (True, False):
        torch.manual_seed(0)
        losses.append(ELBO()(vae).train(mode)(torch.zeros(4, 3)))
    assert losses[0] > losses[1] + 1e-3
    rows = fit(flow, x, validation=x, batch_size=10, max_epochs=1, optimizer=frozen, progress=False)
    assert rows["loss"][0] > rows["validation"][0] + 1e-3
    assert rows["validation"][0] == pytest.approx(plain.item(), rel=1e-5)


def frozen(parameters, **settings):
    return torch.optim.SGD(parameters, lr=0.0)


def test_regularised_fields_are_cheaper():
    """The same data, steps and seed; straight paths take fewer evaluations at the same tolerance."""
    x = torch.randn(200, 1).sign() * 2 + 0.3 * torch.randn(200, 1)
    nfe = []
    for weight in (0.0, 0.3):
        torch.manual_seed(0)
        flow = FFJORD(1, hidden_features=(16, 16), solver="rk4", steps=6, kinetic=weight, jacobian=weight)
        fit(
            flow,
            x,
            batch_size=200,
            max_epochs=80,
            optimizer=partial(torch.optim.Adam, lr=0.02),
            compile=False,
            progress=False,
            seed=0,
        )
        judge = FFJORD(1, hidden_features=(16, 16))
        judge.load_state_dict(flow.state_dict())
        judge().log_prob(x)
        nfe.append(judge.nfe)
    assert nfe[1] < nfe[0]


# --- tracing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"trace": "hutchinson", "kinetic": 0.1, "jacobian": 0.1}])
def test_fixed_steps_train_traced_as_eager(settings, replayed_not_compiled):
    runs = []
    for compile in (False, True):
        torch.manual_seed(0)
        flow = FFJORD(2, context=1, hidden_features=(4,), solver="rk4", steps=2, **settings)
        x, c = torch.randn(8, 2), torch.randn(8, 1)
        fit(flow, x, c, batch_size=8, max_epochs=4, compile=compile, progress=False, seed=1)
        runs.append(flow.state_dict())
        assert flow.nfe == 8
    for a, b in zip(*(run.values() for run in runs), strict=True):
        torch.testing.assert_close(a, b)


def test_traces_with_a_field_of_ones_own():
    flow, x = NormalizingFlow(2, [Continuous(2, field=TwoLayers(2, 0), solver="rk4", steps=2)]), torch.randn(5, 2)
    loss = NegativeLogLikelihood()(flow)
    expected = torch.autograd.grad(loss(x), list(flow.parameters()))
    for a, b in zip(torch.autograd.grad(trace(loss, x)(x), list(flow.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b)
