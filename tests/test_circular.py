"""Flows of angles against what is known: integrals, the circle's closure, samples and scores, a von Mises's entropy."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.distributions import constraints

from pyro_dgm import fit, load, save
from pyro_dgm.models import NCSF, NormalizingFlow, RealNVP
from pyro_dgm.models.tractable.flows.circular import UniformTorus
from pyro_dgm.transforms import CircularSpline, Coupling, Harmonics, MaskedAutoregressive, Wrap

from .test_transforms import by_passes
from .zoo import perturb

KINDS = {
    "circle": (1, {}),
    "couplings": (2, {}),
    "autoregressive": (2, {"autoregressive": True}),
}
quickly = partial(fit, optimizer=partial(torch.optim.Adam, lr=0.02), batch_size=500, seed=0, progress=False)
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind, context=0):
    """A flow far from uniform, whose conditioners are smooth."""
    features, settings = KINDS[kind]
    torch.manual_seed(2)
    flow = NCSF(features, context, transforms=2, bins=5, hidden_features=(16,), activation=nn.SiLU, **settings)
    return perturb(flow).double()


def circle(n):
    """Angles in the middle of n equal arcs."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * math.pi / n) - math.pi


@every_kind
@pytest.mark.parametrize("context", [0, 2])
def test_density_integrates_to_one(kind, context):
    flow = build(kind, context)
    d, n = flow.event_shape.numel(), 20_000 if kind == "circle" else 300
    x = torch.cartesian_prod(*[circle(n)] * d).reshape(-1, d)
    c = torch.randn(context, dtype=torch.float64) if context else None
    with torch.no_grad():
        p = flow(c).log_prob(x).exp()
    assert (p.mean() * (2 * math.pi) ** d).item() == pytest.approx(1.0, abs=1e-4)
    assert p.max() > 3 * p.min()  # far from uniform


@every_kind
@pytest.mark.parametrize("context", [0, 2])
def test_density_is_continuous_where_the_circle_is_cut(kind, context):
    """The density for every angle and form, and its slope: no knot lies at the cut."""
    flow = build(kind, context)
    c = torch.randn(context, dtype=torch.float64) if context else None
    left = torch.full((), -math.pi, dtype=torch.float64)
    right = (-left).nextafter(left)
    for i in range(flow.event_shape.numel()):
        x = circle(50)[:, None].repeat(1, flow.event_shape.numel()).flip(0)
        ends = [torch.where(torch.arange(x.shape[1]) == i, end, x).requires_grad_() for end in (left, right)]
        before, after = (flow(c).log_prob(x) for x in ends)
        torch.testing.assert_close(before, after, atol=1e-9, rtol=0)
        slopes = [torch.autograd.grad(p.sum(), x)[0][:, i] for p, x in zip((before, after), ends, strict=True)]
        torch.testing.assert_close(*slopes, atol=1e-7, rtol=0)
        assert slopes[0].abs().max() > 1e-2


def test_a_conditioner_that_reads_the_angle_itself_would_be_noticed():
    ends = torch.tensor([[-math.pi, 1.0], [math.pi - 1e-12, 1.0]], dtype=torch.float64)
    for embed in (None, Harmonics()):
        layers = [Coupling([1, 0], CircularSpline(5), (16,), transform_all=True, embed=embed).inv for _ in range(2)]
        flow = NormalizingFlow(2, layers, support=Wrap(), standardize=False, base=UniformTorus(2))
        left, right = perturb(flow).double()().log_prob(ends)
        assert ((left - right).abs() < 1e-9) == (embed is not None)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_lie_on_the_circle_with_the_density_of_the_way_back(kind, dtype):
    flow = build(kind).to(dtype)
    p = flow()
    with torch.no_grad():
        x, log_prob = p.rsample_and_log_prob((20_000,))
    assert x.dtype == dtype and p.support.check(x).all()
    assert x.min() < -3.1 and x.max() > 3.1
    tolerance = 1e-8 if dtype == torch.float64 else 2e-3
    torch.testing.assert_close(p.log_prob(x), log_prob, atol=tolerance, rtol=0)
    # the mean of cos and sin by samples against a grid; 5 standard errors fail once in 10^6 runs
    d = len(x[0])
    grid = torch.cartesian_prod(*[circle(20_000 if d == 1 else 300)] * d).reshape(-1, d).to(dtype)
    weight = p.log_prob(grid).detach().softmax(0)
    for f in (torch.cos, torch.sin):
        error = f(x).mean(0) - (weight[:, None] * f(grid)).sum(0)
        assert (error.abs() < 5 * f(x).std(0) / math.sqrt(len(x)) + 1e-4).all()


