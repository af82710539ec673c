"""Importance-weighted objectives of posteriors of all kinds, traced, under fit, SVI and Pyro's own estimators."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, RenyiELBO, ReweightedWakeSleep, TraceEnum_ELBO
from pyro.nn import PyroSample
from pyro.optim import Adam
from torch import nn

from pyro_dgm import fit
from pyro_dgm.distributions.marginal import draw
from pyro_dgm.models import GAN, IAF, VAE, DiagonalNormal, RealNVP, StandardNormal
from pyro_dgm.objectives import ELBO, IWAE, RWS, VIMCO, DReG
from pyro_dgm.objectives.importance import _along_paths
from pyro_dgm.training import trace

from .statistics import within
from .test_importance import ALL, PATHS, binary, gaussian
from .zoo import MODELS, C, perturb


@pytest.mark.parametrize("posterior", ["normal", "RealNVP", "IAF"])
def test_only_the_path_of_a_draw_is_differentiated(posterior):
    """The gradient of log q at its own draw, less the score, parameter by parameter."""
    kind = {"RealNVP": RealNVP, "IAF": IAF}.get(posterior)
    q = DiagonalNormal(2, 3, (8,)) if kind is None else kind(2, 3, transforms=2, hidden_features=(8,))
    vae = perturb(VAE(StandardNormal(2), DiagonalNormal(3, 2, (8,)), q)).double()
    x, phi = torch.randn(5, 3, dtype=torch.float64), list(vae.posterior.parameters())
    p = vae()
    torch.manual_seed(1)
    z, log_w = _along_paths(p, p.proposal(x), x, 4)
    torch.manual_seed(1)
    same, log_q = draw(p.proposal(x), (4,))
    total = vae.decode(same).log_prob(x) + p.prior.log_prob(same) - log_q["z"]
    torch.testing.assert_close(log_w, total)
    got = torch.autograd.grad(log_w.sum(), phi, allow_unused=True, materialize_grads=True)
    score = torch.autograd.grad(vae.infer(x).log_prob(z.detach()).sum(), phi, allow_unused=True, materialize_grads=True)
    full = torch.autograd.grad(total.sum(), phi, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(list(got), [f + s for f, s in zip(full, score, strict=True)], rtol=1e-6, atol=1e-8)


def test_a_discrete_posterior_is_refused_where_the_gradient_would_be_wrong():
    vae, x = binary(), torch.ones(4, 5, dtype=torch.float64)
    for kind in PATHS.values():
        with pytest.raises(NotImplementedError, match="train with VIMCO"):
            kind(3)(vae)(x)
    categories = VAE(Categories(), DiagonalNormal(2, 3, (4,)), Encoder())
    for kind in (VIMCO, RWS):
        loss = kind(4)(categories)(torch.randn(6, 2))
        loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in categories.parameters())


class Categories(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3))

    def forward(self):
        return dist.OneHotCategorical(logits=self.logits)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(2, 3)

    def forward(self, x):
        return dist.OneHotCategorical(logits=self.network(x))


def test_enumeration_sums_latents_out():
    """With it the ELBO is exact in z, up to the divergence from the posterior."""
    vae, x = VAE(Categories(), DiagonalNormal(2, 3, (4,)), Encoder()).double(), torch.randn(6, 2, dtype=torch.float64)
    z = torch.eye(3, dtype=torch.float64)[:, None]
    log_q = vae.infer(x).log_prob(z)
    terms = vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - log_q
    exact = -(log_q.exp() * terms).sum(0).mean()
    loss = ELBO(TraceEnum_ELBO(max_plate_nesting=1))(vae)(x)
    torch.testing.assert_close(loss, exact)
    expected = torch.autograd.grad(exact, list(vae.parameters()))
    torch.testing.assert_close(torch.autograd.grad(loss, list(vae.parameters())), expected)


# --- where they are used -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("name", ["VAE", "VAE-flows"])
def test_traced_equals_eager(name, kind):
    row = MODELS[name]
    model = row.build(C)
    batch = row.data(model), torch.randn(6, C)
    bound = ALL[kind](3)(model)
    traced, found = trace(bound, batch), []
    for loss in (traced, bound):
        torch.manual_seed(4)
        value = loss(*batch)
        found.append([value.detach(), *torch.autograd.grad(value, list(model.parameters()), allow_unused=True)])
    torch.testing.assert_close(*found)


def test_fit_learns_a_linear_gaussian_model_and_reports_particles(replayed_not_compiled):
    """The bound ends within 0.05 nats of the maximum likelihood of these 300 data, of which PCA tells."""
    torch.manual_seed(1)
    x = torch.randn(300, 1) @ torch.tensor([[1.0, -0.5, 0.3]]) + 0.4 * torch.randn(300, 3)
    values, _ = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise = values[:2].mean()
    best = -0.5 * (3 * math.log(2 * math.pi) + values[2].log() + 2 * noise.log() + 3)
    vae = VAE(
        StandardNormal(1),
        DiagonalNormal(3, 1, network=nn.Linear(1, 3), shared_scale=True),
        DiagonalNormal(1, 3, network=nn.Linear(3, 2)),
    )
    settings = {"batch_size": 100, "max_epochs": 60, "progress": False, "seed": 0, "compile": True}
    settings["optimizer"] = partial(torch.optim.Adam, lr=0.05)
    history = fit(vae, x, objective=DReG(8), validation=x, **settings)
    assert -history["validation"][history.best_epoch - 1] > float(best) - 0.05
    assert all(1 <= ess <= 8 for ess in history["ess"]) and history["ess"][-1] > history["ess"][0]
    assert history.losses == ["loss", "validation"]


@pytest.mark.parametrize("kind", ALL)
def test_svi_learns_every_parameter(kind):
    vae = binary() if kind in ("VIMCO", "RWS") else gaussian()
    x = vae().sample((10,))
    before = [p.detach().clone() for p in vae.parameters()]
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.01}), ALL[kind](3))
    assert math.isfinite(svi.step(x)) and math.isfinite(svi.evaluate_loss(x))
    assert all(bool((p != b).any()) for p, b in zip(vae.parameters(), before, strict=True))


def test_low_precision_ends_at_the_weights():
    vae, x = MODELS["VAE"].build(), torch.randn(5, 3)
    for kind in ALL.values():
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = kind(4)(vae)(x)
        torch.manual_seed(0)
        assert loss.dtype == torch.float32 and abs((loss - kind(4)(vae)(x)).item()) < 0.1
        loss.backward()


def test_other_models_are_refused_with_what_to_use():
    def program(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    for kind in ALL.values():
        with pytest.raises(ValueError, match=r"use ELBO\(RenyiELBO\(alpha=0.0, num_particles=3\)\)"):
            kind(3)(program, program)(torch.randn(3))
        with pytest.raises(ValueError, match="expected a latent variable model"):
            kind(3)(GAN(2))(torch.randn(3, 2))
    vae = gaussian()
    vae.likelihood.network = pyro.nn.PyroModule[nn.Linear](1, 2)
    vae.likelihood.network.weight = PyroSample(dist.Normal(0.0, 1.0).expand((2, 1)).to_event(2))
    with pytest.raises(ValueError, match="VAE with random weights"):
        IWAE(3)(vae)(torch.randn(3, 2))
    for make, least in ((IWAE, 1), (VIMCO, 2), (RWS, 2)):
        with pytest.raises(ValueError, match=f"num_particles: expected at least {least}"):
            make(least - 1)


def test_pyros_own_estimators():
    """Renyi's bound is per datum, as IWAE is; ReweightedWakeSleep trains, and weighs the batch as a whole.

    100 draws of each bound, compared at 4.5 standard errors of their difference: fails once in 150,000 runs.
    """
    vae, x = gaussian(), torch.randn(6, 2, dtype=torch.float64)
    renyi = ELBO(RenyiELBO(alpha=0.0, num_particles=4, vectorize_particles=True, max_plate_nesting=1))(vae)
    with torch.no_grad():
        difference = torch.stack([renyi(x) - IWAE(4)(vae)(x) for _ in range(100)])
    assert within(difference, 0.0, 4.5)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.01}), ReweightedWakeSleep(num_particles=4, max_plate_nesting=1))
    torch.manual_seed(0)
    theta, _ = svi.evaluate_loss(x)
    torch.manual_seed(0)
    log_w = IWAE(4).log_weights(vae, x)
    assert theta == pytest.approx(-float(log_w.sum(-1).logsumexp(0) - math.log(4)))
    before = [p.detach().clone() for p in vae.parameters()]
    svi.step(x)
    assert all(bool((p != b).any()) for p, b in zip(vae.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="RWS stands for"):
        ELBO(ReweightedWakeSleep(num_particles=4))
