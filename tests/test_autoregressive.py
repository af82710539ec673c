"""Autoregressive models: exact densities, exact samplers, sites, against definitions and known answers."""

import itertools
import math

import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyro_dgm import models as m
from pyro_dgm import transforms as t
from pyro_dgm.distributions import Autoregressive, Mixture, heads
from pyro_dgm.distributions.heads.continuous import choose
from pyro_dgm.models.tractable.autoregressive import AutoregressiveModel
from pyro_dgm.nn import Conditioner, MaskedMLP, NaiveWalk

from .causal import total_probability
from .statistics import within
from .zoo import MODELS, C, perturb

ROWS = [name for name, row in MODELS.items() if isinstance(row.build(row.contexts[0]), AutoregressiveModel)]
every_row = pytest.mark.parametrize("name", ROWS)


def member(p):
    """One order of a model that averages over several."""
    return p.components[-1] if isinstance(p, Mixture) else p


def build(name, context=0):
    model = MODELS[name].build(context).double()
    return model, member(model(torch.randn(2, context).double()) if context else model())


# --- the density ---------------------------------------------------------------------------------------------------

TEN_PIXELS = {
    "FVBN": lambda: m.FVBN(10),
    "MADE": lambda: m.MADE(10, hidden_features=(12, 15), order=torch.randperm(10).tolist()),
    "MADE narrow": lambda: m.MADE(10, hidden_features=(4,)),
    "MADE residual, 3 masks": lambda: m.MADE(10, hidden_features=(12, 12), masks=3, random_order=True, residual=True),
    "NADE": lambda: m.NADE(10, hidden_features=7, order=torch.randperm(10).tolist()),
    "NADE of more than one block": lambda: m.NADE(10, hidden_features=7, activation=nn.Tanh),
    "EoNADE": lambda: m.EoNADE(10, hidden_features=(7,), orders=3),
    "EoNADE deep": lambda: m.EoNADE(10, hidden_features=(7, 6), orders=2),
    "ConvNADE": lambda: m.ConvNADE((1, 3, 3), hidden_channels=4, blocks=1, orders=2),
}


@pytest.mark.parametrize("name", TEN_PIXELS)
def test_probabilities_of_all_states_sum_to_one(name):
    torch.manual_seed(0)
    p = perturb(TEN_PIXELS[name](), 0.5)()
    assert total_probability(p, 2) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("make", [
    lambda head: m.MADE(12, hidden_features=(16,), head=head), lambda head: m.NADE(12, hidden_features=5, head=head),
    lambda head: m.EoNADE(12, hidden_features=(5,), head=head, orders=1), lambda head: m.FVBN(12, head=head),
], ids=["MADE", "NADE", "EoNADE", "FVBN"])  # fmt: skip
@pytest.mark.parametrize("head", [heads.Categorical(3), heads.DiscretizedLogisticMixture(1, 3)], ids=["softmax", "mix"])
def test_probabilities_of_two_by_two_pixels_with_three_levels_of_three_colours_sum_to_one(make, head):
    torch.manual_seed(0)
    p = perturb(make(head), 0.5)()
    assert total_probability(p, 3) == pytest.approx(1, abs=1e-5)


