"""Traced losses: equal to the loss itself, for every objective and model, or refused with the reason."""

import copy
import warnings
from functools import partial

import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import Distribution, constraints

from pyro_dgm import fit
from pyro_dgm.models import NSF, VAE, DiagonalNormal, RealNVP, StandardNormal
from pyro_dgm.nn import GaussianNoise, MaskingNoise
from pyro_dgm.objectives import (
    ELBO,
    Adversarial,
    GradientPenalty,
    LeastSquares,
    LinearWarmup,
    NegativeLogLikelihood,
    Reconstruction,
    Walkback,
    Wasserstein,
)
from pyro_dgm.training import UntraceableError, trace
from pyro_dgm.training.compilation import (
    FEWEST_STEPS,
    _by_aten,
    _by_onednn,
    _mkl_is_slow,
    inductor,
    operations_of,
    steps_to_repay,
)
from pyro_dgm.training.graph import capture
from pyro_dgm.training.tracing import MAX_SHAPES, Replay
from pyro_dgm.training.tracing import loss_and_gradients as training_loss_and_gradients

from .zoo import MODELS, C

OBJECTIVES = {
    "NegativeLogLikelihood": NegativeLogLikelihood,
    "ELBO": ELBO,
    "ELBO-programs": lambda: ELBO(Trace_ELBO(num_particles=2)),
    "ELBO-weighted": lambda: ELBO(TraceMeanField_ELBO(), kl_weight=LinearWarmup(3)),
    "Reconstruction": lambda: Reconstruction(code_weight=0.5),
    "Reconstruction-penalties": lambda: Reconstruction(MaskingNoise(0.3), contraction=0.1, weight_decay=0.01),
    "Reconstruction-probes": lambda: Reconstruction(GaussianNoise(0.3), contraction=0.1, probes=2),
    "Walkback": lambda: Walkback(2),
    "Adversarial": Adversarial,
    "Adversarial-penalty": lambda: Adversarial(Wasserstein(), GradientPenalty(10.0)),
    "Adversarial-squares": lambda: Adversarial(LeastSquares()),
}


def suits(row, objective):
    if row.density != "implicit":
        return objective.startswith(("NegativeLogLikelihood", "ELBO"))
    if row.walks or objective == "Walkback":
        return row.walks and objective == "Walkback"
    return objective.startswith("Reconstruction" if row.reconstructs else "Adversarial")


PROGRAMS = {"RealNVP", "NSF-autoregressive", "MADE", "FFJORD"}  # what a program adds is the same for exact densities
RESIDUAL = {"WGANGP", "SNGAN"}  # hundreds of operations
CASES = [
    pytest.param(name, objective, id=f"{name}-{objective}")
    for name, row in MODELS.items()
    for objective in OBJECTIVES
    if suits(row, objective) and name != "StandardNormal"
    if objective == "NegativeLogLikelihood" or row.density != "exact" or name in PROGRAMS
    if objective == "Adversarial-penalty" or name not in RESIDUAL
    if (name, objective) != ("SemiSupervisedVAE", "ELBO-weighted")  # its guide draws a class, no mean field of reals
]
UNTRACEABLE = {
    "NormalizingFlow-pyro": r"the shape of a result depends on data \(aten.index",
    "FFJORD-dopri5": "a solver that chooses its steps",
}


def loss_and_gradients(loss, batch, parameters):
    torch.manual_seed(5)
    value = loss(*batch)
    return [value.detach(), *torch.autograd.grad(value, parameters, allow_unused=True)]


