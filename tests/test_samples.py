"""Scores of samples against known truths: sums written out, closed forms of Gaussians, sets of points made by hand.

Every random test has a fixed seed; the failure rate over seeds, if the code is right, is stated in place.
"""

import math

import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyro_dgm.evaluation import (
    class_coverage,
    embed,
    frechet_distance,
    frechet_distance_of_moments,
    kernel_distance,
    mmd,
    mode_coverage,
    parzen,
    prdc,
    vectors,
)
from pyro_dgm.objectives import RBF, Polynomial

from .statistics import within


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(20260101)


# Features


def test_features_of_a_module_are_taken_in_evaluation_mode(rng):
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    x = torch.randn(7, 2, 4, generator=rng)
    before = network[2].running_mean.clone()
    features = embed(network, x, batch_size=2)
    assert network.training and network[3].training and torch.equal(before, network[2].running_mean)
    assert not features.requires_grad
    torch.testing.assert_close(features, network.eval()(x))
    torch.testing.assert_close(embed(lambda x: x * 2, x), 2 * x.flatten(1))


# Parzen windows


def test_parzen_is_its_definition(rng):
    y, x = torch.randn(7, 2, 3, generator=rng).double(), torch.randn(5, 2, 3, generator=rng).double()
    h = 0.7
    p = dist.MixtureSameFamily(dist.Categorical(torch.ones(7).double()), dist.Normal(y.flatten(1), h).to_event(1))
    log_p = p.log_prob(x.flatten(1))
    found = parzen(y, x, h)
    assert found.mean == pytest.approx(log_p.mean().item(), abs=1e-12)
    assert found.standard_error == pytest.approx(log_p.std().item() / math.sqrt(5), abs=1e-12)
    assert found.bandwidth == h
    # far from the origin, where |x|^2 - 2 x y + |y|^2 would lose all digits, nothing changes
    assert parzen(y + 1e6, x + 1e6, h).mean == pytest.approx(found.mean, abs=1e-7)


def test_parzen_in_blocks_and_its_choice_of_bandwidth(rng, monkeypatch):
    y, x = torch.randn(30, 2, generator=rng), torch.randn(20, 2, generator=rng)
    grid = [0.01, 0.1, 0.4, 1.0, 10.0]
    best = max(grid, key=lambda h: parzen(y, x[:10], h).mean)
    assert best not in (0.01, 10.0)
    whole = parzen(y, x, grid, validation=x[:10])
    assert whole == parzen(y, x, best)
    monkeypatch.setattr(vectors, "_BLOCK_ENTRIES", 100)  # three rows at a time
    blocked = parzen(y, x, grid, validation=x[:10])
    assert blocked.bandwidth == best and blocked.mean == pytest.approx(whole.mean, abs=1e-12)


def test_parzen_of_gaussians_tends_to_the_closed_form(rng):
    # With many samples of N(0, 1) the window is N(0, 1 + h^2), whose mean log-density under N(0, 1) is known. The
    # mean over 2,000 data is within 4 of its standard errors (fails for 6e-5 of seeds); the window's own error, with
    # 20,000 samples, is below 1e-3, a tenth of that.
    y, x = torch.randn(20_000, 1, generator=rng), torch.randn(2000, 1, generator=rng)
    h = 0.5
    truth = -0.5 * math.log(2 * math.pi * (1 + h**2)) - 0.5 / (1 + h**2)
    found = parzen(y, x, h)
    assert abs(found.mean - truth) < 4 * found.standard_error + 1e-3
    # log p_h is a constant minus chi^2_1 / (2 (1 + h^2)), whose standard deviation is sqrt(2) / (2 (1 + h^2))
    assert found.standard_error == pytest.approx(math.sqrt(0.5) / (1 + h**2) / math.sqrt(2000), rel=0.15)


# Modes


