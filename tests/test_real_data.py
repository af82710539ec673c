"""Readers on the real data, where there are some."""

import numpy as np
import pytest
import torch

from pyro_dgm import datasets

from .test_datasets import DATA, needs_data


@needs_data
def test_real_mnist():
    images, labels = datasets.mnist(DATA / "mnist", "test")
    assert images.shape == (10_000, 1, 28, 28) and labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert images.double().mean().item() == pytest.approx(33.79, abs=0.01)


@needs_data
@pytest.mark.parametrize(("name", "rows"), [("nltcs", 3236), ("dna", 1186), ("moviereview", 250)])
def test_real_debd(name, rows):
    assert len(datasets.debd(name, DATA / "debd", "test")) == rows


@needs_data
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bostonHousing", (406, 14)),
        ("concrete", (824, 9)),
        ("energy", (616, 9)),
        ("wine-quality-red", (1281, 11)),
        ("yacht", (248, 7)),
        ("power-plant", (7656, 5)),
    ],
)
def test_real_uci(name, shape):
    parts = datasets.uci(name, DATA / "uci")
    assert parts.train.shape == shape and len(parts.test) == len(parts.validation)


@needs_data
def test_real_ionosphere():
    assert datasets.read_table(DATA / "uci" / "ionosphere.csv.gz", range(2, 34)).shape == (351, 32)


@needs_data
def test_real_cifar10():
    images, labels, classes = datasets.cifar10(DATA / "cifar10", "test", per_class=3)
    assert images.shape == (30, 3, 32, 32) and labels.bincount().tolist() == [3] * 10 and classes[0] == "airplane"


# -- patches and the tables of the RNADE paper -------------------------------------------------------------------


def test_bsds300_takes_the_mean_away_and_leaves_the_last_pixel_out(tmp_path):
    sums = np.random.default_rng(0).integers(0, 766, (50, 64)).astype(np.uint16)
    np.savez(tmp_path / "valid.npz", rgb_sum=sums)
    x = datasets.bsds300("valid", tmp_path)
    assert x.shape == (50, 63)
    y = torch.from_numpy(sums / 3) / 256
    expected = (y - y.mean(1, keepdim=True))[:, :-1]
    assert (x - expected).abs().max() < 1 / 256 + 1e-6
    assert not x.equal(datasets.bsds300("valid", tmp_path, seed=1))
    np.savez(tmp_path / "test.npz", rgb_sum=sums[:, :5])
    np.savez(tmp_path / "train.npz", sums=sums)
    for split, match in (("test", r"shape \(n, 64\)"), ("train", "rgb_sum"), ("all", "expected one of")):
        with pytest.raises(ValueError, match=match):
            datasets.bsds300(split, tmp_path)


@needs_data
def test_real_bsds300_scores_what_is_published_for_a_gaussian():
    x = datasets.bsds300("valid", DATA / "bsds300").double()
    test = datasets.bsds300("test", DATA / "bsds300")
    assert test.shape == (50_000, 63)
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T))
    assert gaussian.log_prob(test.double()).mean().item() == pytest.approx(96.67, abs=1.5)


@needs_data
@pytest.mark.parametrize(
    ("name", "columns", "published", "tolerance"),  # the folds of the last two are not the authors'
    [("wine-quality-red", 11, -13.18, 0.02), ("wine-quality-white", 11, -13.20, 0.05), ("ionosphere", 32, -41.24, 0.5)],
)
def test_real_rnade_tables_score_what_is_published_for_a_gaussian(name, columns, published, tolerance):
    scores, rows = [], 0
    for fold in range(1, 11):
        data = datasets.rnade(name, fold, DATA / "uci")
        rows += len(data.test)
        x = torch.cat([data.train, data.validation]).double()
        torch.testing.assert_close(x.std(0, correction=0), torch.ones(columns).double(), atol=1e-4, rtol=0)
        gaussian = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T))
        scores.append(gaussian.log_prob(data.test.double()).mean().item())
    assert rows == len(data.train) + len(data.validation) + len(data.test)
    assert sum(scores) / 10 == pytest.approx(published, abs=tolerance)
    with pytest.raises(ValueError, match="fold: expected one of"):
        datasets.rnade(name, 0, DATA / "uci")
