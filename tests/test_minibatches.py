"""The mean of the ELBOs of an epoch's minibatches is the ELBO of all data."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn

from pyro_dgm.objectives import ELBO, FreeBits
from pyro_dgm.objectives.divergence import of_programs

from .test_elbo import X, vae


class Point(nn.Module):
    """A posterior without noise, so that bounds can be compared exactly."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(3, 2)

    def forward(self, x):
        return dist.Delta(self.network(x), event_dim=1)


@pytest.mark.parametrize("settings", [{}, {"charges": [FreeBits(0.0)]}, {"analytic": True}], ids=str)
def test_minibatches_of_a_model_are_unbiased(settings):
    """Batches of 5, 5 and 2 of 12 data, by the model and by its programs that count as 12."""
    model = vae(Point())
    full = -(model.decode(model.infer(X).v).log_prob(X) + model.prior().log_prob(model.infer(X).v))
    torch.testing.assert_close(ELBO(**settings)(model)(X), full.mean())
    mean = sum(len(b) / 12 * ELBO(**settings)(model)(b) for b in X.split(5))
    torch.testing.assert_close(mean, full.mean())
    svi = SVI(model.model, model.guide, Adam({}), ELBO(**settings))
    mean = sum(len(b) / 12 * svi.evaluate_loss(b, data_size=12) for b in X.split(5))
    assert mean == pytest.approx(full.mean().item())
    assert ELBO(**settings)(model)(X[:5], data_size=12).item() == pytest.approx(full[:5].mean().item())


@pytest.mark.parametrize("settings", [{}, {"charges": [FreeBits(0.0)]}, {"analytic": True}], ids=str)
def test_minibatches_with_a_global_latent_are_unbiased(settings):
    """Subsampling plates: the mean over an epoch of batches is the full bound, the global latent counted once."""

    def model(x, index=None):
        m = pyro.sample("m", dist.Normal(torch.tensor(0.0, dtype=x.dtype), 1.0))
        with pyro.plate("data", 12, subsample=index) as i:
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def guide(x, index=None):
        pyro.sample("m", dist.Delta(torch.tensor(0.7, dtype=x.dtype)))
        with pyro.plate("data", 12, subsample=index) as i:
            pyro.sample("z", dist.Delta(0.5 * x[i]))

    x, m, z = X[:, 0], torch.tensor(0.7, dtype=torch.float64), 0.5 * X[:, 0]
    logs = dist.Normal(m, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    full = -(logs.sum() + dist.Normal(0.0, 1.0).log_prob(m)) / 12
    bound = ELBO(**settings)(model, guide)
    torch.testing.assert_close(bound(x), full)
    parts = [bound(x, index) for index in torch.randperm(12).split(3)]
    torch.testing.assert_close(sum(parts) / 4, full)
    assert float(torch.stack(parts).std()) > 0.01
    kl = of_programs(model, guide, (x, torch.arange(3)), {}, n=12, num_particles=1, analytic=False).divergences
    torch.testing.assert_close(
        kl["z"], -dist.Normal(m, 1.0).log_prob(z[:3])
    )  # of each datum, whatever the plate's scale
    torch.testing.assert_close(kl["m"], -dist.Normal(0.0, 1.0).log_prob(m) / 12)