def assert_same(got, expected, rtol=1e-6):
    assert [g is None for g in got] == [e is None for e in expected]
    for g, e in zip(got, expected, strict=True):
        if e is not None:
            assert float((g - e).norm()) <= rtol * float(e.norm()) + 1e-12


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")  # of guides that infer from the bottom up
@pytest.mark.parametrize(("name", "objective"), CASES)
def test_traced_equals_eager(name, objective):
    """Loss and gradients within 1e-6, relative, under the same seed; a context where the model can take one."""
    row = MODELS[name]
    context = C if row.conditional else 0
    model = row.build(context)
    batch = (row.data(model), *([torch.randn(6, C)] if context else []))
    bound = OBJECTIVES[objective]()(model)
    twin = copy.deepcopy(bound)
    parameters = [p for p in bound.parameters() if p.requires_grad]
    if name in UNTRACEABLE:
        with pytest.raises(UntraceableError, match=UNTRACEABLE[name]):
            trace(bound, batch)
        return
    traced = trace(bound, batch)
    expected = loss_and_gradients(twin, batch, [p for p in twin.parameters() if p.requires_grad])
    assert_same(loss_and_gradients(traced, batch, parameters), expected)
    for (key, value), other in zip(bound.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(value, other), f"{key} was not written back"


def scale_mixture(x):
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def scale_guide(x):
    loc = pyro.param("loc", lambda: torch.tensor(0.1))
    pyro.sample("z", dist.Normal(loc, pyro.param("width", torch.tensor(0.5), constraint=constraints.positive)))


class Module(PyroModule):
    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), constraints.positive)
        self.loc = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        z = pyro.sample("z", dist.Normal(self.loc, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, self.scale), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.0))
        self.width = PyroParam(torch.tensor(0.5), constraints.positive)

    def forward(self, x):
        pyro.sample("z", dist.Normal(self.loc, self.width))