def test_modes_of_points_made_by_hand():
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    samples = torch.tensor(
        [[0.0, 0.29], [0.0, 0.31], [0.9, 0.0], [1.1, 0.0], [0.0, 0.8], [9.0, 9.0], [0.0, -0.2], [1.0, 0.1]]
    )
    found = mode_coverage(samples, centres, 0.1)
    assert found.counts.tolist() == [2, 3, 1, 0]
    assert (found.n, found.modes, found.high_quality) == (8, 3, 0.75)
    p = [2 / 6, 3 / 6, 1 / 6]
    assert found.kl == pytest.approx(sum(q * math.log(4 * q) for q in p))
    each = mode_coverage(samples, centres, torch.tensor([0.1, 0.1, 0.01, 2.0]))
    assert each.counts.tolist() == [2, 3, 0, 1]
    assert "3 of 4 modes" in str(found)


def test_modes_of_a_perfect_model_and_of_a_collapsed_one(rng):
    angles = torch.arange(8) * math.pi / 4
    centres = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    k = torch.randint(8, (20_000,), generator=rng)
    perfect = mode_coverage(centres[k] + 0.02 * torch.randn(20_000, 2, generator=rng), centres, 0.02)
    # 1 - exp(-9/2) = 0.98889 of a Gaussian of the plane lies within three deviations; within 4 binomial standard
    # errors (6e-5 of seeds). 2 n KL is chi^2 with 7 degrees: above 30 for 1e-4 of seeds.
    share = 1 - math.exp(-4.5)
    assert abs(perfect.high_quality - share) < 4 * math.sqrt(share * (1 - share) / 20_000)
    assert perfect.modes == 8 and 2 * perfect.counts.sum() * perfect.kl < 30
    collapsed = mode_coverage(centres[:1].expand(10, 2), centres, 0.02)
    assert (collapsed.modes, collapsed.high_quality) == (1, 1.0) and collapsed.kl == pytest.approx(math.log(8))
    assert math.isnan(mode_coverage(torch.full((3, 2), 50.0), centres, 0.02).kl)


def test_classes_are_counted():
    found = class_coverage(torch.tensor([7, 7, 0, 3]), 10)
    assert found.counts.tolist() == [1, 0, 0, 1, 0, 0, 0, 2, 0, 0]
    assert (found.modes, found.high_quality) == (3, 1.0)
    assert class_coverage(torch.arange(1000), 1000).kl == pytest.approx(0.0, abs=1e-12)


# Fréchet distance


def test_frechet_distance_from_moments_is_the_closed_form(rng):
    # Covariances Q diag(a) Q' and Q diag(b) Q' commute: the distance is |shift|^2 + sum (sqrt a - sqrt b)^2.
    q = torch.linalg.qr(torch.randn(5, 5, generator=rng).double()).Q
    a, b = torch.tensor([[4.0, 1.0, 0.25, 1e-8, 0.0], [1.0, 9.0, 0.25, 1e-4, 2.0]]).double()
    shift = torch.randn(5, generator=rng).double()
    truth = shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    found = frechet_distance_of_moments(shift, q @ a.diag() @ q.T, 0 * shift, q @ b.diag() @ q.T)
    assert found.item() == pytest.approx(truth.item(), rel=1e-7)
    # without commuting: the trace of the root by the eigenvalues of the product, well conditioned here
    x, y = (f @ f.T + torch.eye(5) for f in torch.randn(2, 5, 5, generator=rng).double())
    trace = torch.linalg.eigvals(x @ y).real.sqrt().sum()
    found = frechet_distance_of_moments(shift, x, shift, y)
    assert found.item() == pytest.approx((x.trace() + y.trace() - 2 * trace).item(), rel=1e-9)


def test_frechet_distance_of_samples_is_that_of_their_moments(rng):
    x, y = torch.randn(60, 4, generator=rng), torch.randn(50, 4, generator=rng) @ torch.randn(4, 4, generator=rng) + 1
    moments = [m for f in (x.double(), y.double()) for m in (f.mean(0), f.T.cov())]
    assert frechet_distance(x, y).item() == pytest.approx(frechet_distance_of_moments(*moments).item(), rel=1e-10)
    assert frechet_distance(x, y).item() == pytest.approx(frechet_distance(y, x).item(), rel=1e-10)


