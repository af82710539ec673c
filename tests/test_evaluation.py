"""Evaluation against known truths: entropies, noise, equal and different samples, both forms of ArviZ.

Models are small fakes that keep the contract: called with a context, they return a distribution that says
what its density is. Every random test has a fixed seed; the failure rate over seeds, if the code is right,
is stated in place.
"""

import math
import sys
import types

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.evaluation import (
    bits_per_dim,
    c2st,
    compare,
    held_out,
    log_likelihood,
    mmd,
    mmd_test,
    to_arviz,
)
from pyro_dgm.evaluation.arviz_export import from_groups


class Gaussian(nn.Module):
    """N(shift + sum of context, scale^2) on each of `event_shape`; remembers how it was called."""

    def __init__(self, event_shape=(2,), scale=1.0, shift=0.0, density="exact"):
        super().__init__()
        self.event_shape, self.scale, self.shift, self.density = event_shape, scale, shift, density
        self.inner = nn.Dropout()
        self.largest, self.modes = 0, set()

    def forward(self, context=None):
        loc = torch.full(self.event_shape, self.shift)
        if context is not None:
            ones = (1,) * len(self.event_shape)
            loc = loc + context.sum(-1).reshape(*context.shape[:-1], *ones)
        p = dist.Normal(loc, self.scale).to_event(len(self.event_shape))
        p.density = self.density
        score = p.log_prob

        def log_prob(x):
            if self.density == "implicit":
                raise NotImplementedError("no density")
            self.largest = max(self.largest, len(x))
            self.modes |= {module.training for module in self.modules()} | {torch.is_grad_enabled()}
            return score(x)

        p.log_prob = log_prob
        return p


class Latent(Gaussian):
    """With a posterior q(z | x) = N(first two inputs, 0.01^2)."""

    def infer(self, x, context=None):
        self.seen = x, context
        return dist.Normal(x.flatten(1)[:, :2], 0.01).to_event(1)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(20240607)


# Likelihood


def test_uniform_noise_has_exactly_eight_bits_per_dim(rng):
    class Uniform(nn.Module):
        def forward(self, context=None):
            return dist.Uniform(torch.zeros(3, 4, 4), torch.ones(3, 4, 4)).to_event(3)

    k = torch.randint(256, (50, 3, 4, 4), generator=rng)
    x = (k + torch.rand(k.shape, generator=rng)) / 256
    result = held_out(Uniform(), x.clamp(max=1 - 1e-6), levels=256)
    assert result.bits_per_dim == 8.0
    assert (result.mean, result.standard_error, result.density, result.n) == (0.0, 0.0, "exact", 50)


