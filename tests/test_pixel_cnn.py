"""PixelCNN, gated PixelCNN, PixelCNN++: sums to one, who sees whom, walks against the definition."""

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_dgm.distributions import heads
from pyro_dgm.models import GatedPixelCNN, PixelCNN, PixelCNNPlusPlus
from pyro_dgm.nn import NaiveWalk
from pyro_dgm.nn.causal_convolution import CausalConv2d, VerticalConv2d

from .causal import total_probability
from .zoo import perturb


def pixel_cnn(shape, context=0, **settings):
    return PixelCNN(shape, context, **{"hidden_channels": 6, "blocks": 4, "kernel_size": 3, **settings})


def gated(shape, context=0, **settings):
    return GatedPixelCNN(shape, context, **{"hidden_channels": 6, "layers": 4, "first_kernel_size": 3, **settings})


def plus_plus(shape, context=0, head=None, **settings):
    """At two resolutions where the sides allow it, and with the head that colours need."""
    levels = 1 if shape[1] % 2 or shape[2] % 2 else 2
    if shape[0] > 1 and not isinstance(head, heads.DiscretizedLogisticMixture):
        head = heads.DiscretizedLogisticMixture(2, head.levels if head and head.levels else 2)
    settings = {"hidden_channels": 5, "blocks": 2, "levels": levels, "head": head or heads.Bernoulli(), **settings}
    return PixelCNNPlusPlus(shape, context, **settings)


MAKE = {"PixelCNN": pixel_cnn, "GatedPixelCNN": gated, "PixelCNNPlusPlus": plus_plus}
every_kind = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def build(make, shape, context=0, **settings):
    torch.manual_seed(1)
    return perturb(make(shape, context, **settings), 0.2).double()


def images(levels, *shape):
    """All of them."""
    size = torch.Size(shape).numel()
    k = torch.arange(levels**size)
    return (k[:, None] // levels ** torch.arange(size) % levels).to(torch.get_default_dtype()).reshape(-1, *shape)


# --- sums ----------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("context", [0, 2])
def test_sums_to_one_over_all_binary_images(make, context):
    model = build(make, (1, 3, 3), context)
    p = model(torch.randn(context).double() if context else None)
    x = images(2, 1, 3, 3)
    probabilities = p.log_prob(x.double()).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-10)
    assert probabilities.std() > 1e-5


@every_kind
@torch.no_grad()
def test_sums_to_one_over_all_coloured_images(make):
    """In float32: all 3^12, and with two levels all 2^12."""
    levels = 2 if make is plus_plus else 3
    depth = {pixel_cnn: {"blocks": 1}, gated: {"layers": 2}, plus_plus: {"blocks": 1, "levels": 1}}[make]
    p = build(make, (3, 2, 2), head=heads.Categorical(levels), hidden_channels=3, **depth).float()()
    p._validate_args = False
    assert total_probability(p, levels, 2**14) == pytest.approx(1, abs=1e-5)


def test_colours_of_a_pixel_are_one_mixture():
    """The sum of the conditionals is the logarithm of the joint mixture, written as in the paper."""
    k, levels = 3, 6
    model = build(plus_plus, (3, 2, 4), head=heads.DiscretizedLogisticMixture(k, levels))
    x = torch.randint(levels, (5, 3, 2, 4)).double()
    seen = x * 2 / (levels - 1) - 1
    raw = model.conditioner.network(seen)
    logits, alphas = raw[:, :k].log_softmax(1), raw[:, 7 * k :].tanh()
    log_p = logits
    for c in range(3):
        mu, s = raw[:, k + 2 * k * c : k + 2 * k * (c + 1)].chunk(2, 1)
        pairs = {1: [(0, 0)], 2: [(1, 0), (2, 1)]}.get(c, [])
        mu = mu + sum(alphas[:, k * at : k * (at + 1)] * seen[:, d, None] for at, d in pairs)
        mu = mu + 0.5 * torch.special.ndtri((torch.arange(k).double() + 0.5) / k)[:, None, None]
        s = (s - 1.5).exp()
        above = ((seen[:, c, None] + 1 / (levels - 1) - mu) / s).sigmoid()
        below = ((seen[:, c, None] - 1 / (levels - 1) - mu) / s).sigmoid()
        top, bottom = x[:, c, None] == levels - 1, x[:, c, None] == 0
        log_p = log_p + torch.log(torch.where(top, 1.0, above) - torch.where(bottom, 0.0, below))
    torch.testing.assert_close(model().log_prob(x), log_p.logsumexp(1).sum((1, 2)))
    assert alphas.abs().min() > 1e-4


# --- who sees whom -------------------------------------------------------------------------------------------------


def seen_by(model, shape):
    """Whether each number's parameters depend on each number seen, [number, seen number], by gradients."""
    total = 0
    for _ in range(2):
        x = torch.randn(shape).double()
        jacobian = torch.autograd.functional.jacobian(model.conditioner, x)
        total = total + jacobian.abs().sum(-4).reshape(x.numel(), x.numel())
    return total > 0


