"""Toy densities against their integrals and samples."""

import copy
import math
import pickle

import pyro
import pytest
import torch
from torch.distributions import biject_to

from pyro_dgm.datasets import toy

# Each chi-squared test fails for one seed in 10,000; the seeds are fixed, so it fails always or never.
TEST_FAILURE_RATE = 1e-4
HALF, CELLS, FINE = 8.0, 32, 12  # the square [-8, 8]^2, its cells along a side, midpoints along a cell's side


def density_and_widths(p):
    """The density at midpoints of a grid and the area of each midpoint; the funnel's grid widens with x1."""
    n = CELLS * FINE
    ticks = ((torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1) * HALF
    x1, x2 = torch.meshgrid(ticks, ticks, indexing="ij")
    area = torch.full_like(x1, (2 * HALF / n) ** 2)
    if p == "funnel":
        x1, p = 2 * x1, toy.funnel()
        x2, area = x2 * (x1 / 2).exp(), 2 * area * (x1 / 2).exp()
    return p.log_prob(torch.stack((x1, x2), -1)).exp(), area


def integral(p):
    density, area = density_and_widths(p)
    return (density * area).sum().item()


def chi_squared(probs, counts, n):
    """The p-value of Pearson's test of n draws, on some of the cells; the statistic's mean is K - sum(probs).

    Not ``pyro.distributions.testing.gof``: its survival function breaks off a series after 100 terms and so
    returns 1 for a very bad fit (``chi2sf(540, 27)`` is 1.0, in truth 8e-97).
    """
    probs, counts = probs.double(), counts.double()
    statistic = ((counts - n * probs) ** 2 / (n * probs)).sum()
    return torch.special.gammaincc((len(probs) - probs.sum()) / 2, statistic / 2).item()


def goodness_of_fit(p, log_factor=0.0, n=40_000):
    """The p-value of samples in the cells of the grid, under exp(log_prob + log_factor)."""
    density, area = density_and_widths(p)
    probs = (density * area * math.exp(log_factor)).reshape(CELLS, FINE, CELLS, FINE).sum((1, 3)).flatten()
    cell = ((p.sample((n,)) + HALF) / (2 * HALF) * CELLS).floor().long()
    cell = cell[((cell >= 0) & (cell < CELLS)).all(-1)]
    counts = torch.bincount(cell[:, 0] * CELLS + cell[:, 1], minlength=CELLS**2)
    often = n * probs > 20
    return chi_squared(probs[often], counts[often], n)


@pytest.mark.parametrize("make", toy.ALL, ids=lambda make: make.__name__)
def test_density_integrates_to_one(make):
    assert integral("funnel" if make is toy.funnel else make()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("make", toy.ALL, ids=lambda make: make.__name__)
def test_samples_agree_with_density(make):
    assert goodness_of_fit(make()) > TEST_FAILURE_RATE


def test_checkers_can_fail():
    class Doubled(torch.distributions.AffineTransform):
        def log_abs_det_jacobian(self, x, y):
            return 2 * super().log_abs_det_jacobian(x, y)

    good = toy.two_moons()
    bad = pyro.distributions.TransformedDistribution(good.base_dist, [Doubled(0.0, 1.5, event_dim=1)])
    assert abs(integral(bad) - 1) > 0.1
    assert goodness_of_fit(bad) < TEST_FAILURE_RATE
    assert goodness_of_fit(good, log_factor=0.1) < TEST_FAILURE_RATE


@pytest.mark.parametrize("make", toy.ALL, ids=lambda make: make.__name__)
def test_density_is_a_citizen_of_pyro(make):
    p = make()
    x = p.sample((4, 3))
    assert (p.batch_shape, p.event_shape) == ((), (2,))
    assert x.shape == (4, 3, 2) and x.dtype == torch.get_default_dtype()
    assert p.log_prob(x).shape == (4, 3) and p.log_prob(x).isfinite().all()
    assert p.sample().shape == (2,)
    assert p.support.check(x).all()
    assert biject_to(p.support)(torch.randn(2)).shape == (2,)
    assert p.log_prob(x.double()).dtype == torch.float64
    expanded = p.expand((3,))
    assert expanded.batch_shape == (3,) and expanded.sample((4,)).shape == (4, 3, 2)
    assert expanded.log_prob(x).equal(p.log_prob(x))
    assert expanded.log_prob(x[0, 0]).shape == (3,)
    for twin in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert twin.log_prob(x).equal(p.log_prob(x))
    with pyro.plate("data", 5):
        assert pyro.sample("x", p).shape == (5, 2)
    x.requires_grad_()
    assert torch.autograd.grad(p.log_prob(x).sum() + x.sum() * 0, x)[0].isfinite().all()


@pytest.mark.parametrize("make", toy.ALL, ids=lambda make: make.__name__)
def test_density_draws_from_the_global_generator_only_when_sampled(make):
    before = torch.get_rng_state()
    p = make(device="cpu")
    p.log_prob(torch.ones(2))
    assert torch.get_rng_state().equal(before)
    x = p.sample((5,))
    torch.set_rng_state(before)
    assert p.sample((5,)).equal(x)


@pytest.mark.parametrize("make", toy.ALL, ids=lambda make: make.__name__)
def test_density_is_finite_or_zero_at_the_origin(make):
    value = make().log_prob(torch.zeros(2))
    assert not value.isnan() and value < 10


def test_checkerboard_is_zero_off_the_black_squares():
    p = toy.checkerboard(cells=2, width=1.0)
    x = torch.tensor([[-0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [0.5, -0.5], [3.0, 3.0], [-1.5, 0.5]])
    torch.testing.assert_close(p.log_prob(x).exp(), torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0, 0.0]))
    assert toy.checkerboard().log_prob(toy.checkerboard().sample((100_000,))).isfinite().all()
    with pytest.raises(ValueError, match="positive even number, got 3"):
        toy.checkerboard(cells=3)


def test_closed_forms():
    x = torch.randn(50, 2)
    normal = pyro.distributions.Normal
    funnel = normal(0.0, 3.0).log_prob(x[:, 0]) + normal(0.0, (x[:, 0] / 2).exp()).log_prob(x[:, 1])
    banana = normal(0.0, 1.0).log_prob(x[:, 0]) + normal(0.5 * x[:, 0] ** 2, 0.5).log_prob(x[:, 1])
    torch.testing.assert_close(toy.funnel().log_prob(x), funnel)
    torch.testing.assert_close(toy.banana().log_prob(x), banana)


def test_modes_are_where_they_should_be():
    ring = toy.eight_gaussians(radius=3.0, scale=0.1)
    assert ring.log_prob(torch.tensor([0.0, 3.0])).exp().item() == pytest.approx(1 / (8 * 2 * math.pi * 0.01), 1e-4)
    grid = toy.grid_gaussians()
    assert grid.log_prob(torch.tensor([-4.0, 2.0])).exp().item() == pytest.approx(1 / (25 * 2 * math.pi * 0.01), 1e-4)
    assert toy.rings((1.0, 2.0)).sample((2000,)).norm(dim=-1).max() < 2.6