def test_bits_per_dim_of_a_gaussian():
    # -log p / (D ln 2) for p = 2^-D is one bit for each dimension, and log2(levels) more after rescaling.
    log_p = torch.tensor([-6 * math.log(2.0), 0.0], dtype=torch.float64)
    assert torch.allclose(bits_per_dim(log_p, (2, 3)), torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert torch.allclose(bits_per_dim(log_p, (6,), 32), torch.tensor([6.0, 5.0], dtype=torch.float64))
    assert bits_per_dim(log_p[0], ()).item() == pytest.approx(6.0)


def test_held_out_gaussian_is_its_negative_entropy(rng):
    # Within 3 SE: fails for 0.3 % of seeds.
    model = Gaussian((3,), scale=2.0)
    x = 2.0 * torch.randn(4000, 3, generator=rng)
    result = held_out(model, x)
    entropy = 1.5 * (1 + math.log(2 * math.pi * 4.0))
    assert abs(result.mean + entropy) < 3 * result.standard_error
    # log p is a constant minus half a chi-square of 3 degrees, whose variance is 6.
    assert result.standard_error == pytest.approx(math.sqrt(6 / 4 / 4000), rel=0.1)
    assert "exact" in str(result) and "nats" in str(result)


@pytest.mark.parametrize("context_shape", [None, (10, 2), (2,)])
def test_batches_do_not_change_the_answer(context_shape, rng):
    model = Gaussian((2, 3))
    x = torch.randn(10, 2, 3, generator=rng)
    context = None if context_shape is None else torch.randn(context_shape, generator=rng)
    batched = log_likelihood(model, x, context, batch_size=3)
    assert model.largest == 3
    assert batched.shape == (10,)
    assert torch.equal(batched, log_likelihood(model, x, context))
    shift = 0.0 if context is None else context.sum(-1).reshape(-1, 1, 1)
    truth = dist.Normal(shift, 1.0).log_prob(x).sum((1, 2))
    assert torch.allclose(batched, truth)


def test_evaluation_mode_inside_own_mode_outside():
    model = Gaussian()
    model.train()
    model.inner.eval()  # someone froze this part
    log_likelihood(model, torch.zeros(3, 2))
    assert model.modes == {False}, "neither training mode nor gradients"
    assert model.training and not model.inner.training
    with pytest.raises(ValueError):
        log_likelihood(model, torch.zeros(3, 5))
    assert model.training and not model.inner.training


IMPLICIT = Gaussian(density="implicit")
X = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: log_likelihood(IMPLICIT, X), NotImplementedError, "c2st"),
        (lambda: held_out(IMPLICIT, X), NotImplementedError, "mmd"),
        (lambda: compare({"a": Gaussian(), "gan": IMPLICIT}, X), ValueError, "'gan'"),
        (lambda: compare({}, X), ValueError, "models"),
        (lambda: log_likelihood(Gaussian(), X[:, :1]), ValueError, r"expected shape \(n, \*\(2,\)\)"),
        (lambda: log_likelihood(Gaussian(), X, torch.zeros(3, 1)), ValueError, "context"),
        (lambda: log_likelihood(Gaussian(), X, torch.zeros(4, 5, 1)), ValueError, "context"),
        (lambda: log_likelihood(Gaussian(), X, batch_size=0), ValueError, "batch_size"),
        (lambda: held_out(Gaussian(), X[:1]), ValueError, "at least 2"),
        (lambda: bits_per_dim(torch.zeros(1), (2,), levels=1), ValueError, "levels"),
        (lambda: c2st(X, X[:3]), ValueError, "y: expected the shape"),
        (lambda: c2st(X, X, folds=9), ValueError, "folds"),
        (lambda: mmd(X, torch.zeros(4, 3)), ValueError, "y: expected"),
        (lambda: mmd(X[:1], X), ValueError, "at least 2"),
        (lambda: mmd(X, X), ValueError, "bandwidth"),
        (lambda: mmd(X, X, bandwidth=-1.0), ValueError, "bandwidth"),
        (lambda: mmd_test(X, X, permutations=0), ValueError, "permutations"),
        (lambda: to_arviz(Gaussian(), X[:0]), ValueError, "at least 1"),
        (lambda: to_arviz(Gaussian(), X, torch.zeros(3, 1)), ValueError, "context"),
    ],
)
def test_errors_say_what_was_expected(call, error, match):
    with pytest.raises(error, match=match):
        call()


# Comparison


def test_compare_by_the_paired_formula(rng):
    x = torch.randn(200, 2, generator=rng).double()
    models = {
        "wide": Gaussian(scale=2.0),
        "true": Gaussian(),
        "bound": Gaussian(shift=0.5, density="lower_bound"),
    }
    table = compare(models, x)
    assert [row.rank for row in table.rows] == [0, 1, 2]
    assert table.rows[0].name == "true", "the truth wins: the others are 70 nats or more below"
    scores = {name: log_likelihood(model, x).numpy() for name, model in models.items()}
    for row in table.rows:
        a, diff = scores[row.name], scores["true"] - scores[row.name]
        assert row.elpd == pytest.approx(a.sum())
        assert row.se == pytest.approx(np.sqrt(200 * a.var(ddof=1)))
        assert row.elpd_diff == pytest.approx(diff.sum())
        assert row.dse == pytest.approx(np.sqrt(200 * diff.var(ddof=1)))
        assert row.density == models[row.name].density
    assert held_out(models["wide"], x).mean * 200 == pytest.approx(scores["wide"].sum())


