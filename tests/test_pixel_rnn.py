"""PixelRNN: what sees what, probabilities that sum to one, and a walk equal to its definition."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

from pyro_dgm.distributions import heads
from pyro_dgm.models import PixelRNN

from .causal import (
    assert_same_samples,
    assert_select,
    assert_walk_is_cheap,
    dependencies,
    smooth,
    total_probability,
)
from .zoo import perturb

both = pytest.mark.parametrize("kind", ["row", "diagonal"])
TINY = {"blocks": 2, "hidden_channels": 6, "out_channels": 12, "kernel_size": 3}


def levels(number):
    return heads.Categorical(number, ordered=True)


@both
def test_probabilities_sum_to_one(kind):
    model = perturb(PixelRNN((1, 3, 3), kind=kind, **TINY), 0.5)
    assert total_probability(model(), 2) == pytest.approx(1, abs=1e-5)
    model = perturb(PixelRNN((3, 1, 2), 2, kind=kind, head=heads.Categorical(3), **TINY), 0.5)
    assert total_probability(model(torch.randn(2)), 3) == pytest.approx(1, abs=1e-5)


@both
def test_probabilities_of_all_small_colour_images_sum_to_one(kind):
    small = {"blocks": 1, "hidden_channels": 3, "out_channels": 3, "kernel_size": 3}
    model = perturb(PixelRNN((3, 2, 2), kind=kind, head=levels(3), **small), 0.5)
    assert total_probability(model(), 3) == pytest.approx(1, abs=1e-5)  # 531441 images


def in_sight(event_shape, kind, blocks, reach):
    """Which numbers each number sees, by the formula in the documentation of the network."""
    colours, height, width = event_shape
    pixels = [(i, j) for i in range(height) for j in range(width) for _ in range(colours)]
    seen = torch.zeros(len(pixels), len(pixels), dtype=torch.bool)
    for a, (i, j) in enumerate(pixels):
        for b, (k, l) in enumerate(pixels[:a]):
            m = i - k
            left, right = j - m - blocks - reach, j + m - 1 + reach if m else j
            seen[a, b] = kind == "diagonal" or left <= l <= right
    return seen


@both
@pytest.mark.parametrize(
    ("event_shape", "blocks", "kernel_size"),
    [((3, 5, 5), 1, 3), ((1, 5, 5), 2, 7), ((1, 4, 9), 1, 3), ((1, 4, 9), 2, 3), ((1, 1, 7), 1, 3), ((2, 6, 1), 1, 5)],
)
def test_every_number_sees_what_it_should_and_nothing_else(kind, event_shape, blocks, kernel_size):
    """Everything before for the diagonal kind, a triangle for rows; nowhere a number itself or one behind it."""
    settings = {"hidden_channels": 6, "out_channels": 30, "blocks": blocks, "kernel_size": kernel_size}
    found = dependencies(smooth(PixelRNN(event_shape, kind=kind, **settings)))
    assert not found.triu().any()
    expected = in_sight(event_shape, kind, blocks, kernel_size // 2)
    assert torch.equal(found, expected)
    if kind == "row" and event_shape == (1, 4, 9):
        assert not torch.equal(expected, torch.ones_like(expected).tril(-1))  # so that the triangle is one


def test_first_diagonal_layer_brings_the_end_of_the_row_above_into_sight():
    """Without its look at the image, the last pixel of a row is hidden from the row below but for its last columns."""
    model = smooth(PixelRNN((1, 3, 8), hidden_channels=6, out_channels=30, kernel_size=3))
    model.conditioner.layers[0].image = None
    found = dependencies(model)
    hidden = [(8 * i + j, 8 * i - 1) for i in (1, 2) for j in range(6)]
    assert sorted(map(tuple, (found != torch.ones_like(found).tril(-1)).nonzero().tolist())) == hidden


@both
def test_states_are_those_of_the_formula(kind):
    """Pixel by pixel, gates by name."""
    torch.manual_seed(0)
    model = smooth(PixelRNN((1, 3, 4), 2, kind=kind, **TINY))
    layer = model.conditioner.layers[1]
    x, y = torch.randn(12, 5, 12, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    got = layer.states(x, x, y).unflatten(0, (3, 4))
    x = x.unflatten(0, (3, 4))
    zero = torch.zeros(5, 6, dtype=torch.float64)

    def run(k, inputs, context, columns, step):
        h, c = {}, {}
        for i in range(3):
            for j in columns:
                if kind == "row":
                    pixel = torch.cat([x[i, j - 1] if j else torch.zeros_like(x[i, j]), x[i, j]], -1)
                    before, above = [(i - 1, j - 1), (i - 1, j), (i - 1, j + 1)], (i - 1, j)
                else:
                    pixel = x[i, j]
                    before, above = [(i - 1, j), (i, j - step)], (i, j - step)
                a = inputs(pixel) + context + torch.cat([h.get(p, zero) for p in before], -1) @ k
                o, f, i_, g = a.chunk(4, -1)
                c[i, j] = f.sigmoid() * c.get(above, zero) + i_.sigmoid() * g.tanh()
                h[i, j] = o.sigmoid() * c[i, j].tanh()
        return h

    contexts = layer.context(y).chunk(len(layer.k), -1)
    left = run(layer.k[0], layer.inputs[0], contexts[0], range(4), 1)
    right = run(layer.k[1], layer.inputs[1], contexts[1], range(3, -1, -1), -1) if kind == "diagonal" else {}
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(got[i, j], left[i, j] + right.get((i - 1, j), zero))


@both
@pytest.mark.parametrize("context", [0, 2])
def test_samples_are_the_same_in_three_ways(kind, context):
    def contexts(n):
        return torch.randn(n, context, dtype=torch.float64) if context else None

    for shape, head in [((1, 4, 3), None), ((3, 3, 2), levels(4)), ((2, 1, 3), heads.Categorical(3))]:
        model = smooth(PixelRNN(shape, context, kind=kind, head=head, **TINY))
        p = model(contexts(3))
        x = assert_same_samples(p)
        assert x.float().std() > 0.3
        observed = torch.rand(p.event_shape) < 0.5
        y = assert_same_samples(p, given=x.flip(0), observed=observed)
        assert torch.equal(y[..., observed], x.flip(0)[..., observed])
        assert_same_samples(model(contexts(1)))
        assert_select(model, contexts(5))
        assert_select(model, contexts(1))
        with torch.no_grad():
            assert_select(model, contexts(5))


@both
def test_gradients_of_samples_are_those_of_the_naive_sampler(kind):
    model = smooth(PixelRNN((2, 3, 2), 2, kind=kind, head=heads.Normal(), **TINY))
    p = model(torch.randn(3, 2, dtype=torch.float64))
    gradients = []
    for naive in (False, True):
        torch.manual_seed(2)
        x = p._draw(torch.Size((5, 3, 2, 3, 2)), naive=naive)
        gradients.append([x, *torch.autograd.grad(x.square().sum(), list(model.parameters()))])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@both
def test_walk_costs_a_small_part_of_the_naive_sampler(kind):
    for shape in ((1, 8, 8), (3, 4, 4)):
        assert_walk_is_cheap(PixelRNN(shape, kind=kind, **TINY)(), 0.05)


@both
def test_context_broadcasts_and_matters(kind):
    model = perturb(PixelRNN((3, 2, 2), 3, kind=kind, **TINY), 0.5)
    c, x = torch.randn(4, 1, 3), (torch.rand(5, 3, 2, 2) > 0.5).float()
    scores = model(c).log_prob(x)
    assert scores.shape == (4, 5)
    torch.testing.assert_close(scores, torch.stack([model(ci[0]).log_prob(x) for ci in c]))
    assert scores.std(0).min() > 1e-3
    first = model(c[:, 0]).conditional_log_probs(x[0])[:, 0, 0, 0]
    assert first.unique().numel() == 4  # before anything is known


@both
def test_sites_add_up(kind):
    model = smooth(PixelRNN((2, 2, 2), 2, kind=kind, **TINY))
    p = model(torch.randn(4, 2, dtype=torch.float64))
    for by in ("number", "row"):
        with pyro.plate("data", 4):
            trace = poutine.trace(p.as_sites).get_trace("x", by=by)
        torch.testing.assert_close(trace.log_prob_sum(), p.log_prob(trace.nodes["_RETURN"]["value"]).sum())


@both
def test_a_walk_sees_the_weights_that_were_drawn(kind):
    model = smooth(PixelRNN((2, 2, 2), kind=kind, **TINY))
    pyro.nn.module.to_pyro_module_(model)
    for layer in (model.conditioner.layers[0].up, model.conditioner.pixelwise[1]):
        layer.weight = pyro.nn.PyroSample(dist.Normal(torch.zeros_like(layer.weight), 1.0).to_event(2))
    p = model()
    assert_same_samples(p)
    x = torch.ones(2, 2, 2, dtype=torch.float64)
    assert p.log_prob(x) == p.log_prob(x) != model().log_prob(x)


@both
def test_second_derivatives(kind):
    model = smooth(PixelRNN((1, 3, 2), kind=kind, head=heads.Normal(), **TINY))
    x = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: model().log_prob(x), x)


@both
def test_learns_that_columns_repeat(kind):
    """Columns of images are all 0 or all 1: 4 bits, all in the first row."""
    torch.manual_seed(0)
    model = PixelRNN((1, 4, 4), kind=kind, hidden_channels=8, blocks=1, out_channels=16, kernel_size=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        x = (torch.rand(64, 1, 1, 4) > 0.5).float().expand(-1, -1, 4, -1)
        loss = -model().log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() / torch.tensor(2.0).log() < 4.2


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"event_shape": (2, 3)}, r"event_shape: expected the shape \(C, H, W\) of an image, got \(2, 3\)"),
        ({"kind": "column"}, "kind: expected 'row' or 'diagonal', got 'column'"),
        ({"blocks": 0}, "blocks: expected at least 1, got 0"),
        ({"hidden_channels": 4}, "hidden_channels: expected a multiple of the 3 colours, got 4"),
        ({"hidden_channels": 3, "out_channels": 4}, "out_channels: expected a multiple of the 3 colours, got 4"),
        ({"hidden_channels": 3, "out_channels": 3, "kernel_size": 4}, "kernel_size: expected an odd number, .* got 4"),
    ],
)
def test_refuses(settings, match):
    with pytest.raises(ValueError, match=match):
        PixelRNN(**{"event_shape": (3, 4, 4), **settings})