def test_frechet_distance_of_equal_and_of_singular_features(rng):
    # Features that are constant, copies, or of very different size: a root of the product of the covariances loses half
    # of the digits or is complex here.
    f = torch.randn(200, 3, generator=rng)
    x = torch.cat([f, f[:, :1], 1e3 * f[:, 1:2], torch.ones(200, 2)], 1)
    assert frechet_distance(x, x[torch.randperm(200, generator=rng)]).item() == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(x, x + 2.0).item() == pytest.approx(4.0 * 7, rel=1e-9)
    with pytest.warns(UserWarning, match="biased upwards"):
        assert frechet_distance(x[:5], x[:5]).item() == pytest.approx(0.0, abs=1e-8)


def test_frechet_distance_of_gaussians_tends_to_the_closed_form(rng):
    # N(0, 1) and N(1, 4) in each of 3 dimensions: 3 (1 + 1) = 6. Over 100 seeds the estimate has mean 6.00 and standard
    # deviation 0.10 for 20,000 samples; 4 of them are exceeded by less than 0.01 %.
    x, y = torch.randn(2, 20_000, 3, generator=rng)
    assert abs(frechet_distance(x, 1 + 2 * y).item() - 6.0) < 4 * 0.10


# Kernel distance


def test_kernel_distance_is_the_mean_of_its_subsets(rng):
    x, y = torch.randn(12, 3, generator=rng).double(), torch.randn(15, 3, generator=rng).double()
    found = kernel_distance(x, y, subsets=2, seed=3)
    g = torch.Generator().manual_seed(3)
    i, j = torch.randperm(12, generator=g), torch.randperm(15, generator=g)

    def k(a, b):
        return ((a[:, None] * b).sum(-1) / 3 + 1) ** 3

    def off_diagonal(m):
        return (m.sum() - m.trace()) / 30

    parts = [(x[i[s]], y[j[s]]) for s in (slice(0, 6), slice(6, 12))]
    values = torch.stack([off_diagonal(k(a, a)) + off_diagonal(k(b, b)) - 2 * k(a, b).mean() for a, b in parts])
    assert found.value == pytest.approx(values.mean().item(), abs=1e-12)
    assert found.standard_error == pytest.approx(values.std().item() / math.sqrt(2), abs=1e-12)
    torch.testing.assert_close(Polynomial()(x, y), k(x, y))


def test_kernel_distance_is_unbiased(rng):
    # Of one distribution: the mean of 250 subsets of 4 is zero within 4 standard errors (fails for 6e-5 of seeds, up to
    # 1e-3 as the estimates have tails). With the diagonal, as a biased estimate has it, it would be above zero by
    # 2 (E k(x, x) - E k(x, y)) / 4, at least 8 standard errors, which the last comparison says.
    x, y = torch.rand(2, 1000, 2, generator=rng)
    found = kernel_distance(x, y, subsets=250)
    k = Polynomial()(x, y)
    biased = (Polynomial()(x, x).diagonal().mean() - k.mean()).item() / 2
    assert abs(found.value) < 4 * found.standard_error < biased / 2
    # U(0, 1) and U(0, 2): E k = E (x x' + 1)^3 = 1 + 3 m^2 + 3 s^2 + t^2, with products m, s, t of the moments of order
    # 1, 2, 3: (1/2, 1/3, 1/4) and (1, 4/3, 2). The squared discrepancy is 3 (1/2)^2 + 3 (1)^2 + (7/4)^2 = 6.8125.
    x, y = torch.rand(2, 4000, 1, generator=rng)
    found = kernel_distance(x, 2 * y, subsets=40)
    assert abs(found.value - 6.8125) < 4 * found.standard_error < 1.5


def test_kernel_distance_takes_other_kernels(rng):
    x, y = torch.randn(2, 400, 2, generator=rng)
    found = kernel_distance(x, y + 1, subsets=4, kernel=RBF(1.0))
    assert found.value == pytest.approx(mmd(x, y + 1, bandwidth=1.0).item(), abs=5 * found.standard_error)


# Precision, recall, density, coverage


