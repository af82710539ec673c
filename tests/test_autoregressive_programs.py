"""Autoregressive models in Pyro programs: sites, enumeration, likelihoods, latents, against known answers."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate, infer_discrete
from pyro.optim import Adam

from pyro_dgm import models as m
from pyro_dgm.objectives import OrderAgnostic

from .statistics import within
from .test_autoregressive import build, every_row
from .zoo import MODELS, C, perturb


@every_row
def test_sites_have_the_density_of_the_event(name):
    _, p = build(name, C)
    x = p.sample().detach()
    flat = x.flatten(x.dim() - p.event_dim)

    def program():
        with pyro.plate("data", 2):
            return p.as_sites("x")

    data = {f"x_{i}": flat[..., i] for i in range(flat.shape[-1])}
    trace = poutine.trace(poutine.condition(program, data)).get_trace()
    torch.testing.assert_close(trace.log_prob_sum(), p.log_prob(x).sum())
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], x)
    assert poutine.trace(program).get_trace().nodes["_RETURN"]["value"].shape == x.shape


def test_an_intervention_on_a_site_is_seen_by_later_ones_only():
    p = MODELS["MADE"].build()()
    first, *_, last = p.conditioner.sequence

    def program():
        return p.as_sites("x")

    torch.manual_seed(0)
    trace = poutine.trace(poutine.do(program, {f"x_{first}": torch.tensor(1.0)})).get_trace()
    x = trace.nodes["_RETURN"]["value"]
    assert x[first] == 1
    expected = p.conditional_log_probs(x)[last]
    torch.testing.assert_close(trace.nodes[f"x_{last}"]["fn"].log_prob(x[last]), expected)


def test_sites_are_summed_out_exactly_by_enumeration():
    p = MODELS["NADE"].build()()

    @config_enumerate
    def program():
        x = p.as_sites("x")
        pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=torch.tensor(1.3))

    states = p.enumerate_support()
    exact = (p.log_prob(states) + dist.Normal(states.sum(-1), 1.0).log_prob(torch.tensor(1.3))).logsumexp(0)
    loss = TraceEnum_ELBO(max_plate_nesting=0).loss(program, lambda: None)
    assert -loss == pytest.approx(exact.item(), rel=1e-5)


def test_rows_of_an_image_are_sites():
    torch.manual_seed(0)
    p = perturb(m.ConvNADE((1, 3, 3), 2, hidden_channels=3, blocks=1), 0.5)(torch.randn(2, 2))

    def program():
        with pyro.plate("data", 2):
            return p.as_sites("x", by="row")

    x = p.sample()
    data = {f"x_{i}": x[..., i, :] for i in range(3)}
    trace = poutine.trace(poutine.condition(program, data)).get_trace()
    torch.testing.assert_close(trace.log_prob_sum(), p.log_prob(x).sum())
    upper = poutine.trace(poutine.condition(program, {"x_0": x[..., 0, :]})).get_trace().nodes["_RETURN"]["value"]
    assert torch.equal(upper[..., 0, :], x[..., 0, :]) and upper.shape == (2, 1, 3, 3)
    with pytest.raises(ValueError, match="expected images"):
        m.MADE(4)().as_sites("x", by="row")


def test_an_event_is_summed_out_exactly_by_enumeration():
    p = MODELS["MADE-masks"].build()().components[1]

    @config_enumerate
    def program(y):
        with pyro.plate("data", len(y)):
            x = pyro.sample("x", p)
            pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)

    y = torch.tensor([0.3, 1.3, 2.0])
    states = p.enumerate_support()
    exact = (p.log_prob(states)[:, None] + dist.Normal(states.sum(-1)[:, None], 1.0).log_prob(y)).logsumexp(0).sum()
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(program, lambda y: None, y)
    assert -loss == pytest.approx(exact.item(), rel=1e-5)
    assert not m.MADE(20)().has_enumerate_support
    with pytest.raises(NotImplementedError, match="at most"):
        m.MADE(20)().enumerate_support()


def test_likelihood_of_a_hierarchical_model_has_the_posterior_of_the_grid():
    """The context of a MADE is an unknown; NUTS against the posterior on a grid, five standard errors."""
    torch.manual_seed(0)
    model = perturb(m.MADE(4, 1, hidden_features=(8,)), 0.6).eval()
    for p in model.parameters():
        p.requires_grad_(False)
    x = model(torch.tensor([0.8])).sample((60,))

    def program():
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", 2):
            z = pyro.sample("z", dist.Normal(mean, 0.5))
        with pyro.plate("data", 60):
            pyro.sample("x", model(z.repeat_interleave(30, -1)[..., None]), obs=x)

    mcmc = MCMC(NUTS(program), num_samples=400, warmup_steps=150, disable_progbar=True)
    mcmc.run()
    z = mcmc.get_samples()["z"].double()
    grid = torch.linspace(-4, 4, 161)
    scores = torch.stack([model(grid[:, None, None]).log_prob(part).sum(-1) for part in x.split(30)])
    normal = dist.Normal(grid[:, None], 0.5).log_prob(grid)  # (mean, z)
    each = (normal[None] + scores[:, None, :]).logsumexp(-1)
    joint = dist.Normal(0.0, 1.0).log_prob(grid) + each[1]
    posterior = ((joint[:, None] + normal).logsumexp(0) + scores[0]).softmax(0)
    exact = (posterior * grid).sum().item()
    diagnostics = mcmc.diagnostics()["z"]["n_eff"][0].item()
    assert abs(z[:, 0].mean().item() - exact) < 5 * z[:, 0].std().item() / math.sqrt(diagnostics)


def test_component_of_an_enumerated_mixture_is_classified_by_bayes_rule():
    torch.manual_seed(0)
    model = perturb(m.NADE(4, 2, hidden_features=6), 0.8)
    weights, x = torch.tensor([0.3, 0.7]), (torch.rand(5, 4) < 0.5).float()

    @config_enumerate
    def program():
        with pyro.plate("data", 5):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", model(torch.eye(2)[k]), obs=x)

    scores = weights.log() + torch.stack([model(torch.eye(2)[k]).log_prob(x) for k in range(2)], -1)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(program, lambda: None)
    assert -loss == pytest.approx(scores.logsumexp(-1).sum().item(), rel=1e-5)
    best = poutine.trace(infer_discrete(program, first_available_dim=-2, temperature=0)).get_trace()
    assert torch.equal(best.nodes["k"]["value"], scores.argmax(-1))


def test_latent_under_predictive_has_the_moments_of_its_states():
    """Mean over 1000 draws, five standard errors: fails once in a million seeds."""
    model = MODELS["MADE"].build()

    def program():
        x = pyro.sample("x", model())
        pyro.sample("y", dist.Normal(x.sum(), 0.1))

    torch.manual_seed(1)
    y = Predictive(program, num_samples=1000, parallel=False)()["y"].double()
    states = model().enumerate_support()
    exact = (model().log_prob(states).exp() * states.sum(-1)).sum().item()
    assert within(y, exact, 5)


def test_weights_with_priors_are_those_the_program_drew():
    model = MODELS["MADE"].build()
    pyro.nn.module.to_pyro_module_(model)
    for module in list(model.modules()):
        for key, p in list(module.named_parameters(recurse=False)):
            setattr(module, key, pyro.nn.PyroSample(dist.Normal(torch.zeros_like(p), 1.0).to_event(p.dim())))
    x = (torch.rand(6, 4) < 0.5).float()
    trace = poutine.trace(model.model).get_trace(x)
    plain = MODELS["MADE"].build()
    plain.load_state_dict({k.split(".", 1)[1]: v["value"] for k, v in trace.nodes.items() if k in trace.stochastic_nodes
                           and k != "data"}, strict=False)  # fmt: skip
    torch.testing.assert_close(trace.nodes["x"]["fn"].log_prob(x), plain().log_prob(x))
    torch.manual_seed(0)
    drawn = trace.nodes["x"]["fn"].sample((9,))
    torch.manual_seed(0)
    assert torch.equal(plain().expand((6,)).sample((9,)), drawn)


def test_svi_and_fit_go_down_the_same_loss():
    model = MODELS["RNADE"].build()
    x = torch.randn(64, 3) * torch.tensor([0.1, 1.0, 10.0]) + 5
    model.initialize(x)
    svi = SVI(model.model, model.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(100)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["MADE-masks", "EoNADE", "ConvNADE"])
def test_svi_trains_models_of_many_orders(name):
    model = MODELS[name].build()
    x = torch.ones(64, *model.event_shape)
    pyro.clear_param_store()
    svi = SVI(model.model, model.guide, Adam({"lr": 0.05}), OrderAgnostic())
    before = model().log_prob(x).mean()
    for _ in range(20):
        svi.step(x)
    assert model().log_prob(x).mean() > before + 0.5