class Methods(nn.Module):
    """Programs as methods that register networks, as in Pyro's tutorials."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(1, 1), nn.Linear(1, 2)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x[:, None])

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x[:, None]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def enumerated(x):
    weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
    locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)


def subsampled(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=5) as index:
        pyro.sample("x", dist.Normal(z, pyro.param("scale", torch.ones(()))), obs=x[index])


def two_latents(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def methods():
    own = Methods()
    return own.model, own.guide


PAIRS = {
    "functions": lambda: (scale_mixture, scale_guide),
    "modules": lambda: (Module(), Guide()),
    "methods": methods,
    "autoguide": lambda: (two_latents, AutoNormal(two_latents)),
    "autoguide-multivariate": lambda: (two_latents, AutoMultivariateNormal(two_latents)),
    "subsampled": lambda: (subsampled, scale_guide),
}
ESTIMATORS = {
    "Trace": Trace_ELBO,
    "Trace-particles": lambda: Trace_ELBO(num_particles=3),
    "Trace-vectorized": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField": TraceMeanField_ELBO,
}


def trained(pair, estimator, local, **settings):
    """Every parameter, by name, after a few steps of fit on a fresh pair of programs."""
    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=local):
        torch.manual_seed(2)
        loss = ESTIMATORS[estimator]()(*(PAIRS[pair]() if pair in PAIRS else pair))
        x = 2 + torch.randn(12, generator=torch.Generator().manual_seed(1))
        history = fit(loss, x, batch_size=12, max_epochs=6, progress=False, seed=3, **settings)
        found = dict(loss.named_parameters())
        found.update(pyro.get_param_store().named_parameters())
        return {k: v.detach().clone() for k, v in found.items()}, history["loss"]


@pytest.mark.parametrize("local", [False, True], ids=["store", "local"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("estimator", ["Trace", "TraceMeanField"])
def test_fit_trains_any_pair_of_programs_traced_as_eager(pair, estimator, local, monkeypatch):
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: graph)
    eager, losses = trained(pair, estimator, local, compile=False)
    traced, same = trained(pair, estimator, local, compile=True)
    assert eager.keys() == traced.keys() and len(eager) >= 2
    for name, value in eager.items():
        torch.testing.assert_close(traced[name], value, rtol=1e-5, atol=1e-6)
    assert same == pytest.approx(losses, rel=1e-5) and losses[-1] != losses[0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_of_pyro_is_traced(estimator, monkeypatch):
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: graph)
    eager, _ = trained("functions", estimator, False, compile=False)
    traced, _ = trained("functions", estimator, False, compile=True)
    for name, value in eager.items():
        torch.testing.assert_close(traced[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [False, True], ids=["all probable", "probability zero"])
def test_enumeration_is_traced(hidden):
    """Also with a component of probability zero, which Pyro leaves out."""
    if hidden:
        pyro.param("weights", torch.tensor([1.0, 0.0]))
        pyro.param("locs", torch.tensor([-1.0, 1e4]))
    loss = TraceEnum_ELBO(max_plate_nesting=1)(enumerated, lambda x: None)
    x = torch.randn(20)
    loss(x)
    leaves = [p for _, p in pyro.get_param_store().named_parameters()]
    function = lambda x: [(v := loss(x)).detach(), *torch.autograd.grad(v, leaves)]  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(Replay(function, [loss])(x), function(x))


def test_random_numbers_stay_random_and_are_those_of_the_program():
    model = VAE(StandardNormal(1), DiagonalNormal(1, 1, (4,)), DiagonalNormal(1, 1, (4,)))
    bound, x = ELBO()(model), torch.randn(5, 1)
    traced = trace(bound, x)
    state = torch.get_rng_state()
    values = [float(traced(x).detach()) for _ in range(4)]
    assert len(set(values)) == 4
    torch.set_rng_state(state)
    torch.testing.assert_close(torch.tensor(values), torch.stack([bound(x).detach() for _ in range(4)]))


def test_tracing_draws_nothing_and_changes_nothing():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count = self.count + 1  # a rebinding: what a naive trace forgets
            return self.linear(x).square().mean() * self.count

    loss, x = Loss(), torch.randn(6, 2)
    before, state = copy.deepcopy(loss.state_dict()), torch.get_rng_state()
    count = loss.count
    traced = trace(loss, x)
    assert torch.equal(torch.get_rng_state(), state) and loss.count is count
    assert all(torch.equal(v, before[k]) for k, v in loss.state_dict().items())
    twin = copy.deepcopy(loss)
    for _ in range(3):
        torch.manual_seed(0)
        value = traced(x)
        torch.manual_seed(0)
        torch.testing.assert_close(value, twin(x))
    for (key, value), other in zip(loss.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=key)
    assert float(loss.count) == 3


def test_updates_of_weights_are_seen_and_gradients_can_be_weighted():
    flow, x = RealNVP(2, hidden_features=(4,)), torch.randn(8, 2)
    bound = flow.objective()(flow)
    traced = trace(bound, x)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.1 * torch.randn_like(p))
    (3.0 * traced(x)).backward()
    got = [p.grad.clone() for p in flow.parameters()]
    flow.zero_grad()
    (3.0 * bound(x)).backward()
    assert_same(got, [p.grad for p in flow.parameters()])
    (gradient,) = torch.autograd.grad(traced(x), flow.parameters().__next__(), create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        gradient.sum().backward()


# --- what cannot be traced -----------------------------------------------------------------------------------------


class Untraceable(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.calls = kind, 0
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        y = (self.weight * x).square()
        if self.kind == "branch" and y.sum() > 0:
            return y.mean()
        if self.kind == "number":
            return y.mean() * float(y.detach().max())
        if self.kind == "mask":
            return y[y > 0.5].sum()
        if self.kind == "counter":
            self.calls += 1
            return y.mean() / self.calls
        if self.kind == "numpy":
            return y.mean() * float(np.random.rand())
        if self.kind == "numpy tensor":
            return (y * torch.from_numpy(np.random.rand(2).astype(np.float32))).mean()
        return y.mean()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("branch", "asks for the value of a tensor"),
        ("number", "asks for the value of a tensor"),
        ("mask", "shape of a result depends on data"),
        ("counter", "different operations or numbers"),
        ("numpy", "different operations or numbers"),
        ("numpy tensor", "different operations or numbers"),
    ],
)
def test_what_cannot_be_traced_is_refused_and_fit_trains_it_all_the_same(kind, reason):
    x = torch.randn(64, 2)
    np.random.seed(0)
    with pytest.raises(UntraceableError, match=reason):
        trace(Untraceable(kind), x)
    eager, other = Untraceable(kind), Untraceable(kind)
    settings = {"batch_size": 16, "max_epochs": 3, "progress": False, "seed": 0}
    fit(eager, x, compile=False, **settings)
    with pytest.warns(UserWarning, match=f"training runs without a graph.*{reason}") as caught:
        fit(other, x, compile=True, **settings)
    assert len(caught) == 1  # said once, not at every step
    if kind != "counter":  # which counts the tracer's calls too
        assert torch.equal(eager.weight, other.weight)


def test_a_number_changed_between_epochs_is_noticed(monkeypatch):
    """A callback that changes the objective's weight, or a module's mode, is followed by a new trace."""
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: graph)

    def run(compile):
        torch.manual_seed(4)
        vae = VAE(StandardNormal(1), DiagonalNormal(2, 1, (4,)), DiagonalNormal(1, 2, (4,)))
        bound = ELBO(kl_weight=0.1)(vae)

        def raise_weight(history, model):
            bound.objective.kl_weight = min(1.0, 0.3 * len(history))

        history = fit(
            bound, torch.randn(32, 2), batch_size=8, max_epochs=4, progress=False, seed=0, compile=compile,
            callbacks=[raise_weight],
        )  # fmt: skip
        return history["loss"]

    assert run(True) == pytest.approx(run(False), rel=1e-5)


def test_every_shape_is_traced_once_and_too_many_are_run(monkeypatch):
    captured = []
    monkeypatch.setattr(
        "pyro_dgm.training.tracing.capture",
        lambda f, batch, modules: captured.append(len(batch[0])) or capture(f, batch, modules),
    )

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (self.weight * x).sum()

    loss = Loss()
    replay = Replay(lambda x: [loss(x).detach()], [loss])
    for _ in range(3):
        for n in (4, 5):
            assert float(replay(torch.ones(n))[0]) == n
    assert captured == [4, 5]
    with pytest.warns(UserWarning, match=f"more than {MAX_SHAPES} shapes"):
        for n in range(1, 30):
            assert float(replay(torch.ones(n))[0]) == n


def test_the_same_tensor_is_one_input_and_numbers_stay_numbers():
    weight = nn.Parameter(torch.tensor(2.0))
    data = torch.arange(3.0)
    graph, state = capture(lambda x: [(weight * x * weight + torch.tensor(0.5) * data).sum()], (torch.ones(3),), [])
    assert [id(t) for t in state] == [id(weight), id(data)]
    assert operations_of(graph) >= 4


# --- compilation ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled_vae():
    """One compiled VAE for all tests of the compiler: a compilation takes seconds."""
    torch.manual_seed(0)
    vae = VAE(StandardNormal(2), DiagonalNormal(3, 2, (8,)), DiagonalNormal(2, 3, (8,)))
    bound, x = ELBO(kl_weight=LinearWarmup(5))(vae), torch.randn(16, 3)
    before = Distribution._validate_args
    traced = trace(bound, x, optimise=inductor)
    assert Distribution._validate_args is before is True  # torch.compile alone would switch it off
    return bound, traced, x


def test_compiled_equals_eager_with_the_same_random_numbers(compiled_vae):
    bound, traced, x = compiled_vae
    twin = copy.deepcopy(bound)
    for _ in range(3):
        got = loss_and_gradients(traced, (x,), list(bound.parameters()))
        assert_same(got, loss_and_gradients(twin, (x,), list(twin.parameters())), rtol=1e-5)
    assert float(bound.objective.kl_weight.step) == float(twin.objective.kl_weight.step)
    other = torch.randn(5, 3)  # another shape replays its graph, not compiled
    got = loss_and_gradients(traced, (other,), list(bound.parameters()))
    assert_same(got, loss_and_gradients(twin, (other,), list(twin.parameters())))


def test_fit_compiled_learns_what_fit_learns(compiled_vae):
    x = torch.randn(70, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
    model = NSF(2, transforms=1, hidden_features=(4,), bins=3)
    twin = copy.deepcopy(model)
    settings = {"batch_size": 32, "max_epochs": 3, "validation": x[:10], "progress": False, "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = fit(model, x, compile=True, **settings)
    eager = fit(twin, x, compile=False, **settings)
    assert compiled["loss"] == pytest.approx(eager["loss"], rel=1e-4)
    assert compiled["validation"] == pytest.approx(eager["validation"], rel=1e-4)
    assert Distribution._validate_args is True


def test_without_a_compiler_the_graph_is_replayed(monkeypatch):
    import torch._inductor

    def missing(*args, **kwargs):
        raise RuntimeError("no C++ compiler here\nmore")

    monkeypatch.setattr(torch._inductor, "compile", missing)
    model, x = RealNVP(2, hidden_features=(4,)), torch.randn(32, 2)
    with pytest.warns(UserWarning, match="without compiling it: no C\\+\\+ compiler here$") as caught:
        history = fit(model, x, batch_size=16, max_epochs=3, compile=True, progress=False, seed=0)
    assert len(caught) == 1 and len(history) == 3


def test_auto_compiles_when_it_repays(monkeypatch):
    compiled = []
    monkeypatch.setattr(
        "pyro_dgm.training.compilation.inductor", lambda graph, inputs: compiled.append(operations_of(graph)) or graph
    )
    quiet = partial(fit, RealNVP(2, hidden_features=(4,)), progress=False, seed=0)
    quiet(torch.randn(64, 2), batch_size=32, max_epochs=2)
    assert not compiled
    monkeypatch.setattr("pyro_dgm.training.assembly.FEWEST_STEPS", 4)
    monkeypatch.setattr("pyro_dgm.training.compilation.steps_to_repay", lambda operations: 6)
    quiet(torch.randn(64, 2), batch_size=32, max_epochs=2)
    assert not compiled
    quiet(torch.randn(64, 2), batch_size=32, max_epochs=3)
    assert len(compiled) == 1 and compiled[0] > 50
    assert (
        1_000 < steps_to_repay(100) < 100_000
        and steps_to_repay(10) > 5_000
        and steps_to_repay(10**9) == pytest.approx(FEWEST_STEPS, abs=1)
    )


def test_large_products_by_onednn_are_the_same_products():
    """Forward, weight and input gradients, with and without a bias; small ones and other dtypes are left alone."""
    network = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 250, bias=False), nn.Linear(250, 2))
    parameters, x = list(network.parameters()), torch.randn(128, 300)
    function = training_loss_and_gradients(lambda x: network(x).square().mean(), parameters)
    graph, state = capture(function, (x,), [network])
    before = graph.code
    other = _by_onednn(graph, [*state, x])
    targets = [str(node.target) for node in other.graph.nodes]
    assert targets.count("pyro_dgm.product.default") == 5 and "aten.mm.default" in targets and graph.code == before
    with torch.no_grad():
        assert_same(other(*state, x), graph(*state, x), rtol=1e-5)
    network.double()
    graph, state = capture(function, (x.double(),), [network])
    assert "pyro_dgm" not in _by_onednn(graph, [*state, x.double()]).code


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch does not tell the processor")
@pytest.mark.parametrize(("name", "slow"), [("AMD EPYC", True), ("Intel Xeon", False)])
def test_onednn_is_left_alone_where_mkl_is_at_home(monkeypatch, name, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name})
    assert _mkl_is_slow.__wrapped__() == (slow and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize(
    ("n", "dtype", "operations"), [(200, torch.float32, 1), (10, torch.float32, 0), (200, torch.float64, 0)]
)
def test_many_hyperbolic_tangents_by_aten_are_the_same(n, dtype, operations):
    """Compiled, too, to rounding; few of them, and other dtypes, are left alone."""
    network, x = nn.Sequential(nn.Linear(3, 100), nn.Tanh()).to(dtype), torch.randn(n, 3, dtype=dtype)
    function = training_loss_and_gradients(lambda x: network(x).square().mean(), list(network.parameters()))
    graph, state = capture(function, (x,), [network])
    other = _by_aten(graph)
    assert [str(node.target) for node in other.graph.nodes].count("pyro_dgm.tanh.default") == operations
    assert "pyro_dgm" not in graph.code
    with torch.no_grad():
        expected = graph(*state, x)
        assert_same(other(*state, x), expected)
        assert_same(inductor(graph, [*state, x])(*state, x), expected, rtol=1e-5)


def test_products_of_slices_are_not_by_onednn():
    """Which, rows being further apart than they are long, may take a thousand times as long there."""
    network = nn.Linear(300, 200)
    function = training_loss_and_gradients(lambda x: network(x[:, :300]).square().mean(), list(network.parameters()))
    batch = torch.randn(128, 301)
    graph, state = capture(function, (batch,), [network])
    assert "product" not in _by_onednn(graph, [*state, batch]).code
