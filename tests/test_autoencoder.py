"""Autoencoders against known truths: principal components, the score of a smoothed density, Jacobians by autograd."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_dgm import fit
from pyro_dgm.models import VAE, Autoencoder, DiagonalNormal, IndependentBernoulli, StandardNormal
from pyro_dgm.nn import GaussianNoise, MaskingNoise, SaltAndPepper, squared_jacobian_norm
from pyro_dgm.objectives import Reconstruction

from .statistics import within


def linear(features, latent):
    """Linear maps and one deviation: squared errors."""
    likelihood = DiagonalNormal(features, latent, network=nn.Linear(latent, features), shared_scale=True)
    return Autoencoder(StandardNormal(latent), likelihood, nn.Linear(features, latent))


def small(context=0, **settings):
    likelihood = DiagonalNormal(3, 2 + context, (8,))
    return Autoencoder(StandardNormal(2), likelihood, None, context, (8,), nn.Tanh, **settings)


def minimise(loss, x, steps):
    """Finds the minimum of a loss without noise, in far fewer steps than fit takes."""
    parameters = [p for player in loss.players for p in player.parameters]
    optimizer = torch.optim.LBFGS(parameters, 1.0, steps, line_search_fn="strong_wolfe", history_size=20)

    def closure():
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        return value

    optimizer.step(closure)


# --- what it learns --------------------------------------------------------------------------------------------------


def test_linear_maps_and_squared_errors_find_the_principal_components():
    torch.manual_seed(1)
    x = torch.randn(400, 5) * torch.tensor([3.0, 2.0, 0.7, 0.5, 0.3]) @ torch.linalg.qr(torch.randn(5, 5))[0] + 1
    model = linear(5, 2)
    minimise(Reconstruction()(model), x, 100)
    _, values, vectors = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    found = torch.linalg.qr(model.likelihood.network.weight)[0]
    principal = vectors[:2].mT
    assert (found @ found.mT - principal @ principal.mT).norm() < 0.01
    least = values[2:].square().sum() / x.numel()  # the variance that two components leave
    error = (model.reconstruct(x) - x).square().mean()
    assert (1 - 1e-5) * least < error < (1 + 1e-3) * least
    wrong = vectors[1:3].mT
    assert (found @ found.mT - wrong @ wrong.mT).norm() > 1


def test_denoising_tells_the_score_of_the_smoothed_density():
    """r(x) - x = sigma^2 d/dx log p_sigma(x), for a mixture of two normals, whose p_sigma is one too."""
    torch.manual_seed(0)
    sigma, wide = 0.3, 0.4
    x = torch.tensor([-1.0, 1.0])[torch.randint(2, (4096,))][:, None] + wide * torch.randn(4096, 1)
    likelihood = DiagonalNormal(1, 16, network=nn.Linear(16, 1), shared_scale=True)
    encoder = nn.Sequential(nn.Linear(1, 16), nn.Tanh())
    model = Autoencoder(StandardNormal(16), likelihood, encoder)
    noise = GaussianNoise(sigma)(torch.zeros(4, 4096, 1))
    minimise(Reconstruction(lambda x: x + noise)(model), x.expand(4, -1, -1), 100)
    grid = torch.linspace(-1.8, 1.8, 50)[:, None].requires_grad_()
    components = torch.distributions.Normal(torch.tensor([-1.0, 1.0]), (wide**2 + sigma**2) ** 0.5)
    (score,) = torch.autograd.grad(components.log_prob(grid).logsumexp(-1).sum(), grid)
    found = (model.reconstruct(grid) - grid).detach() / sigma**2
    assert (found - score).square().mean() < 0.02 * score.square().mean()
    assert (found + score).square().mean() > score.square().mean()  # the sign matters


def test_codes_get_a_distribution_afterwards():
    """Fitting the autoencoder leaves its prior alone, and fitting the prior the autoencoder; samples are then right."""
    torch.manual_seed(0)
    x = torch.randn(512, 1) * torch.tensor([2.0, 1.0]) + torch.tensor([5.0, 0.0]) + 0.1 * torch.randn(512, 2)
    likelihood = DiagonalNormal(2, 1, network=nn.Linear(1, 2), shared_scale=True)
    model = Autoencoder(DiagonalNormal(1), likelihood, nn.Linear(2, 1))
    minimise(Reconstruction()(model), x, 100)
    assert all(not p.any() for p in model.prior.parameters())
    before = [p.clone() for p in (*model.encoder.parameters(), *model.likelihood.parameters())]
    minimise(model.prior.objective()(model.prior), model.encode(x).detach(), 50)
    after = [*model.encoder.parameters(), *model.likelihood.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    draws = model().sample((4000,))
    # 6 standard errors, 2 / sqrt(4000) and 4 sqrt(2 / 4000): fails once in 10^8 seeds
    torch.testing.assert_close(draws.mean(0), x.mean(0), atol=0.19, rtol=0)
    torch.testing.assert_close(draws.mT.cov(), x.mT.cov(), atol=0.54, rtol=0)


# --- the loss --------------------------------------------------------------------------------------------------------


def test_loss_is_what_the_formula_says():
    model, x, c = small(2), torch.randn(6, 3), torch.randn(6, 2)
    z = model.encode(x, c)
    error = -model.decode(z, c).log_prob(x)
    torch.testing.assert_close(model.reconstruction_error(x, c), error)
    torch.testing.assert_close(Reconstruction()(model)(x, c), error.mean())
    weighted = error.mean() - 0.3 * StandardNormal(2)().log_prob(z).mean()
    torch.testing.assert_close(Reconstruction(code_weight=0.3)(model)(x, c), weighted)
    parameters = [*model.encoder.named_parameters(), *model.likelihood.named_parameters()]
    squares = sum(p.square().sum() for name, p in parameters if "weight" in name)
    torch.testing.assert_close(Reconstruction(weight_decay=0.1)(model)(x, c), error.mean() + 0.1 * squares)
    norms = squared_jacobian_norm(lambda x: model.encode(x, c), x)
    torch.testing.assert_close(Reconstruction(contraction=0.7)(model)(x, c), error.mean() + 0.7 * norms.mean())
    flipped = Reconstruction(lambda x: -x)(model)(x, c)
    torch.testing.assert_close(flipped, -model.decode(model.encode(-x, c), c).log_prob(x).mean())


def test_evaluation_is_plain():
    """No corruption, no penalty: so that validation losses of any setting compare."""
    model, x = small().eval(), torch.randn(6, 3)
    objective = Reconstruction(MaskingNoise(0.9), contraction=1.0, weight_decay=1.0)
    torch.testing.assert_close(objective(model)(x), model.reconstruction_error(x).mean())
    assert objective(model.train())(x) > model.reconstruction_error(x).mean()


def test_contraction_contracts():
    x = torch.randn(256, 3)
    norms = []
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        model = small()
        fit(model, x, objective=Reconstruction(contraction=weight), max_epochs=15, progress=False, seed=0)
        norms.append(squared_jacobian_norm(model.encode, x).mean())
    assert norms[1] < 0.5 * norms[0]


def test_svi_finds_the_joint_mode_and_takes_the_objective():
    model, x = small(), torch.randn(6, 3)
    total = 6 * Reconstruction(code_weight=1.0)(model)(x)
    assert Trace_ELBO().loss(model.model, model.guide, x) == pytest.approx(total.item(), rel=1e-5)
    for loss in (Trace_ELBO(), Reconstruction(GaussianNoise(0.1))):
        svi = SVI(model.model, model.guide, Adam({"lr": 1e-2}), loss)
        before = [p.clone() for p in model.parameters()]
        for _ in range(3):
            svi.step(x)
        assert not any(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
        pyro.clear_param_store()
        model = small()


# --- Jacobians -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [nn.Sigmoid, nn.Tanh])
def test_norm_of_the_jacobian_is_autograds_and_so_is_its_gradient(sigma):
    f, x = nn.Sequential(nn.Linear(4, 3), sigma()).double(), torch.randn(5, 4, dtype=torch.float64)
    by_autograd = torch.stack([torch.autograd.functional.jacobian(f, xi).square().sum() for xi in x])
    closed, general = squared_jacobian_norm(f, x), squared_jacobian_norm(lambda x: f(x), x)
    torch.testing.assert_close(closed, by_autograd)
    torch.testing.assert_close(general, by_autograd)
    weight = torch.linspace(-1, 2, 5, dtype=torch.float64)
    gradients = [torch.autograd.grad((weight * norms).sum(), f.parameters()) for norms in (closed, general)]
    torch.testing.assert_close(*gradients)


def test_norm_of_the_jacobian_of_images():
    f = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 3)).double()
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    expected = torch.stack([torch.autograd.functional.jacobian(f, xi[None]).square().sum() for xi in x])
    torch.testing.assert_close(squared_jacobian_norm(f, x, 3), expected)


def test_hutchinsons_estimate_is_unbiased():
    """Five standard errors: fails once in a million seeds."""
    f, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)), torch.randn(3)
    many = x.expand(20_000, 3)
    assert within(squared_jacobian_norm(f, many, probes=1), squared_jacobian_norm(f, x[None]).item(), 5)
    few, more = (squared_jacobian_norm(f, many[:2000], probes=k).var().item() for k in (1, 4))
    assert more == pytest.approx(few / 4, rel=0.25)


def test_contraction_is_in_full_precision_under_autocast():
    model, x = small(), torch.randn(6, 3)
    exact = squared_jacobian_norm(model.encode, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(squared_jacobian_norm(model.encode, x), exact)


# --- corruption, errors ----------------------------------------------------------------------------------------------


def test_corruptions_do_what_they_say():
    """Shares within 5 standard errors: each fails once in a million seeds."""
    x = torch.full((100_000,), 0.5)
    masked = MaskingNoise(0.3)(x)
    assert set(masked.unique().tolist()) == {0.0, 0.5} and within((masked == 0).float(), 0.3, 5)
    replaced = SaltAndPepper(0.4, -1.0, 2.0)(x)
    for value, share in ((-1.0, 0.2), (2.0, 0.2), (0.5, 0.6)):
        assert within((replaced == value).float(), share, 5)
    noise = GaussianNoise(0.2)(x) - x
    assert within(noise, 0.0, 5) and within(noise.square(), 0.04, 5)


def test_it_has_no_density_and_says_so():
    with pytest.raises(NotImplementedError, match="no density"):
        small()().log_prob(torch.zeros(3))
    with pytest.raises(NotImplementedError, match="not reparameterised"):
        small()().rsample()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Autoencoder(StandardNormal(2), DiagonalNormal(3, 4)), "likelihood: expected a model with context=2"),
        (
            lambda: Autoencoder(StandardNormal(2), DiagonalNormal(3, 2), nn.Linear(3, 4)),
            r"encoder: expected codes of shape \(2,\), as the prior's, got \(4,\)",
        ),
        (lambda: Reconstruction(contraction=-1.0), "contraction, code_weight, weight_decay: expected at least 0"),
        (lambda: Reconstruction(probes=0), "probes: expected at least 1"),
        (lambda: MaskingNoise(1.5), "rate: expected a probability, got 1.5"),
        (lambda: GaussianNoise(-1), "scale: expected at least 0, got -1"),
        (lambda: Reconstruction()(StandardNormal(2))(torch.zeros(3, 2)), "expected an Autoencoder, got StandardNormal"),
        (
            lambda: Reconstruction()(VAE(StandardNormal(1), DiagonalNormal(2, 1), DiagonalNormal(1, 2)))(torch.ones(2)),
            "expected an Autoencoder, got VAE",
        ),
    ],
)  # fmt: skip
def test_errors_name_what_is_wrong(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_denoising_restores_binary_data():
    """Cross-entropies: of copies of one bit, the masked ones are restored from the others."""
    torch.manual_seed(0)
    x = torch.randint(2, (512, 1)).float().expand(-1, 6).contiguous()
    model = Autoencoder(StandardNormal(2), IndependentBernoulli(6, 2, (16,)), None, 0, (16,))
    kept = MaskingNoise(0.3)(torch.ones(512, 6))
    minimise(Reconstruction(lambda x: kept * x)(model), x, 40)
    corrupted = torch.ones(1, 6)
    corrupted[:, :2] = 0
    assert (model.reconstruct(corrupted) > 0.95).all() and (model.reconstruct(torch.zeros(1, 6)) < 0.05).all()
