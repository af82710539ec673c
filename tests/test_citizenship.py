"""Models as citizens of Pyro, for every row of the zoo: plates, handlers, estimators, autoguides, NUTS, parameters."""

import copy
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, AutoNormalizingFlow
from pyro.optim import Adam

from pyro_dgm.models import VAE as VariationalAutoencoder
from pyro_dgm.models import DiagonalNormal, StandardNormal

from .test_models import build, each, once
from .zoo import CONTINUOUS, EXACT, MODELS, SCORED, C


@each(SCORED)
def test_svi_trains_model_and_guide(name, context):
    model, x, c = build(name, context)
    before = copy.deepcopy(model.state_dict())
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model.model, model.guide, Adam({"lr": 1e-2}), elbo)
    if list(model.parameters()):
        svi.step(x, c)
        changed = {k for k, p in model.named_parameters() if not torch.equal(p, before[k])}
        # with one feature, the weights from the input are masked
        idle = "conditioner.layers.0.weight" if name in ("MAF-1", "FVBN-1") else "none"
        trained = {k for k, _ in model.named_parameters() if not k.endswith(idle)}
        assert trained - {k for k in trained if k.startswith(MODELS[name].idle)} <= changed <= trained
    assert torch.isfinite(torch.tensor(svi.evaluate_loss(x, c)))


@once(EXACT)
def test_plates_subsampling_condition_block_scale(name, context):
    model, x, c = build(name, context)

    def program(data):
        with pyro.plate("data", 60, subsample=torch.arange(6)):
            return pyro.sample("x", model(c), obs=data)

    total = model(c).log_prob(x).sum()
    trace = poutine.trace(program).get_trace(x)
    torch.testing.assert_close(trace.log_prob_sum(), 10 * total)
    conditioned = poutine.trace(poutine.condition(program, {"x": x})).get_trace(None)
    torch.testing.assert_close(conditioned.log_prob_sum(), 10 * total)
    blocked = poutine.trace(poutine.block(program, hide=["x"])).get_trace(x)
    assert "x" not in blocked.nodes
    direct = poutine.trace(model.model).get_trace(x, c, data_size=60)
    torch.testing.assert_close(direct.log_prob_sum(), 10 * total)


@once(MODELS)
def test_predictive(name, context):
    model, _, c = build(name, context)
    for parallel in (False, True):
        draws = Predictive(model.model, num_samples=3, parallel=parallel)(None, c)["x"]
        assert draws.shape == (3, *((6,) if context else ()), *model.event_shape)


@each(EXACT)
def test_enumeration_to_the_left(name, context):
    """A mixture over contexts, its component summed out by Pyro, against the sum by hand."""
    model, x, _ = build(name, context or 0)
    if not context:
        return
    contexts = torch.randn(3, context)
    weights = torch.tensor([0.2, 0.3, 0.5])

    @config_enumerate
    def program():
        with pyro.plate("data", 6):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", model(contexts[k]), obs=x)

    elbo = -TraceEnum_ELBO(max_plate_nesting=1).loss(program, lambda: None)
    by_hand = (weights.log()[:, None] + model(contexts[:, None]).log_prob(x)).logsumexp(0).sum()
    assert elbo == pytest.approx(by_hand.item(), rel=1e-5)


@once(CONTINUOUS)
def test_is_a_prior_for_an_autoguide(name, context):
    a_step_of(AutoMultivariateNormal, name, context)


@pytest.mark.parametrize("guide", [AutoNormal, AutoNormalizingFlow])
@pytest.mark.parametrize("name", ["RealNVP", "NSF-autoregressive", "RNADE", "MAF"])
def test_is_a_prior_for_other_autoguides(name, guide):
    a_step_of(guide, name, C)


def a_step_of(guide, name, context):
    model, _, _ = build(name, context)
    c = torch.randn(context) if context else None

    def program():
        z = pyro.sample("z", model(c))
        pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=torch.tensor(0.3))

    coupling = partial(dist.transforms.affine_coupling, hidden_dims=[4])
    auto = guide(program, coupling) if guide is AutoNormalizingFlow else guide(program)
    svi = SVI(program, auto, Adam({"lr": 1e-3}), Trace_ELBO())
    assert all(torch.isfinite(torch.tensor(svi.step())) for _ in range(2))