def test_compare_prints_and_converts(rng):
    x = torch.randn(20, 2, generator=rng)
    table = compare({"a": Gaussian(), "b": Gaussian(scale=3.0, density="lower_bound")}, x)
    text = str(table)
    assert all(word in text for word in ("rank", "elpd", "elpd_diff", "se", "dse", "nats", "n = 20"))
    assert "at least" in text, "a bound is marked"
    assert "at least" not in str(compare({"a": Gaussian()}, x))
    frame = table.to_pandas()
    assert list(frame.columns) == ["rank", "elpd", "elpd_diff", "se", "dse", "density"]
    assert frame.loc["b", "elpd"] == table.rows[1].elpd


# Two-sample tests


def test_c2st_half_for_equal_samples(rng):
    # Within 4 binomial SE of chance. Over 100 seeds the deviation in SE has mean -0.2 and standard deviation
    # 1.3 (folds share training data), so this fails for about 0.3 % of seeds.
    x, y = torch.randn(2, 200, 2, generator=rng)
    accuracy, standard_error = c2st(x, y, folds=3)
    assert abs(accuracy - 0.5) < 4 * standard_error
    assert standard_error == pytest.approx(0.025, rel=0.1)
    assert c2st(x, y, folds=3) == (accuracy, standard_error), "same seed, same answer"


def test_c2st_one_for_disjoint_samples(rng):
    # Ten standard deviations apart, and on another scale: no seed fails.
    x, y = 1e3 * torch.randn(2, 100, 1, 2, generator=rng)
    assert c2st(x, y + 1e4, folds=2).accuracy > 0.99


def test_mmd_is_its_definition(rng):
    x, y = torch.randn(7, 3, generator=rng).double(), torch.randn(5, 3, generator=rng).double() + 1
    h = 1.3

    def k(a, b):
        return torch.exp(-((a[:, None] - b) ** 2).sum(-1) / (2 * h**2))

    def off_diagonal(kernel):
        return (kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1))

    truth = off_diagonal(k(x, x)) + off_diagonal(k(y, y)) - 2 * k(x, y).mean()
    assert mmd(x, y, bandwidth=h).item() == pytest.approx(truth.item(), abs=1e-12)
    # Far from the origin nothing changes, and the default bandwidth is the median distance.
    assert mmd(x + 1e6, y + 1e6, bandwidth=h).item() == pytest.approx(truth.item(), abs=1e-8)
    median = torch.nn.functional.pdist(torch.cat([x, y])).median().item()
    assert mmd(x, y).item() == pytest.approx(mmd(x, y, bandwidth=median).item(), abs=1e-12)


def test_mmd_in_blocks(rng, monkeypatch):
    from pyro_dgm.evaluation import vectors

    x, y = torch.randn(40, 2, generator=rng), torch.randn(31, 2, generator=rng)
    whole = mmd(x, y)
    p = mmd_test(x, y)
    monkeypatch.setattr(vectors, "_BLOCK_ENTRIES", 300)  # four rows at a time
    assert mmd(x, y).item() == pytest.approx(whole.item(), abs=1e-12)
    assert mmd_test(x, y) == p


def test_mmd_of_gaussians_has_a_closed_form(rng):
    # For N(0, 1), N(1, 1) and bandwidth 1: E k(x, x') = sqrt(1/3), E k(x, y) = sqrt(1/3) exp(-1/6). The
    # estimate's standard deviation is 0.012 (over 60 seeds); 4 of them are exceeded by less than 0.01 %.
    x, y = torch.randn(2, 2000, 1, generator=rng)
    truth = 2 * math.sqrt(1 / 3) * (1 - math.exp(-1 / 6))
    assert abs(mmd(x, y + 1.0, bandwidth=1.0).item() - truth) < 4 * 0.012


