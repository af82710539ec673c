"""Scores of samples against known truths: sums written out, closed forms of Gaussians, sets of points made by hand.

Every random test has a fixed seed; the failure rate over seeds, if the code is right, is stated in place.
"""

import math

import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyro_dgm.evaluation import class_coverage, embed, mode_coverage, parzen, vectors


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
        (lambda: class_coverage(X[:, 0], 10), "labels: expected integers"),
        (lambda: class_coverage(torch.tensor([10]), 10), "labels: expected 0 to 9"),
    ],
)
def test_errors_say_what_was_expected(call, match):
    with pytest.raises(ValueError, match=match):
        call()
