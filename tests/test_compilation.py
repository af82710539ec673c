"""Compiled losses: the same numbers, and when compiling repays itself."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Distribution

from pyro_dgm import fit
from pyro_dgm.models import NSF, VAE, DiagonalNormal, RealNVP, StandardNormal
from pyro_dgm.objectives import (
    ELBO,
    LinearWarmup,
)
from pyro_dgm.training import trace
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
from pyro_dgm.training.tracing import loss_and_gradients as training_loss_and_gradients

from .test_tracing import assert_same, loss_and_gradients


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