@every_kind
def test_values_outside_are_refused_and_without_validation_taken_for_the_angle_they_are(kind):
    flow = build(kind)
    assert isinstance(flow.support.base_constraint, constraints.half_open_interval)
    x = flow().sample((20,))
    for turns in (1, -2):
        with pytest.raises(ValueError, match="within the support"):
            flow().log_prob(x + 2 * math.pi * turns)
    with pytest.raises(ValueError, match="within the support"):
        flow().log_prob(torch.full_like(x, math.pi))
    with pyro.validation_enabled(False):
        turned = flow().log_prob(x + 2 * math.pi * torch.tensor([[1.0], [-2.0]]).double().repeat(10, 1))
    torch.testing.assert_close(turned, flow().log_prob(x), atol=1e-8, rtol=0)


@pytest.mark.parametrize("kappa", [0.5, 4.0])
def test_fit_to_a_von_mises(kappa):
    """Its mean at the cut: the score of new data is the entropy within 0.015 nats beside their own mean."""
    p = dist.VonMises(torch.tensor(math.pi), torch.tensor(kappa))
    x, new = p.sample((4000, 1)), p.sample((20_000, 1))
    flow = NCSF(1, transforms=1, hidden_features=(8,))
    quickly(flow, x, max_epochs=25)
    with torch.no_grad():
        gap = (p.log_prob(new).squeeze(-1) - flow().log_prob(new)).mean().item()
    assert -1e-3 < gap < 0.015


def test_one_angle_follows_its_context():
    """A von Mises whose mean goes around with the context, which ends where it began."""
    c = 2 * math.pi * torch.rand(4000, 1) - math.pi
    p = dist.VonMises(c, torch.tensor(4.0))
    x, context = p.sample(), Harmonics()(c).flatten(-2)
    flow = NCSF(1, 2, transforms=2, hidden_features=(16,))
    quickly(flow, x, context, max_epochs=25)
    with torch.no_grad():
        gap = (p.log_prob(x).squeeze(-1) - flow(context).log_prob(x)).mean().item()
    assert gap < 0.05


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("context", [0, 2])
def test_inverse_of_angles_that_computes_units_once_is_that_of_whole_passes(context, gradients):
    for order, hidden in (([2, 0, 3, 1], (9,)), (None, (8, 13)), (None, ())):
        t = MaskedAutoregressive(4, CircularSpline(4), order, hidden, context, embed=Harmonics(2))
        t = perturb(t, 0.4).double()
        y = 2 * torch.rand(5, 4, dtype=torch.float64) - 1
        c = torch.randn(5, context, dtype=torch.float64) if context else None
        with torch.set_grad_enabled(gradients):
            found, expected = t.inverse_and_ladj(y, c), by_passes(t, y, c)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_both_numbers_of_an_angle_are_seen_by_later_angles_only():
    order = [2, 0, 3, 1]
    t = perturb(MaskedAutoregressive(4, CircularSpline(4), order, (12, 9), activation=nn.Tanh, embed=Harmonics(2)))
    seen = Harmonics(2)(torch.rand(4)).flatten()
    slope = torch.autograd.functional.jacobian(lambda v: t.conditioner(v)[:, 0], seen).unflatten(-1, (4, 4))
    for i in range(4):
        for j in range(4):
            assert (slope[i, j] != 0).all() if order[j] < order[i] else (slope[i, j] == 0).all()


def test_layers_of_the_users_own_are_stored_with_their_embedding(tmp_path):
    layers = [Coupling([1, 0, 1], CircularSpline(4), (8,), embed=Harmonics(2), transform_all=True)]
    flow = perturb(NormalizingFlow(3, layers, standardize=False))
    save(flow, tmp_path / "flow.pt")
    x = 2 * torch.rand(5, 3) - 1
    again = load(tmp_path / "flow.pt")
    assert again.transform.transforms[0].embed.size == 4
    torch.testing.assert_close(again.encode(x), flow.encode(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Harmonics(0), "order: expected at least 1"),
        (lambda: NCSF(2, autoregressive=True, masks=[[True, False]]), "masks: expected None"),
        (lambda: NCSF(1, masks=[[True]]), "masks: expected None"),
        (lambda: NCSF(2).tempered(0.7), "latent of reals"),
        (lambda: NCSF(2).with_support(constraints.positive), "constraint: NCSF has one support"),
        (lambda: RealNVP(2, support=Wrap()).tempered(-1.0), "temperature: expected a positive"),
    ],
)
def test_errors_say_what_was_expected(call, match):
    with pytest.raises(ValueError, match=match):
        call()
