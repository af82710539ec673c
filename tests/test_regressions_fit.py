"""Defects of training found by trying to break it, one test each, so that they stay mended."""

import copy

import numpy as np
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_dgm import fit
from pyro_dgm.models import (
    GAN,
    NSF,
    VAE,
    DiagonalNormal,
    RealNVP,
    StandardNormal,
)
from pyro_dgm.objectives import ELBO, Adversarial, LinearWarmup
from pyro_dgm.training import NonFiniteError
from pyro_dgm.transforms import ActNorm, Compose, Coupling, Standardize

from .test_regressions import SMALL, X, vae


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro's own remark on the same event
def test_running_statistics_survive_a_bad_batch():
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    model = VAE(StandardNormal(2), DiagonalNormal(2, 2, (8,)), DiagonalNormal(2, 2, network=network))
    x = torch.cat([torch.randn(64, 2), torch.full((32, 2), 1e38)])
    with pytest.raises(NonFiniteError):
        fit(model, DataLoader(TensorDataset(x), batch_size=32), progress=False)
    assert all(v.isfinite().all() for v in model.state_dict().values())


def test_diverging_networks_are_explained_under_validation():
    model = DiagonalNormal(2)
    with torch.no_grad():
        model.network.value.fill_(3e38)
    with pytest.raises(NonFiniteError, match="step 0"):
        fit(model, torch.randn(32, 2) * 1e30, progress=False)


def test_a_player_that_did_not_move_has_no_loss():
    history = fit(GAN(2, hidden_features=(8,)), torch.randn(64, 2), objective=Adversarial(critic_steps=5), max_epochs=3,
                  batch_size=32, progress=False)  # fmt: skip
    assert np.isnan(history["generator"][0]) and not np.isnan(history["generator"][2])


def test_refused_settings_leave_the_model_uninitialised():
    model = NSF(2, **SMALL)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="optimizer"):
        fit(model, 5 + X, optimizer={"wrong": torch.optim.Adam}, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_loader_moments_come_from_many_batches():
    x = torch.arange(1000.0)[:, None].expand(-1, 2).contiguous()
    model = RealNVP(2, **SMALL)
    fit(model, DataLoader(TensorDataset(x), batch_size=10), max_epochs=1, progress=False)
    torch.testing.assert_close(model.transform.transforms[-1].mean, x.mean(0))


def test_initialisation_is_bounded_in_memory():
    rows = []

    class Recorder(Coupling):
        def inverse_and_ladj(self, y, context=None):
            rows.append(len(y))
            return super().inverse_and_ladj(y, context)

    x = torch.randn(10_000, 2)
    Compose([Recorder([True, False]), Standardize(2)]).initialize(x)
    assert not rows  # nothing behind the coupling to fit
    Compose([ActNorm(2), Recorder([True, False]), Standardize(2)]).initialize(x)
    assert sum(rows) == 10_000 and max(rows) <= 4096


def test_arrays_with_strange_layout():
    x = np.random.RandomState(0).randn(20, 2)
    fit(RealNVP(2, **SMALL), x[::-1].astype(">f8"), max_epochs=1, progress=False)


def test_evaluating_does_not_warm_up():
    warm, model = LinearWarmup(10), vae()
    svi = SVI(model.model, model.guide, Adam({}), ELBO(kl_weight=warm))
    svi.evaluate_loss(torch.randn(4, 3))
    assert warm.step == 0 and warm.training
    svi.step(torch.randn(4, 3))
    assert warm.step == 1


def test_losses_through_methods_are_per_datum_whatever_the_batch_shape():
    model, x = vae(), torch.randn(3, 5, 3)
    svi = SVI(model.model, model.guide, Adam({}), ELBO())
    assert svi.evaluate_loss(x) == pytest.approx(svi.evaluate_loss(x.flatten(0, 1)), rel=0.5)
