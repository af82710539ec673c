"""PixelCNN, gated PixelCNN: sums to one, who sees whom, walks against the definition."""

import itertools

import pytest
import torch
from torch import nn

from pyro_dgm.distributions import heads
from pyro_dgm.models import GatedPixelCNN, PixelCNN
from pyro_dgm.nn import NaiveWalk
from pyro_dgm.nn.causal_convolution import CausalConv2d, VerticalConv2d

from .zoo import perturb

MAKE = {
    "PixelCNN": lambda shape, c=0, **k: PixelCNN(
        shape, c, **{"hidden_channels": 5, "blocks": 4, "kernel_size": 3, **k}
    ),
    "GatedPixelCNN": lambda shape, c=0, **k: GatedPixelCNN(
        shape, c, **{"hidden_channels": 5, "layers": 4, "first_kernel_size": 3, **k}
    ),
}
every_kind = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def build(make, shape, context=0, head=None, **settings):
    torch.manual_seed(1)
    return perturb(make(shape, context, head=head, **settings), 0.3).double()


def states(levels, *shape):
    numbers = torch.Size(shape).numel()
    return torch.tensor([*itertools.product(range(levels), repeat=numbers)]).double().reshape(-1, *shape)


# --- sums ----------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("context", [0, 2])
def test_sums_to_one_over_all_binary_images(make, context):
    model = build(make, (1, 3, 3), context)
    p = model(torch.randn(context).double() if context else None)
    probabilities = p.log_prob(states(2, 1, 3, 3)).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-10)
    assert probabilities.std() > 1e-5


@every_kind
@pytest.mark.parametrize("head", [heads.Categorical(3), heads.Categorical(3, True)])
def test_sums_to_one_over_all_coloured_images(make, head):
    p = build(make, (3, 1, 2), head=head)()
    assert p.log_prob(states(3, 3, 1, 2)).exp().sum().item() == pytest.approx(1, abs=1e-10)
    p = build(make, (3, 2, 2))()
    assert p.log_prob(states(2, 3, 2, 2)).exp().sum().item() == pytest.approx(1, abs=1e-10)


# --- who sees whom -------------------------------------------------------------------------------------------------


def seen_by(model, shape):
    """Whether each number's parameters depend on each number seen, [number, seen number], by gradients."""
    f, context = model.conditioner, model.context
    c = torch.randn(context).double() if context else None
    rows = 0
    for _ in range(3):
        x = torch.randn(shape).double()
        jacobian = torch.autograd.functional.jacobian(lambda x: f(x, c), x)
        rows = rows + jacobian.abs().sum(-4).reshape(x.numel(), x.numel())
    return rows > 0


def place(number, shape):
    _, height, width = shape
    return number // (height * width), number // width % height, number % width


@every_kind
@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 4, 4), (3, 2, 3)])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_a_number_depends_on_exactly_those_before_it_but_for_the_blind_spot(make, shape, activation):
    """PixelCNN with a first kernel of 3: pixel (i, j) does not see (k, l) where l - j > i - k > 0."""
    model = build(make, shape, head=heads.NormalMixture(1), activation=activation, hidden_channels=6)
    seen = seen_by(model, shape)
    blind = 0
    for of, by in itertools.product(range(len(seen)), repeat=2):
        (c, i, j), (d, k, m) = place(of, shape), place(by, shape)
        expected = (k, m, d) < (i, j, c)
        if isinstance(model, PixelCNN) and expected and k < i and m - j > i - k:
            expected, blind = False, blind + 1
        assert bool(seen[of, by]) == expected, f"{(c, i, j)} by {(d, k, m)}"
    assert blind == (0 if isinstance(model, GatedPixelCNN) else {5: 35, 4: 44, 2: 9}[shape[1]])


def test_a_larger_first_kernel_moves_the_blind_spot_away():
    shape = (1, 5, 5)
    seen = seen_by(build(MAKE["PixelCNN"], shape, head=heads.NormalMixture(1), kernel_size=5), shape)
    for of, by in itertools.product(range(25), repeat=2):
        (_, i, j), (_, k, m) = place(of, shape), place(by, shape)
        assert bool(seen[of, by]) == ((k, m) < (i, j) and not (k < i and m - j > i - k + 1))


def test_the_order_of_a_conditioner_is_the_raster():
    f = build(MAKE["PixelCNN"], (2, 2, 3)).conditioner
    found = [place(number, (2, 2, 3)) for number in f.sequence]
    assert found == [(c, i, j) for i in range(2) for j in range(3) for c in range(2)]


