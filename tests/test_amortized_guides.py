"""Amortised flow guides: posteriors of the rows of subsampled plates, in batches of any size."""

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Trace_ELBO,
)
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import nn

from pyro_dgm.guides import AutoAmortizedFlow, AutoFlow

from .test_guides import FLOWS, X, normal, small

# Amortised: x_i ~ (Poisson(rate_i), Binomial(20, share_i)), posterior Gamma(2 + x_i1, 2) Beta(1 + x_i2, 21 - x_i2)
N, TRIALS = 60, 20


def rows(x):
    return pyro.plate("rows", N, subsample_size=len(x), dim=-1)


def counts(x, make_plate=rows):
    with make_plate(x) as index:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        share = pyro.sample("share", dist.Uniform(0.0, 1.0))
        x = x if len(x) == len(index) else x[index]
        pyro.sample("n", dist.Poisson(rate), obs=x[:, 0])
        pyro.sample("k", dist.Binomial(TRIALS, share), obs=x[:, 1])


def data():
    rate, share = dist.Gamma(2.0, 1.0).sample((N,)), torch.rand(N)
    return torch.stack([torch.poisson(rate), torch.binomial(torch.full((N,), float(TRIALS)), share)], -1)


def encoder():
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8))


def amortized(model=counts, flow=small, **settings):
    settings = {"create_plates": rows} | settings
    return AutoAmortizedFlow(model, "rows", encoder(), flow, **settings)


@pytest.mark.parametrize("flow", FLOWS)
def test_amortized_guide_takes_any_batch_size(flow):
    x, guide = data(), amortized(flow=FLOWS[flow])
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(counts, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    for batch in (16, 8, 1, N):
        assert svi.step(x[:batch]) == pytest.approx(svi.evaluate_loss(x[:batch]), rel=1.0)
        assert guide.median(x[:batch], num_samples=4)["share"].shape == (batch,)
    trace = poutine.trace(guide).get_trace(x[:7])
    trace.compute_log_prob()
    assert trace.nodes["rate"]["scale"] == N / 7 and trace.nodes["rate"]["log_prob"].shape == (7,)
    assert torch.isfinite(trace.log_prob_sum())


def test_the_bound_is_unbiased_under_subsampling():
    """The mean over the batches of an epoch and the bound of all data: equal up to 4 standard errors, 1 in 15,000."""
    x, guide = data(), amortized().setup(data())
    elbo = Trace_ELBO(num_particles=100, vectorize_particles=True, max_plate_nesting=1)(counts, guide)
    with torch.no_grad():
        whole = torch.stack([elbo(x) for _ in range(10)])
        parts = torch.stack([torch.stack([elbo(b) for b in x.split(10)]).mean() for _ in range(10)])
    error = (whole.var() / 10 + parts.var() / 10).sqrt()
    assert abs(whole.mean() - parts.mean()) < 4 * error
    assert 4 * error < 0.01 * whole.mean()


@pytest.mark.parametrize("pattern", ["batch", "whole", "index"])
def test_three_ways_to_subsample(pattern):
    """The batch is given; all is given and there is no subsampling; all is given and the plate draws the batch."""
    make = {
        "batch": rows,
        "whole": lambda x: pyro.plate("rows", len(x), dim=-1),
        "index": lambda x: pyro.plate("rows", len(x), subsample_size=10, dim=-1),
    }[pattern]
    x, model = data(), partial(counts, make_plate=make)
    for settings in ({}, {"create_plates": None}):
        guide = amortized(model, **({"create_plates": make} | settings))
        guide_trace = poutine.trace(guide).get_trace(x[:10] if pattern == "batch" else x)
        model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x[:10] if pattern == "batch" else x)
        size = N if pattern == "whole" else 10
        assert guide_trace.nodes["rate"]["value"].shape == (size,)
        assert guide_trace.nodes["rate"]["scale"] == model_trace.nodes["rate"]["scale"] == N / size
        assert guide.median(x)["rate"].shape == (N,)
    if pattern == "batch":
        with pytest.raises(ValueError, match="create_plates=lambda"):
            guide(x[:7])


