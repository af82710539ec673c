"""Flows with numerical inverses: precision, extremes, implicit gradients; flows without one as guides."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from pyro_dgm.models import BNAF, NAF, SOSPF, VAE, DiagonalNormal, GaussianizationFlow, NormalizingFlow, StandardNormal
from pyro_dgm.objectives import ELBO
from pyro_dgm.transforms import (
    BlockAutoregressive,
    Compose,
    DeepSigmoidal,
    ElementWise,
    GaussianMixtureCDF,
    Planar,
    SumOfSquares,
    as_transform,
)
from pyro_dgm.transforms.elementwise import orthogonal
from pyro_dgm.transforms.inversion import invert
from pyro_dgm.transforms.probit import mixture_tail, ndtri_exp

from .zoo import perturb

SMALL = {"transforms": 1, "hidden_features": (8,)}
FLOWS = {
    "NAF": lambda d: NAF(d, units=4, **SMALL),
    "SOSPF": lambda d: SOSPF(d, polynomials=2, degree=3, **SMALL),
    "BNAF": lambda d: BNAF(d, hidden_factors=(4, 3), transforms=2),
    "GaussianizationFlow": lambda d: GaussianizationFlow(d, transforms=2, components=4),
}
TRANSFORMS = {
    "DeepSigmoidal": lambda: ElementWise(2, DeepSigmoidal(4, 2)),
    "SumOfSquares": lambda: ElementWise(2, SumOfSquares(2, 3)),
    "GaussianMixtureCDF": lambda: ElementWise(2, GaussianMixtureCDF(4)),
    "BlockAutoregressive": lambda: BlockAutoregressive(2, (4, 3)),
}
every_transform = pytest.mark.parametrize("name", TRANSFORMS)


def weighted(name, times=1.0, dtype=torch.float32):
    """A transform with standard normal parameters, multiplied."""
    torch.manual_seed(3)
    transform = perturb(TRANSFORMS[name](), 1.0).to(dtype)
    with torch.no_grad():
        for p in transform.parameters():
            p.mul_(times)
    return transform


def at_scale(scale, dtype=torch.float32):
    return scale * torch.randn(20, 2, dtype=dtype)


# --- the search ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@every_transform
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_round_trip_near_and_far(name, dtype, tolerance):
    """Relative to 1 + |x|, at the scale of data and a million times that, in both directions."""
    transform = weighted(name, 0.3, dtype)
    for scale in (1.0, 10.0, 1e3, 1e6):
        x = at_scale(scale, dtype)
        y, ladj = transform.forward_and_ladj(x)
        back, inverse = transform.inverse_and_ladj(y)
        assert float(((back - x).abs() / (1 + x.abs())).max()) < tolerance
        assert float((ladj + inverse).abs().max()) < 1e3 * tolerance  # slopes may be steep in x
        again = transform.forward_and_ladj(transform.inverse_and_ladj(x)[0])[0]
        assert float(((again - x).abs() / (1 + x.abs())).max()) < 10 * tolerance


@every_transform
@pytest.mark.parametrize("times", [10.0, 100.0])
def test_values_and_gradients_are_finite(name, times):
    transform = weighted(name, times)
    for scale, step in itertools.product((1.0, 1e3, 1e6), (transform.forward_and_ladj, transform.inverse_and_ladj)):
        x = at_scale(scale).requires_grad_()
        y, ladj = step(x)
        gradients = torch.autograd.grad(y.sum() + ladj.sum(), [x, *transform.parameters()], allow_unused=True)
        assert all(g.isfinite().all() for g in (y, ladj, *gradients) if g is not None)


def test_gradients_of_a_root_are_implicit():
    """With respect to y and the parameters, first order and second."""
    torch.manual_seed(0)
    a, y = (torch.randn(4, dtype=torch.float64).requires_grad_() for _ in range(2))

    def root(y, a):
        return invert(lambda x: (a + x + x**3 + a.exp() * x, torch.log1p(3 * x**2 + a.exp())), y)

    assert torch.autograd.gradcheck(root, (y, a)) and torch.autograd.gradgradcheck(root, (y, a))


@every_transform
def test_gradients_of_the_inverse(name):
    transform = weighted(name, 0.3, torch.float64)
    names, values = zip(*transform.named_parameters(), strict=True)

    def inverse(y, *values):
        bound = {f"t.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(_Backward(transform), bound, (y,))

    y = torch.randn(2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(inverse, (y, *values), fast_mode=True)


class _Backward(torch.nn.Module):
    def __init__(self, t):
        super().__init__()
        self.t = t

    def forward(self, y):
        return self.t.inverse_and_ladj(y)


def test_roots_beyond_the_largest_and_at_zero():
    x, ladj = invert(lambda x: (x, torch.zeros_like(x)), torch.tensor([0.0, -1e-8, 1e11, 1e30]))
    torch.testing.assert_close(x, torch.tensor([0.0, -1e-8, 1e11, 1e12]))
    assert (ladj == 0).all()


# --- densities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(("d", "n"), [(1, 40_001), (2, 401)])
def test_density_integrates_to_one(name, d, n):
    """By the trapezoidal rule on [-20, 20]^d, to one thousandth (two thousandths in the plane)."""
    torch.manual_seed(2)
    flow = perturb(FLOWS[name](d), 0.3).double()
    line = torch.linspace(-20, 20, n, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * d).reshape(-1, d)
    with torch.no_grad():
        mass = flow().log_prob(grid).exp().sum() * (40 / (n - 1)) ** d
    assert float(mass) == pytest.approx(1, abs=1e-3 * d)


# --- block autoregression ------------------------------------------------------------------------------------------


def test_jacobian_of_a_block_network_is_triangular_full_and_positive():
    torch.manual_seed(0)
    transform = perturb(BlockAutoregressive(4, (3, 2))).double()
    for x in torch.randn(5, 4, dtype=torch.float64):
        j = torch.autograd.functional.jacobian(lambda x: transform.forward_and_ladj(x)[0], x)
        assert (j.triu(1) == 0).all() and (j.diagonal() > 0).all()
        assert (j.tril(-1)[torch.ones(4, 4).tril(-1).bool()] != 0).all()


@pytest.mark.parametrize("name", ["DeepSigmoidal", "BlockAutoregressive"])
def test_images_are_not_bounded(name):
    """Neither where the functions alone would be, whatever the weights: beyond the data slopes are constant."""
    for times in (0.3, 10.0):
        transform = weighted(name, times, torch.float64)
        x = torch.tensor([[-1e3], [1e3], [-2e3], [2e3], [-1e6], [1e6]], dtype=torch.float64).expand(-1, 2)
        y = transform.forward_and_ladj(x)[0]
        assert (y[2] < y[0]).all() and (y[3] > y[1]).all() and (y[4:].abs() > 900).all()
        assert (y[[0, 2, 4]] < 0).all() and (y[[1, 3, 5]] > 0).all()


# --- guides without an inverse -------------------------------------------------------------------------------------

ONE_WAY = {
    "planar": lambda: T.planar(2),
    "radial": lambda: T.radial(2),
    "sylvester": lambda: T.sylvester(2, 1),
    "polynomial": lambda: T.polynomial(2, hidden_dims=[8]),
    "neural": lambda: T.neural_autoregressive(2, hidden_dims=[8], width=4),
    "block": lambda: T.block_autoregressive(2),
    "planar in a stack": lambda: Compose([Planar(2), T.planar(2)]),
}


@pytest.mark.parametrize("name", ONE_WAY)
def test_layers_without_an_inverse_are_refused_when_a_flow_is_made(name):
    with pytest.raises(ValueError, match=r"^transforms: \w+ has no inverse.*transforms of pyro_dgm.*invertible=False"):
        NormalizingFlow(2, [Planar(2), ONE_WAY[name]()])
    flow = NormalizingFlow(2, [Planar(2), ONE_WAY[name]()], invertible=False)
    x, log_prob = flow().rsample_and_log_prob((5,))
    assert flow().density == "implicit" and x.shape == (5, 2) and log_prob.isfinite().all()
    with pytest.raises(NotImplementedError, match=r"has no inverse.*take the transforms of pyro_dgm"):
        flow().log_prob(torch.zeros(2))


@pytest.mark.parametrize("invertible", [True, False])
def test_inverses_of_layers_without_one_cannot_be_sampled(invertible):
    layers = [T.planar(2).inv, as_transform(T.planar(2)).inv, Compose([Planar(2), T.planar(2)]).inv]
    for layer in layers:
        assert as_transform(layer).invertible and not as_transform(layer).applicable
        with pytest.raises(ValueError, match=r"transforms: .*cannot be sampled from, since Planar has no inverse"):
            NormalizingFlow(2, [layer], invertible=invertible)
    assert as_transform(layers[0]).inv.applicable and not as_transform(layers[0]).inv.invertible


def ridge():
    """x = z_1 + z_2 with noise: the evidence -log N(0; 0, 2.09) is 1.29 nats."""
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z.sum(-1), 0.3), obs=torch.tensor(0.0))


def test_a_planar_guide_learns():
    """Under SVI, it comes near the evidence, and not above it (standard error of the estimate about 0.03)."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    flow = NormalizingFlow(2, [T.planar(2) for _ in range(6)], invertible=False, standardize=False)

    def guide():
        pyro.module("flow", flow)
        pyro.sample("z", flow())

    elbo = Trace_ELBO(num_particles=1000, vectorize_particles=True, max_plate_nesting=1)
    start = elbo.loss(ridge, guide)
    few = Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(ridge, guide, Adam({"lr": 0.02}), few)
    for _ in range(150):
        svi.step()
    assert 1.2 < elbo.loss(ridge, guide) < min(start - 0.4, 1.6)