def test_prdc_of_points_made_by_hand():
    # Data 0, 1, 3, 7 have balls of radius 1, 1, 2, 4 to the nearest other: [-1, 1], [0, 2], [1, 5], [3, 11].
    # Samples 0.5, 3.5, 12, 20 have radius 3, 3, 8, 8: [-2.5, 3.5], [0.5, 6.5], [4, 20], [12, 28].
    x, y = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([[0.5], [3.5], [12.0], [20.0]])
    found = prdc(x, y, neighbours=1)
    assert found.precision == 2 / 4  # 0.5 and 3.5
    assert found.density == (2 + 2 + 0 + 0) / 4  # in [-1, 1] and [0, 2]; in [1, 5] and [3, 11]
    assert found.coverage == 4 / 4
    assert found.recall == 4 / 4  # 7 in [4, 20]
    apart = prdc(x, x + 100.0, neighbours=1)
    assert apart == (0.0, 0.0, 0.0, 0.0)
    one = prdc(x, torch.full((4, 1), 0.1), neighbours=1)  # collapsed: precise, but recalls nothing
    assert one == (1.0, 0.0, 2.0, 0.5)


def test_prdc_of_one_distribution_has_known_expectations(rng, monkeypatch):
    # Whatever the distribution, by ranks: density 1, coverage 1 - prod (n - i) / (n + m - i). Means of 100 repetitions
    # within 4 standard errors (fails for 3e-4 of seeds).
    n, m, k = 30, 20, 3
    runs = [prdc(torch.randn(n, 2, generator=rng).exp(), torch.randn(m, 2, generator=rng).exp(), k) for _ in range(100)]
    density, coverage = torch.tensor([(run.density, run.coverage) for run in runs]).T
    expected = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    assert within(density, 1.0, 4) and within(coverage, expected, 4)
    x, y = torch.randn(2, 40, 3, generator=rng)
    whole = prdc(x, y)
    monkeypatch.setattr(vectors, "_BLOCK_ENTRIES", 120)  # three rows at a time
    assert prdc(x, y) == whole
    assert prdc(y, x).precision == whole.recall


# Errors

X = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: embed(nn.Identity(), X[:0]), "x, batch_size: expected at least 1"),
        (lambda: parzen(X, X[:, :1], 1.0), "x: expected shape"),
        (lambda: parzen(X[:0], X, 1.0), "samples, x: expected at least 1"),
        (lambda: parzen(X, X[:1], 1.0), "at least 2"),
        (lambda: parzen(X / 0, X, 1.0), "samples: expected finite"),
        (lambda: parzen(X, X, 0.0), "bandwidth: expected a positive"),
        (lambda: parzen(X, X, []), "bandwidth: expected a positive"),
        (lambda: parzen(X, X, [1.0, 2.0]), "validation: expected data"),
        (lambda: mode_coverage(X, X[:, :1], 1.0), "centres: expected shape"),
        (lambda: mode_coverage(X, X, 0.0), "scale, radius"),
        (lambda: mode_coverage(X, X, torch.ones(3)), "scale, radius"),
        (lambda: frechet_distance(X[:1], X), "at least 2"),
        (lambda: frechet_distance_of_moments(X[0], X, X[0], X), r"cov_x: expected shape \(2, 2\)"),
        (lambda: frechet_distance_of_moments(X[0], -torch.eye(2), X[0], X[:2]), "cov_x: expected a positive"),
        (lambda: frechet_distance_of_moments(X[0], torch.ones(2, 2).triu(), X[0], X[:2]), "cov_x: expected a symm"),
        (lambda: kernel_distance(X, X, subsets=1), "subsets: expected at least 2"),
        (lambda: kernel_distance(X, X, subsets=3), "2 samples for each"),
        (lambda: Polynomial(0), "degree"),
        (lambda: prdc(X, X, 4), "x, y: expected at least 5"),
        (lambda: prdc(X, X, 0), "neighbours"),
        (lambda: class_coverage(X[:, 0], 10), "labels: expected integers"),
        (lambda: class_coverage(torch.tensor([10]), 10), "labels: expected 0 to 9"),
    ],
)
def test_errors_say_what_was_expected(call, match):
    with pytest.raises(ValueError, match=match):
        call()