def place(number, shape):
    """Row, column and colour of a number of the flat image."""
    _, height, width = shape
    return number // width % height, number % width, number // (height * width)


@every_kind
@pytest.mark.parametrize("shape", [(1, 5, 5), (1, 4, 8), (2, 4, 4), (3, 2, 3)], ids=str)
def test_a_number_depends_on_exactly_those_before_it_but_for_the_blind_spot(make, shape):
    """PixelCNN with a first kernel of 3: pixel (i, j) does not see (k, m) where m - j > i - k > 0."""
    settings = {"hidden_channels": 3} if make is plus_plus else {"activation": nn.SiLU}
    if make is not plus_plus and shape[2] == 8:
        settings["blocks" if make is pixel_cnn else "layers"] = 7  # whose reach is the image
    model = build(make, shape, head=heads.NormalMixture(1), **settings)
    seen = seen_by(model, shape)
    blind = 0
    for of, by in itertools.product(range(len(seen)), repeat=2):
        (i, j, c), (k, m, d) = place(of, shape), place(by, shape)
        expected = (k, m, d) < (i, j, c)
        if make is pixel_cnn and expected and k < i and m - j > i - k:
            expected, blind = False, blind + 1
        assert bool(seen[of, by]) == expected, f"{(i, j, c)} by {(k, m, d)}"
    if make is pixel_cnn and shape == (1, 5, 5):
        assert blind == 4 * (3 + 2 + 1) + 3 * (2 + 1) + 2 * 1


def test_a_larger_first_kernel_moves_the_blind_spot_away():
    shape = (1, 5, 5)
    seen = seen_by(build(pixel_cnn, shape, head=heads.NormalMixture(1), kernel_size=5), shape)
    for of, by in itertools.product(range(25), repeat=2):
        (i, j, _), (k, m, _) = place(of, shape), place(by, shape)
        assert bool(seen[of, by]) == ((k, m) < (i, j) and not (k < i and m - j > i - k + 1))


@every_kind
def test_the_order_is_the_raster(make):
    found = [place(number, (2, 2, 3)) for number in build(make, (2, 2, 3)).conditioner.sequence]
    assert found == [(i, j, c) for i in range(2) for j in range(3) for c in range(2)]


# --- walks ---------------------------------------------------------------------------------------------------------

CASES = {
    "coins": ((1, 5, 4), None),
    "levels": ((1, 4, 4), heads.Categorical(4, ordered=True)),
    "classes": ((3, 3, 2), heads.Categorical(3)),
    "mixture": ((2, 2, 4), heads.DiscretizedLogisticMixture(2, 5)),
}
every_case = pytest.mark.parametrize("case", CASES)


def draws(p, shape, **settings):
    out = []
    for method in ("incremental", "naive", "jacobi"):
        torch.manual_seed(5)
        out.append(p.draw(shape, method=method, **settings))
    return out


@every_kind
@every_case
@pytest.mark.parametrize("batch", [None, (), (2, 1)], ids=str)
def test_all_samplers_draw_the_same(make, case, batch):
    """With no context, one, and several; and with some numbers given."""
    shape, head = CASES[case]
    model = build(make, shape, 0 if batch is None else 2, head=head)
    p = model(None if batch is None else torch.randn(*batch, 2).double())
    incremental, naive, jacobi = draws(p, (3,))
    assert torch.equal(incremental, naive) and torch.equal(jacobi, naive)
    assert naive.std() > 0
    observed = torch.rand(shape) < 0.5
    given = incremental.flip(0)
    incremental, naive, jacobi = draws(p, (3,), given=given, observed=observed)
    assert torch.equal(incremental, naive) and torch.equal(jacobi, naive)
    assert torch.equal(incremental[..., observed], given[..., observed])


def same_walks(model, n, at=-1):
    """Compares a walk with the definition, number by number; after number ``at``, goes on with other data."""
    f = model.conditioner
    c = torch.randn(n, model.context).double() if model.context else None
    walks = f.walk(c, 4), NaiveWalk(f, c, 4)
    for k in range(f.event_shape.numel()):
        outputs = [walk.output() for walk in walks]
        torch.testing.assert_close(*outputs, atol=1e-10, rtol=1e-10)
        levels = model.head.levels or 2
        x = torch.randint(levels, (f.in_per_feature, len(outputs[0]))).double() * 2 / (levels - 1) - 1
        for walk in walks:
            walk.see(x)
            if k == at:
                walk.select(torch.tensor([2, 0, 0, 3, 1, 2]))