def test_a_planar_posterior_of_a_vae():
    torch.manual_seed(0)
    layers = [T.conditional_planar(2, 3, [8]) for _ in range(2)]
    posterior = NormalizingFlow(2, layers, context=3, invertible=False, standardize=False)
    vae = VAE(StandardNormal(2), DiagonalNormal(3, context=2, hidden_features=(8,)), posterior)
    loss, x = ELBO()(vae), torch.randn(64, 3) @ torch.diag(torch.tensor([3.0, 0.1, 1.0]))
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0] - 0.5 and all(p.grad is not None for p in posterior.parameters())


# --- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-7)])
def test_inverse_normal_distribution_function_on_a_logarithmic_scale(dtype, tolerance):
    z = -torch.logspace(-3, 6, 400, dtype=torch.float64)
    l = torch.special.log_ndtr(z)
    back, log_m = ndtri_exp(l.to(dtype))
    torch.testing.assert_close(back.double(), z, rtol=tolerance, atol=tolerance)
    known = z > -100  # beyond, this is the difference of two huge numbers
    expected = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - l
    torch.testing.assert_close(log_m[known].double(), expected[known], rtol=0, atol=max(1e-11, 20 * tolerance))


def mixture(n: int, scale: float) -> tuple[torch.Tensor, ...]:
    """Places near and far, and parameters of a mixture of eight."""
    torch.manual_seed(0)
    numbers = torch.randn(3, 8, 2, 1, dtype=torch.float64)
    log_w, mu, log_s = (3 * numbers[0]).log_softmax(0), 3 * numbers[1], numbers[2]
    return scale * torch.randn(2, n, dtype=torch.float64), log_w, mu, log_s