# --- walks ---------------------------------------------------------------------------------------------------------

CASES = {
    "coins": ((1, 5, 4), None),
    "levels": ((1, 4, 3), heads.Categorical(4, ordered=True)),
    "colours": ((3, 3, 4), heads.Categorical(3)),
    "mixture": ((2, 3, 3), heads.DiscretizedLogisticMixture(2, 5)),
}
every_case = pytest.mark.parametrize("case", CASES)


def draws(p, n, **settings):
    out = []
    for method in ("incremental", "naive", "jacobi"):
        torch.manual_seed(5)
        out.append(p.draw(n, method=method, **settings))
    return out


@every_kind
@every_case
@pytest.mark.parametrize("batch", [None, (2,), (2, 1)])
def test_all_samplers_draw_the_same(make, case, batch):
    """With no context, one, and several; and with some numbers given."""
    shape, head = CASES[case]
    model = build(make, shape, 0 if batch is None else 2, head)
    p = model(None if batch is None else torch.randn(*batch, 2).double())
    incremental, naive, jacobi = draws(p, (3,))
    assert torch.equal(incremental, naive) and torch.equal(jacobi, naive)
    assert naive.std() > 0
    observed = torch.rand(shape) < 0.5
    given = incremental.flip(0)
    incremental, naive, jacobi = draws(p, (3,), given=given, observed=observed)
    assert torch.equal(incremental, naive) and torch.equal(jacobi, naive)
    assert torch.equal(incremental[..., observed], given[..., observed])


@every_kind
@every_case
@pytest.mark.parametrize("context", [0, 1, 4])
def test_a_walk_goes_on_with_other_data(make, case, context):
    """After a selection at any place, the outputs are those of the definition."""
    shape, head = CASES[case]
    model = build(make, shape, 2 if context else 0, head)
    f, size = model.conditioner, torch.Size(shape).numel()
    index = torch.tensor([2, 0, 0, 3, 1, 2])
    for at in (0, size // 2 + 1):
        c = torch.randn(context, 2).double() if context else None
        walks = f.walk(c, 4), NaiveWalk(f, c, 4)
        for k in range(size):
            outputs = [walk.output() for walk in walks]
            torch.testing.assert_close(*outputs, atol=1e-10, rtol=1e-10)
            x = torch.randn(f.in_per_feature, len(outputs[0])).double()
            for walk in walks:
                walk.see(x)
                if k == at:
                    walk.select(index)


@every_kind
def test_gradients_through_a_walk_are_those_of_the_definition(make):
    model = build(make, (2, 3, 3), 2, heads.NormalMixture(2), activation=nn.SiLU)
    p = model(torch.randn(2, 2).double())
    found = []
    for naive in (False, True):
        torch.manual_seed(2)
        x = p._draw(torch.Size((3, 2, 2, 3, 3)), naive=naive)
        found.append([x, *torch.autograd.grad(x.sin().sum(), list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)
        assert a.abs().sum() > 0


@every_kind
def test_sites_have_the_density_of_the_image(make):
    model = build(make, (2, 2, 3), 2)
    p = model(torch.randn(4, 2).double())
    import pyro
    from pyro import poutine

    with pyro.plate("data", 4):
        for by in ("number", "row"):
            trace = poutine.trace(p.as_sites).get_trace("x", by)
            torch.testing.assert_close(trace.log_prob_sum(), p.log_prob(trace.nodes["_RETURN"]["value"]).sum())


# --- details -------------------------------------------------------------------------------------------------------


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
        (lambda: PixelCNN((4, 4)), r"event_shape: expected \(channels, height, width\), got \(4, 4\)"),
        (lambda: PixelCNN((1, 4, 4), kernel_size=4), "kernel_size: expected odd"),
        (lambda: PixelCNN((1, 4, 4), kernel_size=1), "kernel_size: expected odd numbers, the first at least 3"),
        (lambda: PixelCNN((3, 4, 4), hidden_channels=2), "hidden_channels: expected at least one for each of 3"),
        (lambda: PixelCNN((1, 4, 4), blocks=-1), "blocks"),
        (lambda: GatedPixelCNN((1, 4, 4), layers=0), "layers: expected at least 1"),
        (lambda: GatedPixelCNN((1, 4, 4), kernel_size=2), "kernel_size: expected odd"),
    ],
)
def test_errors(make, match):
    with pytest.raises(ValueError, match=match):
        make()
