"""The causal transformer: what sees what, probabilities that sum to one, and a walk equal to its definition."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

from pyro_dgm.distributions import heads
from pyro_dgm.models import CausalTransformer

from .causal import (
    assert_same_samples,
    assert_select,
    assert_walk_is_cheap,
    dependencies,
    smooth,
    total_probability,
)
from .zoo import perturb

TINY = {"width": 8, "blocks": 2, "attention_heads": 2, "mlp_features": 8}


def colours(levels=3, context=0, shape=(3, 2, 2)):
    return CausalTransformer(shape, context, head=heads.Categorical(levels, ordered=True), **TINY)


def test_probabilities_sum_to_one():
    assert total_probability(perturb(CausalTransformer((1, 3, 3), **TINY), 0.5)(), 2) == pytest.approx(1, abs=1e-5)
    p = perturb(CausalTransformer(5, 2, head=heads.Categorical(3), **TINY), 0.5)(torch.randn(2))
    assert total_probability(p, 3) == pytest.approx(1, abs=1e-5)


def test_probabilities_of_all_small_colour_images_sum_to_one():
    model = CausalTransformer(
        (3, 2, 2), width=4, blocks=1, attention_heads=2, mlp_features=4, head=heads.Categorical(3, ordered=True)
    )
    assert total_probability(perturb(model, 0.5)(), 3) == pytest.approx(1, abs=1e-5)  # 531441 images


@pytest.mark.parametrize(
    "model",
    [
        colours(shape=(3, 5, 5)),
        CausalTransformer((1, 5, 5), 2, **TINY),
        CausalTransformer(7, order=[3, 0, 6, 1, 5, 2, 4], head=heads.Categorical(3), **TINY),
        CausalTransformer((1,), head=heads.Normal(), **TINY),
    ],
    ids=["colours", "context", "order", "one"],
)
def test_every_number_sees_all_before_it_and_nothing_else(model):
    context = torch.randn(model.context, dtype=torch.float64) if model.context else None
    found = dependencies(smooth(model), context)
    assert torch.equal(found, torch.ones_like(found).tril(-1))


def test_a_future_that_is_seen_would_be_noticed():
    model = smooth(CausalTransformer(5, **TINY))
    model.conditioner.places.copy_(torch.tensor([1, 0, 2, 3, 4]))  # the second number enters first
    found = dependencies(model)
    assert found.triu().any()


@pytest.mark.parametrize("context", [0, 2])
def test_samples_are_the_same_in_three_ways(context):
    for model in (colours(4, context), CausalTransformer(6, context, order=[5, 3, 1, 0, 2, 4], **TINY)):
        p = smooth(model)(torch.randn(3, context, dtype=torch.float64) if context else None)
        x = assert_same_samples(p)
        assert x.float().std() > 0.3
        observed = torch.rand(p.event_shape) < 0.5
        y = assert_same_samples(p, given=x.flip(0), observed=observed)
        assert torch.equal(y[..., observed], x.flip(0)[..., observed])
        single = smooth(model)(torch.randn(1, context, dtype=torch.float64) if context else None)
        assert_same_samples(single)
        assert_select(model, torch.randn(5, context, dtype=torch.float64) if context else None)
        assert_select(model, torch.randn(1, context, dtype=torch.float64) if context else None)
        with torch.no_grad():
            assert_select(model, torch.randn(5, context, dtype=torch.float64) if context else None)


def test_gradients_of_samples_are_those_of_the_naive_sampler():
    model = smooth(CausalTransformer(4, 2, head=heads.Normal(), **TINY))
    p = model(torch.randn(3, 2, dtype=torch.float64))
    gradients = []
    for naive in (False, True):
        torch.manual_seed(2)
        x = p._draw(torch.Size((5, 3, 4)), naive=naive)
        gradients.append([x, *torch.autograd.grad(x.square().sum(), list(model.parameters()))])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_walk_costs_a_small_part_of_the_naive_sampler():
    for shape in (64, (1, 8, 8), (3, 4, 4)):
        assert_walk_is_cheap(CausalTransformer(shape, **TINY)(), 0.05)


def test_dropout_is_for_training():
    model = perturb(CausalTransformer((1, 3, 3), dropout=0.3, **TINY))
    x = torch.ones(2, 1, 3, 3)
    assert not torch.equal(model().log_prob(x), model().log_prob(x))
    torch.manual_seed(1)
    sample = model().sample((50,))
    model.eval()
    assert torch.equal(model().log_prob(x), model().log_prob(x))
    torch.manual_seed(1)
    assert torch.equal(model().sample((50,)), sample)  # a walk leaves nothing out


def test_context_broadcasts_and_matters():
    model = perturb(colours(2, 3), 0.5)
    c, x = torch.randn(4, 1, 3), (torch.rand(5, 3, 2, 2) > 0.5).float()
    scores = model(c).log_prob(x)
    assert scores.shape == (4, 5)
    torch.testing.assert_close(scores, torch.stack([model(ci[0]).log_prob(x) for ci in c]))
    assert scores.std(0).min() > 1e-3
    first = model(c[:, 0]).conditional_log_probs(x[0])[:, 0, 0, 0]
    assert first.unique().numel() == 4  # before anything is known


def test_sites_add_up():
    model = smooth(colours(2, 2))
    p = model(torch.randn(4, 2, dtype=torch.float64))
    for by in ("number", "row"):
        with pyro.plate("data", 4):
            trace = poutine.trace(p.as_sites).get_trace("x", by=by)
        torch.testing.assert_close(trace.log_prob_sum(), p.log_prob(trace.nodes["_RETURN"]["value"]).sum())


def test_a_walk_sees_the_weights_that_were_drawn():
    model = smooth(CausalTransformer(5, **TINY))
    pyro.nn.module.to_pyro_module_(model)
    for layer in (model.conditioner.embed, model.conditioner.blocks[1].qkv, model.conditioner.last[1]):
        layer.weight = pyro.nn.PyroSample(dist.Normal(torch.zeros_like(layer.weight), 1.0).to_event(2))
    p = model()
    assert_same_samples(p)
    x = torch.ones(5, dtype=torch.float64)
    assert p.log_prob(x) == p.log_prob(x) != model().log_prob(x)


def test_learns_a_long_dependency():
    """The last of 12 coins is the first, and the others are fair: 11 bits."""
    torch.manual_seed(0)
    model = CausalTransformer(12, width=16, blocks=1, attention_heads=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        x = (torch.rand(128, 12) > 0.5).float()
        x[:, -1] = x[:, 0]
        loss = -model().log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() / torch.tensor(2.0).log() < 11.1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"event_shape": (2, 3)}, r"event_shape: expected \(D,\) or \(C, H, W\), got \(2, 3\)"),
        ({"event_shape": (1, 2, 2), "order": [0, 1, 2, 3]}, "order: expected None for an image"),
        ({"event_shape": 3, "order": [0, 1, 1]}, "order: expected a permutation"),
        ({"event_shape": 3, "blocks": 0}, "blocks: expected at least 1, got 0"),
        ({"event_shape": 3, "width": 6, "attention_heads": 4}, "attention_heads: expected a divisor of width=6, got 4"),
        ({"event_shape": 3, "dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
    ],
)
def test_refuses(settings, match):
    with pytest.raises(ValueError, match=match):
        CausalTransformer(**settings)