def test_amortized_events_and_another_dimension():
    """Simplexes and vectors per row, the plate at -2, an observed plate within, a model that is given more."""

    def model(x, extra):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(x), dim=-2):
            weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
            ends = pyro.sample("ends", dist.Uniform(torch.zeros(2), torch.tensor([1.0, 3.0])).to_event(1))
            with pyro.plate("columns", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(weights[..., 0] + ends[..., 1], scale), obs=x)

    def make(x, extra):
        return pyro.plate("rows", len(x), dim=-2)

    part = AutoAmortizedFlow(model, "rows", nn.Linear(5, 4), small, create_plates=make, data=lambda x, extra: extra)
    other = AutoFlow(poutine.block(model, hide=["weights", "ends"]), small)

    def guide(x, extra):
        return {**other(x, extra), **part(x, extra)}

    for elbo in (Trace_ELBO(), Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)):
        for n in (4, 3):
            assert torch.isfinite(torch.tensor(elbo.loss(model, guide, X[:n], torch.ones(n, 5))))
    draws = part.sample_posterior(7, X, torch.ones(4, 5))
    assert draws["weights"].shape == (7, 4, 1, 3) and draws["ends"].shape == (7, 4, 1, 2)
    assert draws["ends"][..., 0].max() < 1


def hierarchical(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with rows(x):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


@pytest.mark.parametrize("partner", [AutoNormal, AutoFlow])
def test_global_latents_have_another_guide(partner):
    x = torch.randn(N, 2)
    guide = AutoGuideList(hierarchical, create_plates=rows)
    guide.append(partner(poutine.block(hierarchical, hide=["z"])))
    guide.append(AutoAmortizedFlow(hierarchical, "rows", encoder(), small))
    svi = SVI(hierarchical, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for batch in (16, 8, 1):
        svi.step(x[:batch])
    median = guide.median(x[:5])
    assert median["z"].shape == (5,) and median["mean"].shape == ()
    again = copy.deepcopy(guide)
    assert all(torch.equal(p, q) for p, q in zip(guide.parameters(), again.parameters(), strict=True))


def test_what_does_not_fit_is_refused():
    x = data()

    def varying(x):
        with rows(x):
            pyro.sample("rate", dist.Uniform(0.0, 1 + x[:, 0]))

    def nested(x):
        with pyro.plate("outer", 2, dim=-2), rows(x):
            pyro.sample("rate", dist.Gamma(2.0, 1.0))

    for model, settings, match in [
        (varying, {}, "same support"),
        (nested, {}, "alone"),
        (normal, {"create_plates": None}, "continuous latents"),
        (counts, {"create_plates": lambda x: pyro.plate("rows", 2 * N, subsample_size=len(x))}, "create_plates"),
        (counts, {"data": lambda x: x[:3]}, "data: expected"),
    ]:
        with pytest.raises(ValueError, match=match):
            amortized(model, **settings).setup(x[:10])
    with pytest.raises(ValueError, match="encoder: expected"):
        AutoAmortizedFlow(counts, "rows", nn.Flatten(0), small, create_plates=rows).setup(x)


def test_amortized_weights_load(tmp_path):
    x, guide = data(), amortized().setup(data())
    other = amortized().setup(x[:3])
    other.load_state_dict(copy.deepcopy(guide.state_dict()))
    for each in (guide, other, copy.deepcopy(guide)):
        torch.manual_seed(1)
        assert torch.equal(each.median(x, num_samples=5)["rate"], _seeded(guide, x))


def _seeded(guide, x):
    torch.manual_seed(1)
    return guide.median(x, num_samples=5)["rate"]


def test_latents_of_subsampled_plates_are_refused():
    with pytest.raises(ValueError, match="AutoAmortizedFlow"):
        AutoFlow(counts, small).setup(torch.ones(5, 2))