@every_row
def test_jacobian_of_the_conditioner_is_strictly_lower_triangular_and_full(name):
    """Also that the check would notice: in the reverse order it fails."""
    for context in (0, C):
        _, p = build(name, context)
        size, sequence = p.event_shape.numel(), p.conditioner.sequence
        seen = torch.zeros(size, size, dtype=torch.bool)
        for seed in range(8):  # rectifiers hide some entries of some inputs
            torch.manual_seed(seed)
            s = p.conditioner.in_per_feature
            x = 2 * torch.randn(p.event_shape[0] * s, *p.event_shape[1:], dtype=torch.float64)
            c = None if p.context is None else p.context[0]
            jacobian = torch.autograd.functional.jacobian(lambda v, c=c, f=p.conditioner: f(v, c).flatten(0, -2), x)
            jacobian = jacobian.reshape(size, -1, p.event_shape[0], s, size // p.event_shape[0])
            seen |= (jacobian != 0).any(1).any(2).flatten(1)
        ordered = seen[sequence][:, sequence]
        assert not ordered.triu().any()
        assert name.startswith(NEAR) or ordered.sum() == size * (size - 1) // 2
        assert size == 1 or seen[sequence[::-1]][:, sequence[::-1]].triu().any()


NEAR = ("PixelCNN", "GatedPixelCNN", "PixelRNN")  # kernels of limited reach: their own tests say what they see


@every_row
def test_density_is_the_product_of_the_conditionals_of_a_walk(name):
    _, p = build(name, C)
    x = p.sample((3,))
    walk = NaiveWalk(p.conditioner, p.context.expand(3, 2, C).reshape(6, C), 6)
    total = 0.0
    for i in p.conditioner.sequence:
        column = x.reshape(6, -1)[:, i]
        head = p.head.at(i)
        total = total + head(walk.output()[..., : head.size]).log_prob(column)
        walk.see(p.seen(i, column))
    torch.testing.assert_close(p.log_prob(x), total.reshape(3, 2), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(p.conditional_log_probs(x).sum(tuple(range(-p.event_dim, 0))), p.log_prob(x))


# --- samplers ------------------------------------------------------------------------------------------------------


@every_row
@pytest.mark.parametrize("context", [0, C])
def test_samplers_draw_the_same_sample_bit_for_bit(name, context):
    _, p = build(name, context)
    observed = torch.zeros(p.event_shape.numel(), dtype=torch.bool)
    observed[p.conditioner.sequence[::2]] = True
    settings = {"given": p.sample((50,)), "observed": observed.reshape(p.event_shape)}
    for more in ({}, settings):
        drawn = []
        for method in ("incremental", "naive", "jacobi"):
            torch.manual_seed(3)
            drawn.append(p.draw((50,), method=method, **more))
        exactly = not any(p.head.at(i).levels is None for i in range(len(observed)))
        for other in drawn[1:]:
            torch.testing.assert_close(other, drawn[0], atol=0 if exactly else 1e-9, rtol=0 if exactly else 1e-9)
        if more:
            shown = observed.reshape(p.event_shape)
            assert torch.equal(drawn[0][..., shown], settings["given"][..., shown])


@every_row
def test_selected_data_go_on_as_if_they_were_alone(name):
    _, p = build(name, C)
    c = torch.randn(5, C).double()
    x = p.sample((5,))[:, 0].reshape(5, -1)
    index = torch.tensor([3, 3, 0])
    with torch.no_grad():
        one, other = p.conditioner.walk(c, 5), p.conditioner.walk(c[index], 3)
        for step, i in enumerate(p.conditioner.sequence):
            a, b = one.output(), other.output()
            torch.testing.assert_close(a if step > 1 else a[index], b, atol=1e-12, rtol=1e-12)
            if step == 1:
                one.select(index)
            one.see(p.seen(i, x[index, i] if step >= 1 else x[:, i]))
            other.see(p.seen(i, x[index, i]))


def test_samples_have_the_probabilities_of_their_states():
    """Chi-square with 15 degrees of freedom over 20,000 draws: fails by chance once in 10,000 seeds."""
    for name in ("MADE", "MADE-masks", "NADE", "EoNADE-deep"):
        p = MODELS[name].build()()
        torch.manual_seed(5)
        states = torch.tensor([*itertools.product([0.0, 1.0], repeat=4)])
        codes = (p.sample((20_000,)) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
        expected = 20_000 * p.log_prob(states).exp()
        statistic = ((torch.bincount(codes, minlength=16) - expected) ** 2 / expected).sum().item()
        assert statistic < 44.3, name


@pytest.mark.parametrize("head", [heads.Normal(), heads.NormalMixture(3), heads.LogisticMixture(3),
                                  heads.Monotone(t.Spline(5))], ids=lambda h: type(h).__name__)  # fmt: skip
def test_reparameterised_draws_have_the_density_and_its_gradient(head):
    """E[x^2] and its gradient by samples against quadrature, five standard errors: fails once in a million seeds."""
    torch.manual_seed(0)
    theta = (0.5 * torch.randn(head.size, dtype=torch.float64)).requires_grad_()
    grid = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
    density = head(theta.expand(len(grid), -1)).log_prob(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)
    exact = torch.trapezoid(density * grid.square(), grid)
    gradient = torch.autograd.grad(exact, theta)[0]
    n = 40_000
    wide = theta.detach().expand(n, -1).clone().requires_grad_()
    x = head.draw(wide, head.noise((n,), wide))
    assert within(x.detach().square(), exact.item(), 5)
    gradients = torch.autograd.grad(x.square().sum(), wide)[0]
    error = gradients.std(0) / math.sqrt(n)
    assert ((gradients.mean(0) - gradient).abs() < 5 * error + 1e-9).all()


def test_a_component_of_no_probability_is_never_drawn():
    """Rounded, probabilities sum to less than the largest noise below 1; its draws would have infinite gradients."""
    torch.manual_seed(0)
    logits, largest = torch.randn(10_000, 10), torch.full((10_000, 1), 1 - 2**-24)
    logits[:, -1] = -200
    assert (logits.softmax(-1).cumsum(-1)[:, -1:] <= largest).any()
    assert (choose(logits, largest) < 9).all()


@pytest.mark.parametrize("x", [0.0, 1.0, 128.0, 255.0])
def test_levels_have_finite_scores_and_gradients_whatever_a_network_says(x):
    torch.manual_seed(0)
    for head in (heads.DiscretizedLogisticMixture(4), heads.Categorical(256)):
        theta = (1000 * torch.randn(200, head.size)).requires_grad_()
        scores = head.log_prob(torch.full((200,), x), theta)
        assert scores.isfinite().all() and torch.autograd.grad(scores.sum(), theta)[0].isfinite().all()


@pytest.mark.parametrize("method", ["incremental", "naive", "jacobi"])
def test_no_sample_at_all_and_masks_of_numbers_are_welcome(method):
    p, given = m.NADE(4, 2, hidden_features=5)(torch.zeros(3, 2)), torch.ones(4)
    assert p.draw((0, 2), method=method).shape == (0, 2, 3, 4)
    assert (p.draw((2,), method=method, given=given, observed=given.byte()) == 1).all()


def test_rsample_is_refused_where_the_head_has_none_and_carries_gradients_elsewhere():
    with pytest.raises(NotImplementedError, match="not reparameterised"):
        m.MADE(4, hidden_features=(8,))().rsample()
    model = MODELS["RNADE"].build()
    model().rsample((4,)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EoNADE", "EoNADE-deep", "ConvNADE"])
def test_order_agnostic_loss_is_the_mean_over_all_orders(name):
    """Over all 24 orders of 4 numbers, against 4000 estimates, five standard errors: fails once in a million seeds."""
    model = MODELS[name].build()
    x = (torch.rand(3, *model.event_shape) < 0.5).float()
    orders = [*itertools.permutations(range(4))]
    with torch.no_grad():
        exact = -torch.stack([model.given_order(o).log_prob(x) for o in orders]).mean().item()
        torch.manual_seed(2)
        estimates = torch.stack([model.order_agnostic_loss(x) for _ in range(4000)]).double()
    assert within(estimates, exact, 5)


def test_masks_of_made_are_kept_and_fresh_ones_differ():
    model = MODELS["MADE-masks"].build()
    twin = m.MADE(4, hidden_features=(6, 6), masks=3, random_order=True, residual=True)
    assert torch.equal(model.orders, twin.orders) and torch.equal(model.degrees, twin.degrees)
    assert not torch.equal(model.orders[1], model.orders[2])
    fresh = m.MADE(9, hidden_features=(12,), masks=2, random_order=True, fresh=True)
    x = (torch.rand(5, 9) < 0.5).float()
    perturb(fresh)
    assert len({fresh.order_agnostic_loss(x).item() for _ in range(5)}) == 5


def test_nade_differentiates_as_the_loop_does():
    torch.manual_seed(0)
    model = perturb(m.NADE(37, 2, hidden_features=5, order=torch.randperm(37).tolist()), 0.3).double()
    network, c, x = model.conditioner, torch.randn(3, 2).double(), (torch.rand(3, 37) < 0.5).double()

    def loop():
        a = network.c + network.context(c)
        out = [None] * 37
        for d in network.sequence:
            out[d] = torch.einsum("nh,ph->np", torch.sigmoid(a), network.v[d]) + network.b[d]
            a = a + x[:, d, None] * network.w[d]
        return torch.stack(out, 1)

    weights = torch.randn(3, 37, 1).double()
    expected = torch.autograd.grad((loop() * weights).sum(), [*network.parameters()])
    found = torch.autograd.grad((network(x, c) * weights).sum(), [*network.parameters()])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_a_table_of_mixed_columns_is_fitted_to_its_distribution():
    """Columns that depend on each other, an entropy in closed form: the fit comes within 0.05 nats of it."""
    torch.manual_seed(0)
    n = 6000
    k = torch.randint(3, (n,)).float()
    y = 2 * k + 0.5 * torch.randn(n)
    b = (torch.rand(n) < torch.sigmoid(y - 2)).float()
    x = torch.stack([k, y, b], -1)
    model = m.MADE(
        3, hidden_features=(32,), head=heads.Columns([heads.Categorical(3), heads.Normal(), heads.Bernoulli()])
    )
    from pyro_dgm import fit

    fit(model, x[:5000], max_epochs=30, seed=0, progress=False, compile=False)
    true = -math.log(3) + dist.Normal(2 * k, 0.5).log_prob(y) + dist.Bernoulli(logits=y - 2).log_prob(b)
    with torch.no_grad():
        assert (true - model().log_prob(x))[5000:].mean().item() < 0.05


def test_a_network_of_ones_own_that_sees_too_much_is_found():
    class Shifted(Conditioner):
        def __init__(self, by):
            super().__init__((4,))
            self.by, self.weight = by, nn.Parameter(torch.ones(4, 2))

        def forward(self, x, context=None):
            return torch.nn.functional.pad(x, (self.by, -self.by))[..., None] * self.weight

    x = torch.randn(4)
    model = m.Autoregressive(Shifted(1), heads.Normal(), standardize=False)
    model.check(x)
    y = torch.cat([torch.zeros(1), x[:-1]])
    scale = 1e-3 + torch.nn.functional.softplus(y + math.log(math.expm1(1 - 1e-3)))
    torch.testing.assert_close(model().log_prob(x), dist.Normal(y, scale).log_prob(x).sum())
    assert model().sample((3,)).shape == (3, 4)
    with pytest.raises(ValueError, match="number 0 depend on itself or on a later one"):
        m.Autoregressive(Shifted(0), heads.Normal()).check(x)
    with pytest.raises(ValueError, match="in_per_feature=3"):
        m.Autoregressive(Shifted(1), heads.Categorical(3))


def test_units_of_whole_numbers_far_from_zero_are_found():
    model = m.RNADE(2)
    model.initialize(torch.tensor([[10_000_000, 5], [10_000_002, 5]]).expand(5000, 2, 2).reshape(-1, 2))
    assert model.head.loc.tolist() == [10_000_001, 5] and model.head.scale.tolist() == [1, 1]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "match"), [
    (lambda: m.MADE(10, hidden_features=(4,), direct=False), "expected every width >= 9"),
    (lambda: m.MADE(4, hidden_features=(8, 9), residual=True), "expected equal widths"),
    (lambda: m.MADE(4, masks=0), "masks: expected at least 1"),
    (lambda: m.MADE(4, order=[0, 1, 1, 2]), "expected a permutation"),
    (lambda: m.NADE(4, activation=nn.SiLU), "activation: expected one of torch.nn's Sigmoid, Tanh, ReLU, got SiLU"),
    (lambda: m.EoNADE(4, hidden_features=()), "at least one hidden layer"),
    (lambda: m.EoNADE(4, orders=0), "orders: expected at least 1"),
    (lambda: heads.Categorical(1), "levels: expected at least 2"),
    (lambda: heads.NormalMixture(0), "components: expected at least 1"),
    (lambda: heads.Columns([]), "heads: expected one for each feature"),
    (lambda: m.MADE(4, head=heads.Columns([heads.Normal()] * 3)), r"heads: expected one for each .* \(4,\), got 3"),
    (lambda: heads.Normal(min_scale=1.0), "min_scale: expected a number in"),
    (lambda: m.MADE(4).given_order(torch.tensor([0, 1, 1, 2])), "order: expected a permutation"),
    (lambda: m.MADE(3, head=heads.Categorical(3))().conditional_log_probs(torch.full((3,), 3)), "within the support"),
    (lambda: Autoregressive(MaskedMLP(3, 5), heads.Categorical(5)), "in_per_feature=5"),
    (lambda: m.MADE(4)().draw(method="quick"), "method: expected"),
    (lambda: m.MADE(4)().draw(given=torch.zeros(4)), "expected both or none"),
    (lambda: m.MADE(4)().as_sites("x", by="pixel"), "by: expected"),
])  # fmt: skip
def test_mistakes_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