@pytest.mark.parametrize("scale", [1, 5, 30, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_mixture_of_normals_on_a_logarithmic_scale(dtype, tolerance, scale):
    """As by sums of logarithms, on both sides of the median and of where tails begin; the sides differ nowhere."""
    x, log_w, mu, log_s = mixture(500, scale)
    z = (x - mu) * (-log_s).exp()
    cdf = (log_w.exp() * torch.special.ndtr(z)).sum(0)
    sigma = torch.where(cdf < 0.5, 1.0, -1.0).double()
    l = (log_w + torch.special.log_ndtr(sigma * z)).logsumexp(0)
    rho = (log_w - log_s - 0.5 * z.square() - 0.5 * math.log(2 * math.pi)).logsumexp(0) - l
    found = mixture_tail(*(t.to(dtype) for t in (x, log_w, mu, log_s)))
    for value, expected in zip(found, (sigma, l, rho), strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)


def test_mixture_of_normals_in_a_wide_gap():
    """Where the density is less than any number: the mass on either side is what it is, derivatives are finite."""
    mu = torch.tensor([-1e3, 1e3]).unsqueeze(-1).requires_grad_()
    x, half = torch.zeros(1, requires_grad=True), torch.full((2, 1), math.log(0.5))
    _, l, rho = mixture_tail(x, half, mu, torch.zeros(2, 1))
    torch.testing.assert_close(l, half[0])
    torch.testing.assert_close(rho, torch.full((1,), -0.5e6 + math.log(4 / math.sqrt(8 * math.pi))))
    assert all(g.isfinite().all() for g in torch.autograd.grad((l + rho).sum(), [x, mu]))


def test_gradients_of_a_mixture_of_normals_far_out():
    """They are those of float64, where the slope is the difference of numbers up to 1e10."""
    g, x = GaussianMixtureCDF(8), torch.tensor([-1e10, -1e6, -1e3, -30.0, 30.0, 1e3, 1e6, 1e10], dtype=torch.float64)
    torch.manual_seed(0)
    theta, found = torch.randn(8, g.size, dtype=torch.float64), []
    for dtype in (torch.float64, torch.float32):
        inputs = x.to(dtype).requires_grad_(), theta.to(dtype).requires_grad_()
        y, ladj = g.forward_and_ladj(*inputs)
        found.append(
            [*torch.autograd.grad(y.sum(), inputs, retain_graph=True), *torch.autograd.grad(ladj.sum(), inputs)]
        )
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-4)


def test_derivatives_of_the_normal_distribution_function():
    """First and second, on both sides of where the tail begins."""
    z = torch.tensor([-300.0, -40.0, -12.001, -11.999, -5.0, -0.1, 0.1, 6.0], dtype=torch.float64, requires_grad=True)

    def inverse(z):
        return ndtri_exp(-0.7 - z.square())

    assert torch.autograd.gradcheck(inverse, (z,)) and torch.autograd.gradgradcheck(inverse, (z,))
    parameters = [t[:, 0].requires_grad_() for t in mixture(1, 1.0)[1:]]

    def tail(*arguments):
        return mixture_tail(*arguments)[1:]

    assert torch.autograd.gradcheck(tail, (z, *parameters)) and torch.autograd.gradgradcheck(tail, (z, *parameters))


def test_products_of_reflections():
    """One after another, as the compact form has it; a vector of zeros reflects nothing."""
    v = torch.randn(2, 5, 4, dtype=torch.float64)
    v[1, 3] = 0
    q = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    for u in v.unbind(1):
        u = torch.nn.functional.normalize(u, dim=-1)
        q = q - 2 * (q @ u.unsqueeze(-1)) @ u.unsqueeze(-2)
    torch.testing.assert_close(orthogonal(v), q)