def test_mmd_test_level_and_power(rng):
    # Null: p-values are uniform on {1/100, ..., 1}. That 5 or more of 20 are <= 5 % has probability 0.3 %,
    # that their mean is off 1/2 by more than 0.2 (three standard deviations) 0.2 %.
    nulls = [mmd_test(*torch.randn(2, 30, 2, generator=rng), permutations=99, seed=i) for i in range(20)]
    assert sum(p <= 0.05 for p in nulls) < 5
    assert abs(sum(nulls) / 20 - 0.5) < 0.2
    # Shifted by one standard deviation with 100 samples: the smallest p-value for each of 100 seeds.
    x, y = torch.randn(2, 100, 2, generator=rng)
    assert mmd_test(x, y + 1.0) == pytest.approx(1 / 201)


def test_two_sample_tests_leave_global_generators_alone(rng):
    x, y = torch.randn(2, 20, 2, generator=rng)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    c2st(x, y, folds=2)
    mmd_test(x, y, permutations=10)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


# ArviZ


@pytest.mark.parametrize("context_shape", [None, (6, 3), (3,)])
@pytest.mark.parametrize("density", ["exact", "lower_bound", "implicit"])
def test_to_arviz_with_the_installed_version(context_shape, density, rng):
    model = Latent((2, 2), density=density).train()
    x = torch.randn(6, 2, 2, generator=rng)
    context = None if context_shape is None else 10 * torch.randn(context_shape, generator=rng)
    torch.manual_seed(0)
    data = to_arviz(model, x, context, num_samples=50, batch_size=32)
    assert np.array_equal(data["observed_data"]["x"].values, x.numpy())
    predicted = data["posterior_predictive"]["x"]
    assert predicted.dims[:2] == ("chain", "draw")
    assert predicted.shape == (1, 50, 6, 2, 2)
    # Each datum follows its own context: means of 200 numbers within 5 SE (fails for 4e-6 of seeds).
    truth = np.zeros(6) if context is None else np.broadcast_to(context.sum(-1).numpy(), 6)
    assert np.abs(predicted.values.mean((0, 1, 3, 4)) - truth).max() < 5 / math.sqrt(200)
    z = data["posterior"]["z"]
    assert z.shape == (1, 50, 6, 2)
    assert np.abs(z.values.mean((0, 1)) - x.flatten(1)[:, :2].numpy()).max() < 0.01
    assert model.seen[0] is x and model.seen[1] is context
    if density == "implicit":
        assert "log_likelihood" not in list(data)
    else:
        scores = data["log_likelihood"]["x"]
        assert scores.shape == (1, 1, 6)
        assert np.array_equal(scores.values[0, 0], log_likelihood(model, x, context).numpy())
        assert data["log_likelihood"].attrs["density"] == density
    assert model.training


def test_to_arviz_without_latents_or_scalar_events():
    data = to_arviz(Gaussian(()), torch.zeros(3), num_samples=1)
    assert data["posterior_predictive"]["x"].shape == (1, 1, 3)
    assert "posterior" not in list(data)


GROUPS = {"observed_data": {"x": np.zeros(3)}, "log_likelihood": {"x": np.zeros((1, 1, 3))}}


@pytest.mark.parametrize("version", ["0.23.4", "1.0.0", "1.3.0"])
def test_from_groups_calls_each_version_as_it_wants(version, monkeypatch):
    calls = []

    def keywords(posterior=None, *, posterior_predictive=None, log_likelihood=None, observed_data=None):
        calls.append({"observed_data": observed_data, "log_likelihood": log_likelihood})
        return {"log_likelihood": types.SimpleNamespace(attrs={})}

    def nested(data, *, name=None, coords=None, dims=None):
        calls.append(data)
        return {"log_likelihood": types.SimpleNamespace(attrs={})}

    fake = types.SimpleNamespace(__version__=version, from_dict=keywords if version < "1" else nested)
    monkeypatch.setitem(sys.modules, "arviz", fake)
    result = from_groups(GROUPS, density="exact")
    assert calls == [GROUPS]
    assert result["log_likelihood"].attrs == {"density": "exact"}
