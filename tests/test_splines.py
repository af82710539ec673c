"""Splines: finite everywhere, smooth at their knots, and the same by every way of computing them."""

import math

import pytest
import torch

from pyro_dgm import transforms as t

from .zoo import C, perturb

SCALES = [1.0, 10.0, 1e3, 1e6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", ["forward_and_ladj", "inverse_and_ladj"])
@pytest.mark.parametrize("weight_scale", [1.0, 10.0, 100.0])
def test_spline_values_and_gradients_are_finite_everywhere(dtype, direction, weight_scale):
    spline = t.Spline(8, 5.0)
    bound = torch.tensor(5.0, dtype=dtype)
    infinity = torch.tensor(torch.inf, dtype=dtype)
    edges = [s * e for s in (1, -1) for e in (bound, bound.nextafter(infinity), bound.nextafter(-infinity))]
    for seed in range(100):
        torch.manual_seed(seed)
        random = torch.cat([scale * torch.randn(16, dtype=dtype) for scale in SCALES])
        x = torch.cat([random, torch.stack(edges), torch.zeros(1, dtype=dtype)]).requires_grad_()
        theta = (weight_scale * torch.randn(len(x), spline.size, dtype=dtype)).requires_grad_()
        y, ladj = getattr(spline, direction)(x, theta)
        assert y.isfinite().all() and ladj.isfinite().all()
        for g in torch.autograd.grad(y.sum() + ladj.sum(), [x, theta]):
            assert g.isfinite().all()


@pytest.mark.parametrize("weight_scale", [1.0, 10.0, 100.0])
def test_spline_knots_are_passed_smoothly_and_tails_are_the_identity(weight_scale):
    spline = t.Spline(6, 2.0)
    theta = weight_scale * torch.randn(spline.size, dtype=torch.float64)
    sizes = theta[:12].unflatten(0, (6, 2)).mT.softmax(-1)
    knots = (4 * (1e-3 + (1 - 6e-3) * sizes)).cumsum(-1).sub(2.0).clamp(max=2.0)
    knots = torch.cat([torch.full((2, 1), -2.0), knots], -1).double()
    y, _ = spline.forward_and_ladj(knots[0], theta.expand(7, -1))
    torch.testing.assert_close(y, knots[1])
    x = torch.tensor([-50.0, -2.0, 2.0, 7.0], dtype=torch.float64)
    y, ladj = spline.forward_and_ladj(x, theta.expand(4, -1))
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(ladj, torch.zeros_like(x), atol=1e-9, rtol=0)  # the slope at the bounds is exactly 1
    before = knots[0, 1:-1].nextafter(torch.tensor(-torch.inf, dtype=torch.float64))
    left = spline.forward_and_ladj(before, theta.expand(5, -1))[1]
    right = spline.forward_and_ladj(knots[0, 1:-1], theta.expand(5, -1))[1]
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)
    beta = math.log(2) / (1 - 1e-3)
    torch.testing.assert_close(right.exp(), 1e-3 + (beta * theta[12:]).exp().log1p() / beta)


@pytest.mark.parametrize("family", [t.Spline(4, 2.0), t.CircularSpline(4)], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("direction", ["forward_and_ladj", "inverse_and_ladj"])
def test_derivatives_of_splines_that_are_written_out(family, direction):
    """First and second derivatives against finite differences; under vmap; and the slope against autograd."""
    theta = torch.randn(3, 2, family.size, dtype=torch.float64, requires_grad=True)
    x = (3.5 * torch.rand(3, 2, dtype=torch.float64) - 1.8).requires_grad_()
    function = getattr(family, direction)
    assert torch.autograd.gradcheck(function, (x, theta)) and torch.autograd.gradgradcheck(function, (x, theta))
    y, ladj = function(x, theta)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0].log(), ladj)
    for a, b in zip(torch.func.vmap(function)(x, theta), (y, ladj), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("context", [0, C])
def test_splines_of_all_features_are_those_of_either_run(context, monkeypatch):
    """Whether the parameters of both runs of features are joined, as for few data, or searched one after the other."""
    transform = perturb(t.Coupling([True, False, True], t.Spline(4), (8,), context, transform_all=True)).double()
    y = 2 * torch.randn(7, 5, 3, dtype=torch.float64)
    c = torch.randn(5, context, dtype=torch.float64) if context else None
    joined = transform.inverse_and_ladj(y, c)
    monkeypatch.setattr("pyro_dgm.transforms.spline._FEW", 0)
    for a, b in zip(joined, transform.inverse_and_ladj(y, c), strict=True):
        torch.testing.assert_close(a, b)


def test_circular_splines_close_the_circle():
    spline, theta = t.CircularSpline(5), torch.randn(16, dtype=torch.float64)
    ends = torch.tensor([-math.pi, math.pi], dtype=torch.float64)
    ends = torch.stack([ends[0], ends[1].nextafter(ends[0])])
    y, ladj = spline.forward_and_ladj(ends, theta.expand(2, -1))
    torch.testing.assert_close(torch.exp(1j * y[0]), torch.exp(1j * y[1]))
    torch.testing.assert_close(ladj[0], ladj[1])
    x = torch.linspace(-math.pi, math.pi, 100_001, dtype=torch.float64)[:-1]
    y, ladj = spline.forward_and_ladj(x, theta.expand(len(x), -1))
    assert y.min() >= -math.pi and y.max() < math.pi
    assert ladj.exp().mean().item() == pytest.approx(1.0, abs=1e-6)  # once around
    back, _ = spline.inverse_and_ladj(y, theta.expand(len(x), -1))
    torch.testing.assert_close(torch.exp(1j * back), torch.exp(1j * x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("kind", ["spline", "affine", "autoregressive"])
@pytest.mark.parametrize("perturbed", [False, True])
def test_sixteen_layers_round_trip(dtype, tolerance, kind, perturbed):
    masks = [[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]]
    families = {
        "spline": lambda k: t.Coupling(masks[k % 2], t.Spline()),
        "affine": lambda k: t.Coupling(masks[k % 2]),
        "autoregressive": lambda k: t.MaskedAutoregressive(6, t.Spline()),
    }
    stack = t.Compose([families[kind](k) for k in range(16)])
    if perturbed:
        perturb(stack, 0.03)
    stack = stack.to(dtype)
    x = 2 * torch.randn(200, 6, dtype=dtype)
    with torch.no_grad():
        y, ladj = stack.forward_and_ladj(x)
        back, inverse_ladj = stack.inverse_and_ladj(y)
    assert perturbed == (not torch.allclose(y, x, atol=1e-3))
    assert (back - x).abs().max() < tolerance
    assert (ladj + inverse_ladj).abs().max() < 100 * tolerance