@once(CONTINUOUS)
def test_is_a_latent_for_nuts(name, context):
    model, _, _ = build(name, context)
    c = torch.randn(context) if context else None

    def program():
        z = pyro.sample("z", model(c))
        pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=torch.tensor(0.3))

    mcmc = MCMC(NUTS(program, max_tree_depth=2), num_samples=3, warmup_steps=2, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()["z"]
    assert draws.shape == (3, *model.event_shape) and model.support.check(draws).all()


def test_two_models_of_one_class_both_train_under_svi():
    losses = []
    for k in range(2):
        model = DiagonalNormal(2)
        svi = SVI(model.model, model.guide, Adam({"lr": 0.1}), Trace_ELBO())
        x = torch.randn(50, 2) + 5 * (k + 1)
        losses.append([svi.step(x) for _ in range(30)])
    assert all(run[-1] < 0.8 * run[0] for run in losses)


def test_a_copy_that_svi_would_not_train_is_refused():
    model, x = DiagonalNormal(2), torch.randn(5, 2)
    twin = copy.deepcopy(model)
    SVI(model.model, model.guide, Adam({}), Trace_ELBO()).step(x)
    with pytest.raises(ValueError, match="parameter store already maps"):
        SVI(twin.model, twin.guide, Adam({}), Trace_ELBO()).step(x)
    pyro.clear_param_store()
    SVI(twin.model, twin.guide, Adam({}), Trace_ELBO()).step(x)


def test_module_local_parameters_train():
    with pyro.settings.context(module_local_params=True):
        models = [DiagonalNormal(2), DiagonalNormal(2)]
        x = torch.randn(20, 2) + 3
        for model in models:
            loss = Trace_ELBO()(model.model, model.guide)
            before = loss(x).item()
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
            for _ in range(20):
                optimizer.zero_grad()
                loss(x).backward()
                optimizer.step()
            assert loss(x).item() < 0.8 * before
    assert len(pyro.get_param_store()) == 0


def test_bayesian_flow_has_sites_for_its_weights():
    model, x, _ = build("RealNVP", 0)
    pyro.nn.module.to_pyro_module_(model)
    for module in list(model.modules()):
        for key, p in list(module.named_parameters(recurse=False)):
            prior = dist.Normal(torch.zeros_like(p), 1.0).to_event(p.dim())
            setattr(module, key, pyro.nn.PyroSample(prior))
    trace = poutine.trace(model.model).get_trace(x)
    sites = [s for s in trace.stochastic_nodes if s != "data"]
    assert len(sites) == 2 * 2 * 2  # two couplings, two layers, weight and bias
    # the density is that of the flow with the sampled weights in place of its own
    plain = MODELS["RealNVP"].build()
    values = {s.split(".", 1)[1]: trace.nodes[s]["value"] for s in sites}
    plain.load_state_dict(values, strict=False)
    torch.testing.assert_close(trace.nodes["x"]["fn"].log_prob(x), plain().log_prob(x))
    auto = AutoNormal(model.model)
    svi = SVI(model.model, auto, Adam({"lr": 1e-3}), Trace_ELBO())
    assert torch.isfinite(torch.tensor(svi.step(x)))
    mcmc = MCMC(NUTS(model.model, max_tree_depth=2), num_samples=2, warmup_steps=1, disable_progbar=True)
    mcmc.run(x)
    assert set(mcmc.get_samples()) == set(sites)


def test_data_size_makes_minibatches_add_up():
    model = MODELS["VAE"].build()
    x = torch.randn(20, 3)
    elbo = Trace_ELBO()

    def loss(batch, **settings):
        torch.manual_seed(0)
        program = poutine.condition(model.model, {"z": torch.zeros(len(batch), 2)})
        return elbo.loss(program, lambda *a, **k: None, batch, **settings)

    full = loss(x)
    parts = [loss(x[i : i + 5], data_size=20) for i in range(0, 20, 5)]
    assert sum(parts) / 4 == pytest.approx(full, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: VariationalAutoencoder(
                StandardNormal(2), DiagonalNormal(3, context=4), DiagonalNormal(2, context=3)
            ),
            "likelihood: expected a model with context=2, got context=4",
        ),
        (
            lambda: VariationalAutoencoder(
                StandardNormal(2), DiagonalNormal(3, context=2), DiagonalNormal(4, context=3)
            ),
            "posterior: expected distributions over z with event shape",
        ),
        (
            lambda: VariationalAutoencoder(StandardNormal(2), torch.nn.Linear(2, 3), DiagonalNormal(2, context=3)),
            "likelihood: expected a module that returns a distribution",
        ),
    ],
)
def test_vae_refuses_parts_that_do_not_fit(make, match):
    with pytest.raises(ValueError, match=match):
        make()
