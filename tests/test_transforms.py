"""Bijections against autograd: the log-determinant both ways, and a guard that the checker can fail."""

import copy
import pickle

import pyro.distributions.transforms as T
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.distributions import constraints

from pyro_dgm import transforms as t
from pyro_dgm.transforms.coupling import Partition

from .zoo import C, perturb
from .zoo_transforms import TRANSFORMS

NAMES = [(name, context) for name, row in TRANSFORMS.items() for context in ([0, C] if row.conditional else [0])]
IDS = [f"{name}-context" if c else name for name, c in NAMES]
every_transform = pytest.mark.parametrize(("name", "context"), NAMES, ids=IDS)


def slogdet(f, x):
    return torch.linalg.slogdet(torch.autograd.functional.jacobian(f, x).reshape(x.numel(), -1))[1]


def check_log_determinant(transform, x, context=None):
    """Fails unless both log-determinants are those of autograd's Jacobian and the inverse inverts."""
    y, ladj = transform.forward_and_ladj(x, context)
    back, inverse_ladj = transform.inverse_and_ladj(y, context)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=1e-8)
    ladj, inverse_ladj = ladj.expand(len(x)), inverse_ladj.expand(len(x))
    for i in range(len(x)):
        c = None if context is None else context[i]
        forward = slogdet(lambda v, c=c: transform.forward_and_ladj(v, c)[0], x[i])
        inverse = slogdet(lambda v, c=c: transform.inverse_and_ladj(v, c)[0], y[i].detach())
        torch.testing.assert_close(ladj[i], forward, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(inverse_ladj[i], inverse, atol=1e-8, rtol=1e-8)


def build(name, context):
    row = TRANSFORMS[name]
    x = torch.randn(5, *row.shape, dtype=torch.float64)
    c = torch.randn(5, context, dtype=torch.float64) if context else None
    return row.build(context), x, c


@every_transform
def test_log_determinant(name, context):
    check_log_determinant(*build(name, context))


@every_transform
def test_values_alone_are_those_of_the_passes(name, context):
    """With gradient, where splines have one way, and without, where they skip what only the slope takes."""
    transform, x, c = build(name, context)
    y = transform.forward_and_ladj(x, c)[0].detach()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(transform.forward_value(x, c), y, atol=1e-10, rtol=0)
            torch.testing.assert_close(transform.inverse_value(y, c), transform.inverse_and_ladj(y, c)[0])


@pytest.mark.parametrize("shape", [(7,), (3, 7)])
def test_what_is_restored_feature_by_feature_can_be_viewed(shape):
    transform, y = t.MaskedAutoregressive(4), torch.randn(*shape, 4)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert transform.inverse_value(y).is_contiguous() and transform.inverse_and_ladj(y)[0].is_contiguous()


class Doubled(t.Transform):
    """A transform whose log-determinants are twice what they should be, consistently."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward_and_ladj(self, x, context=None):
        y, ladj = self.inner.forward_and_ladj(x, context)
        return y, 2 * ladj

    def inverse_and_ladj(self, y, context=None):
        x, ladj = self.inner.inverse_and_ladj(y, context)
        return x, 2 * ladj


VOLUME_PRESERVING = {"Coupling-Shift", "MaskedAutoregressive-Shift", "Permutation", "Squeeze", "Householder"}


@every_transform
def test_checker_can_fail(name, context):
    if name in VOLUME_PRESERVING:
        _, x, c = build(name, context)
        assert (build(name, context)[0].forward_and_ladj(x, c)[1] == 0).all()
        return
    transform, x, c = build(name, context)
    with pytest.raises(AssertionError):
        check_log_determinant(Doubled(transform), x, c)


@every_transform
def test_context_broadcasts_against_data(name, context):
    transform, x, _ = build(name, context)
    c = torch.randn(3, 1, context, dtype=torch.float64) if context else None
    y, ladj = transform.forward_and_ladj(x, c)
    if context:
        assert y.shape[: y.dim() - transform.codomain.event_dim] == (3, 5)
        for k in range(3):
            one, one_ladj = transform.forward_and_ladj(x, c[k])
            torch.testing.assert_close(y[k], one)
            torch.testing.assert_close(ladj.expand(3, 5)[k], one_ladj.expand(5))
    back, _ = transform.inverse_and_ladj(y, c)
    torch.testing.assert_close(back, x.expand_as(back), atol=1e-8, rtol=1e-8)


@every_transform
def test_is_a_transform_of_torch(name, context):
    transform, x, c = build(name, context)
    bound = transform.condition(c)
    y = bound(x)
    torch.testing.assert_close(bound.inv(y), x, atol=1e-8, rtol=1e-8)
    ladj = bound.log_abs_det_jacobian(x, y)
    assert ladj.shape == (5,)
    torch.testing.assert_close(ladj, transform.forward_and_ladj(x, c)[1].expand(5))
    base = dist.Normal(torch.zeros_like(x[0]), 1.0).to_event(transform.domain.event_dim)
    p = dist.TransformedDistribution(base, [bound])
    torch.testing.assert_close(p.log_prob(y), base.log_prob(x) - ladj, atol=1e-8, rtol=1e-8)


@every_transform
def test_inverse_owns_the_parameters(name, context):
    transform, x, c = build(name, context)
    inverse = transform.inv
    assert {id(p) for p in inverse.parameters()} == {id(p) for p in transform.parameters()}
    assert inverse.inv is transform or isinstance(transform, t.Inverse)
    y, ladj = transform.forward_and_ladj(x, c)
    back, inverse_ladj = inverse.forward_and_ladj(y, c)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(inverse_ladj.expand(5), -ladj.expand(5), atol=1e-8, rtol=1e-8)


@every_transform
def test_nothing_is_remembered(name, context):
    transform, x, c = build(name, context)
    for _ in range(2):  # a second backward on the same tensor
        y, ladj = transform.forward_and_ladj(x, c)
        loss = y.square().sum() + ladj.sum()
        if loss.requires_grad:
            loss.backward()
    twin = copy.deepcopy(transform)
    again = pickle.loads(pickle.dumps(transform))
    torch.testing.assert_close(twin.forward_and_ladj(x, c)[0], y, rtol=0, atol=0)
    torch.testing.assert_close(again.forward_and_ladj(x, c)[0], y, rtol=0, atol=0)
    if list(transform.parameters()):
        perturb(transform)
        assert not torch.equal(transform.forward_and_ladj(x, c)[0], y)
        torch.testing.assert_close(twin.forward_and_ladj(x, c)[0], y, rtol=0, atol=0)


@every_transform
def test_state_dict_restores_everything(name, context):
    transform, x, c = build(name, context)
    other = perturb(TRANSFORMS[name].make(context)).double()
    other.load_state_dict(transform.state_dict())
    if name != "Compose-pyro":  # Pyro's random permutation is not in its state
        torch.testing.assert_close(other.forward_and_ladj(x, c)[0], transform.forward_and_ladj(x, c)[0])


# --- single transforms ---------------------------------------------------------------------------------------------


def test_autoregressive_jacobian_is_strictly_ordered_and_full():
    order = [2, 0, 3, 1]
    for context in (0, C):
        transform = perturb(t.MaskedAutoregressive(4, t.Affine(), order, (12, 9), context, nn.Tanh)).double()
        c = torch.randn(context, dtype=torch.float64) if context else None
        x = torch.randn(4, dtype=torch.float64)
        theta = torch.autograd.functional.jacobian(lambda v, n=transform, c=c: n.conditioner(v, c)[:, 0], x)
        for i in range(4):
            for j in range(4):
                assert (theta[i, j] != 0) == (order[j] < order[i])


def by_passes(transform, y, context):
    """The inverse of an autoregressive transform by its definition: a pass of the whole network per feature."""
    x = torch.zeros_like(y)
    for i in transform.conditioner.sequence:
        candidate, ladj = transform.univariate.inverse_and_ladj(y, transform._theta(x, context))
        x = torch.where(torch.arange(y.shape[-1]) == i, candidate, x)
    return x, ladj.sum(-1)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("hidden", [(), (9,), (8, 13)])
def test_inverse_that_computes_units_once_is_that_of_whole_passes(hidden, context, gradients):
    for univariate, order in ((t.Affine(), [2, 0, 3, 1]), (t.Spline(5), None)):
        transform = perturb(t.MaskedAutoregressive(4, univariate, order, hidden, context)).double()
        y = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
        c = torch.randn(3, 5, context, dtype=torch.float64) if context else None
        with torch.set_grad_enabled(gradients):
            found, expected = transform.inverse_and_ladj(y, c), by_passes(transform, y, c)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
        if gradients:
            leaves = [y, *transform.parameters()]
            a, b = (
                torch.autograd.grad(x.sin().sum() + ladj.sum(), leaves, allow_unused=True)
                for x, ladj in (found, expected)
            )
            for g, h, leaf in zip(a, b, leaves, strict=True):
                torch.testing.assert_close(
                    torch.zeros_like(leaf) if g is None else g, torch.zeros_like(leaf) if h is None else h
                )
        if context:
            broadcast = transform.inverse_and_ladj(y[:, :1], c)[0]
            torch.testing.assert_close(broadcast, by_passes(transform, y[:, :1].expand(3, 5, 4), c)[0])


def test_first_feature_depends_on_context_nonlinearly():
    transform = perturb(t.MaskedAutoregressive(3, None, None, (8,), 1), 1.0).double()
    c = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    shift = transform.conditioner(torch.zeros(3, dtype=torch.float64), c)[:, 0, 0]
    assert (shift[0] + shift[2] - 2 * shift[1]).abs() > 1e-3


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: t.Coupling([True, True]), "mask: expected at least one true and one false"),
        (lambda: t.Permutation([0, 0, 1]), "order: expected a permutation of 0..2"),
        (lambda: t.MaskedAutoregressive(9, hidden_features=(4,)), "hidden_features: expected every width >= 8"),
        (lambda: t.MaskedAutoregressive(3, order=[0, 1, 1]), "order: expected a permutation"),
        (lambda: t.Spline(1), "bins: expected at least 2"),
        (lambda: t.Spline(8, -1.0), "bound: expected a positive number"),
        (lambda: t.Support(constraints.boolean), "discrete"),
        (lambda: t.as_transform(3), "expected a pyro_dgm, Pyro or torch transform"),
    ],
)
def test_errors_say_what_was_expected(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_actnorm_is_initialised_once_and_explicitly():
    x = 3 * torch.randn(1000, 2) + torch.tensor([5.0, -1.0])
    for transform, at_input in ((t.ActNorm(2), False), (t.ActNorm(2), True), (t.ActNorm(2).inv, False)):
        before = copy.deepcopy(transform.state_dict())
        transform.inverse_and_ladj(x)
        transform.forward_and_ladj(x)
        assert all(torch.equal(v, before[k]) for k, v in transform.state_dict().items())  # calls change nothing
        transform.initialize(x, at_input=at_input)
        step = transform.forward_and_ladj if at_input else transform.inverse_and_ladj
        z = step(x)[0]
        torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(z.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
        assert next(v for k, v in transform.state_dict().items() if k.endswith("initialized"))


def test_initialisation_passes_through_a_stack():
    x = 10 * torch.randn(500, 3) + 4
    stack = t.Compose([t.ActNorm(3), perturb(t.LULinear(3)), t.Standardize(3)])
    stack.initialize(x)
    z = stack.inverse_and_ladj(x)[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_standardize_survives_constant_columns_and_outliers():
    x = torch.randn(100, 3)
    x[:, 1] = 7.3
    x[0, 2] = 1e6
    standardize = t.Standardize(3)
    standardize.initialize(x)
    z, ladj = standardize.inverse_and_ladj(x)
    assert z.isfinite().all() and ladj.isfinite()
    assert standardize.std[1] == 1


def test_standardize_makes_densities_those_of_data_units():
    x = 5 + 3 * torch.randn(10_000, 1, dtype=torch.float64)
    standardize = t.Standardize(1).double()
    standardize.initialize(x)
    z, ladj = standardize.inverse_and_ladj(x)
    log_prob = dist.Normal(0.0, 1.0).log_prob(z[:, 0]) + ladj
    expected = dist.Normal(x.mean(), x.std(correction=0)).log_prob(x[:, 0])
    torch.testing.assert_close(log_prob, expected)


@pytest.mark.parametrize(
    "constraint", [constraints.positive, constraints.unit_interval, constraints.interval(-2.0, 3.0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_support_holds_at_the_extremes(constraint, dtype):
    support = t.Support(constraint)
    x = torch.tensor([[-1e4], [-100.0], [0.0], [50.0]], dtype=dtype)
    y, _ = support.forward_and_ladj(x)
    assert constraint.check(y).all()
    edges = [getattr(constraint, name, None) for name in ("lower_bound", "upper_bound")]
    y = torch.tensor([[e] for e in edges if e is not None], dtype=dtype)
    x, ladj = support.inverse_and_ladj(y)
    assert x.isfinite().all() and ladj.isfinite().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: T.affine_coupling(4),
        lambda: T.affine_autoregressive(4),
        lambda: T.affine_autoregressive(4).inv,
        lambda: T.spline(4),
        lambda: T.spline_coupling(4),
        lambda: T.householder(4),
        lambda: T.matrix_exponential(4),
        lambda: T.permute(4),
    ],
)
def test_pyro_transforms_lose_their_stale_caches(make):
    transform = perturb(t.as_transform(make()), 0.05)
    x = torch.randn(6, 4)
    scores = [transform.inverse_and_ladj(x)]
    if scores[0][1].requires_grad:
        for _ in range(2):  # full-batch training scores one tensor again and again
            z, ladj = transform.inverse_and_ladj(x)
            (z.square().sum() + ladj.sum()).backward()
    copy.deepcopy(transform)
    if list(transform.parameters()):
        perturb(transform, 0.5)
        assert not torch.equal(transform.inverse_and_ladj(x)[0], scores[0][0])


@pytest.mark.parametrize("mask", ["TFTF", "FTFT", "TTFF", "FFT", "TFT", "FTF", "TFFT", "TTFTF", "TF", "FT"])
def test_every_partition_is_put_together_as_it_was(mask):
    """By views or by an index, the first part perhaps without the batch dimensions of the second."""
    keep = [letter == "T" for letter in mask]
    partition, x = Partition(keep), torch.randn(5, 2, len(mask))
    a, b = partition.split(x)
    assert torch.equal(a, x[..., keep]) and torch.equal(b, x[..., [not k for k in keep]])
    assert torch.equal(partition.join(a, b), x)
    joined = partition.join(a[0], b)
    assert torch.equal(joined[..., keep], a[0].expand(5, 2, -1)) and torch.equal(joined[..., [not k for k in keep]], b)