@every_kind
@every_case
@pytest.mark.parametrize("context", [0, 1, 4])
def test_a_walk_goes_on_with_other_data(make, case, context):
    shape, head = CASES[case]
    model = build(make, shape, 2 if context else 0, head=head)
    for at in (0, torch.Size(shape).numel() // 2, shape[0] * (shape[2] + 1)):
        same_walks(model, context, at)


@pytest.mark.parametrize(("shape", "levels"), [((1, 8, 4), 3), ((2, 4, 8), 3), ((1, 3, 5), 1), ((1, 2, 6), 2)])
def test_a_walk_through_resolutions(shape, levels):
    model = build(plus_plus, shape, 2, head=heads.DiscretizedLogisticMixture(2, 5), levels=levels, blocks=1)
    same_walks(model, 4, shape[0] * (shape[2] + 1))


@every_kind
def test_gradients_through_a_walk_are_those_of_the_definition(make):
    shape = (1, 2, 4) if make is plus_plus else (2, 3, 3)
    model = build(make, shape, 2, head=heads.NormalMixture(2))
    p = model(torch.randn(2, 2).double())
    found = []
    for naive in (False, True):
        torch.manual_seed(2)
        x = p._draw(torch.Size((3, 2, *shape)), naive=naive)
        found.append([x, *torch.autograd.grad(x.sin().sum(), list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)
        assert a.abs().sum() > 0


@every_kind
def test_sites_have_the_density_of_the_image(make):
    model = build(make, (2, 2, 3), 2)
    p = model(torch.randn(4, 2).double())
    with pyro.plate("data", 4):
        for by in ("number", "row"):
            trace = poutine.trace(p.as_sites).get_trace("x", by)
            torch.testing.assert_close(trace.log_prob_sum(), p.log_prob(trace.nodes["_RETURN"]["value"]).sum())


# --- details -------------------------------------------------------------------------------------------------------


@every_kind
def test_heads_start_neutral(make):
    x = images(2, 1, 2, 2)
    torch.testing.assert_close(make((1, 2, 2))().log_prob(x).exp(), torch.full((16,), 1 / 16))


@every_kind
def test_unbatched_images_and_contexts_of_any_shape(make):
    model = build(make, (2, 2, 2), 2)
    x, c = torch.randint(2, (3, 1, 2, 2, 2)).double(), torch.randn(4, 2).double()
    scores = model(c).log_prob(x)
    assert scores.shape == (3, 4)
    torch.testing.assert_close(model(c[1]).log_prob(x[2, 0]), scores[2, 1])


def test_dropout_is_for_training_only():
    model = build(plus_plus, (1, 4, 4), dropout=0.5)
    x = torch.randint(2, (5, 1, 4, 4)).double()
    assert not torch.equal(model().log_prob(x), model().log_prob(x))
    model.eval()
    assert torch.equal(model().log_prob(x), model().log_prob(x))
    same_walks(model, 0)


def test_vertical_convolutions_see_whole_rows():
    for strict in (False, True):
        f = VerticalConv2d(1, 1, 2, 1, strict=strict).double()
        jacobian = torch.autograd.functional.jacobian(f, torch.randn(1, 1, 5, 5).double())[0, 0, 3, 2, 0, 0]
        expected = torch.zeros(5, 5)
        expected[1 : 3 + (not strict), 1:4] = 1
        assert torch.equal(jacobian != 0, expected.bool())


def test_as_many_weights_are_free_as_the_masks_leave():
    f = CausalConv2d([0, 0, 1, 1], [0, 1, 1, 1], 1, 1, 1, strict=True)
    assert f.mask.sum() == 4 * 4 * 4 + 3 * 2  # four pixels before it, and group 1 sees group 0


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PixelCNN((4, 4)), r"event_shape: expected the shape \(C, H, W\) of an image, got \(4, 4\)"),
        (lambda: PixelCNN((1, 4, 4), kernel_size=4), "kernel_size: expected odd"),
        (lambda: PixelCNN((1, 4, 4), kernel_size=1), "kernel_size: expected odd numbers, the first at least 3"),
        (lambda: PixelCNN((3, 4, 4), hidden_channels=2), "hidden_channels: expected at least one for each of 3"),
        (lambda: PixelCNN((1, 4, 4), blocks=-1), "blocks: expected no negative number, got -1"),
        (lambda: GatedPixelCNN((1, 4, 4), layers=0), "layers: expected at least 1, got 0"),
        (lambda: GatedPixelCNN((1, 4, 4), kernel_size=2), "kernel_size: expected odd"),
        (lambda: PixelCNNPlusPlus((4, 4)), r"event_shape: expected the shape \(C, H, W\) of an image, got \(4, 4\)"),
        (lambda: PixelCNNPlusPlus((1, 6, 4)), "levels: expected sides that can be halved 2 times, got 6 x 4"),
        (lambda: PixelCNNPlusPlus((1, 4, 4), blocks=0), "blocks, levels: expected at least 1 of each, got 0 and 3"),
        (
            lambda: PixelCNNPlusPlus((3, 4, 4), head=heads.Bernoulli()),
            "head: expected a DiscretizedLogisticMixture for 3 colours, got Bernoulli",
        ),
    ],
)
def test_errors(make, match):
    with pytest.raises(ValueError, match=match):
        make()
