"""Objectives against their formulas, under Pyro's SVI and by themselves."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn
from torch.nn import functional as F

from pyro_dgm.models import GAN, VAE, DiagonalNormal, IndependentBernoulli, RealNVP, StandardNormal
from pyro_dgm.objectives import (
    ELBO,
    Adversarial,
    GradientPenalty,
    LeastSquares,
    LinearWarmup,
    NegativeLogLikelihood,
    NonSaturating,
    Wasserstein,
)

from .zoo import EXACT, perturb


def vae(context=0):
    parts = StandardNormal(2), DiagonalNormal(3, 2 + context, (8,)), DiagonalNormal(2, 3 + context, (8,))
    return VAE(*parts, context=context)


@pytest.mark.parametrize("name", [name for name, row in EXACT.items() if 0 in row.contexts])
def test_likelihood_elbo_and_svi_agree_where_nothing_is_latent(name):
    model = EXACT[name].build()
    x = EXACT[name].data(model)
    by_hand = -model().log_prob(x).mean().item()
    assert NegativeLogLikelihood()(model)(x).item() == pytest.approx(by_hand, rel=1e-6)
    assert ELBO()(model)(x).item() == pytest.approx(by_hand, rel=1e-5)
    for loss in (NegativeLogLikelihood(), ELBO()):
        svi = SVI(model.model, model.guide, Adam({"lr": 0.0}), loss)
        assert svi.evaluate_loss(x) == pytest.approx(by_hand, rel=1e-5)
        assert svi.step(x) == pytest.approx(by_hand, rel=1e-5)
    assert Trace_ELBO().loss(model.model, model.guide, x) / len(x) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("beta", [1.0, 0.3, 4.0])
def test_elbo_is_reconstruction_plus_weighted_divergence(beta):
    """With closed-form divergences the weight is exact; the draw of z is the same by seed."""
    model, x = perturb(vae()), torch.randn(50, 3)
    q = model.infer(x)
    kl = torch.distributions.kl_divergence(q, model.prior().expand((50,)))
    torch.manual_seed(3)
    z = q.rsample()
    by_hand = (-model.decode(z).log_prob(x) + beta * kl).mean()
    torch.manual_seed(3)
    loss = ELBO(TraceMeanField_ELBO(), kl_weight=beta)(model)(x)
    torch.testing.assert_close(loss, by_hand)
    torch.manual_seed(3)
    monte_carlo = ELBO(kl_weight=beta)(model)(x)
    log_ratio = q.log_prob(z) - model.prior().log_prob(z)
    torch.testing.assert_close(monte_carlo, (-model.decode(z).log_prob(x) + beta * log_ratio).mean())


def test_elbo_with_context_and_binary_data():
    model = VAE(
        StandardNormal(2), IndependentBernoulli((1, 2, 2), 2 + 3, (8,)), DiagonalNormal(2, 4 + 3, (8,)), context=3
    )
    x, c = (torch.rand(5, 1, 2, 2) > 0.5).float(), torch.randn(5, 3)
    loss = ELBO()(model)(x, c)
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters())


def test_warm_up_counts_training_steps_only():
    warm = LinearWarmup(4, final=2.0)
    bound = ELBO(kl_weight=warm)(vae())
    x = torch.randn(5, 3)
    weights = []
    for _ in range(6):
        bound(x)
        weights.append(2.0 * min(float(warm.step) / 4, 1))
    assert weights == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    bound.eval()
    bound(x)
    assert float(bound.state_dict()["kl_weight.step"]) == 6 and warm() == 2.0


def test_elbo_leaves_the_parameter_store_alone():
    model = vae()
    pyro.param("mine", torch.ones(2))
    ELBO()(model)(torch.randn(5, 3))
    assert list(pyro.get_param_store()) == ["mine"]


def test_an_estimator_without_a_differentiable_loss_is_refused():
    with pytest.raises(ValueError, match="Trace_ELBO gives"):
        ELBO(TraceGraph_ELBO())


def test_likelihood_of_a_lower_bound_is_the_importance_weighted_objective():
    model = vae()
    model.num_particles = 5
    x = torch.randn(4, 3)
    torch.manual_seed(0)
    loss = NegativeLogLikelihood()(model)(x)
    torch.manual_seed(0)
    z = model.infer(x).rsample((5,))
    log_w = model.decode(z).log_prob(x) + model.prior().log_prob(z) - model.infer(x).log_prob(z)
    torch.testing.assert_close(loss, -(log_w.logsumexp(0) - math.log(5)).mean())


def test_program_of_the_users_own():
    """Objectives take any pair of Pyro programs, as Pyro's ELBO does."""
    loc = nn.Parameter(torch.tensor(0.5))

    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = torch.randn(10)
    by_hand = -dist.Normal(loc, 1.0).log_prob(x).mean()
    torch.testing.assert_close(NegativeLogLikelihood()(program, lambda x: None)(x), by_hand)
    torch.testing.assert_close(ELBO()(program, lambda x: None)(x), by_hand)


# --- adversarial ---------------------------------------------------------------------------------------------------


def test_games_are_their_formulas():
    r, f = torch.randn(20), torch.randn(20)
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(NonSaturating().critic(r, f), bce(r, torch.ones(20)) + bce(f, torch.zeros(20)))
    torch.testing.assert_close(NonSaturating().generator(f), bce(f, torch.ones(20)))
    torch.testing.assert_close(LeastSquares().critic(r, f), 0.5 * (F.mse_loss(r, torch.ones(20)) + (f**2).mean()))
    torch.testing.assert_close(LeastSquares().generator(f), 0.5 * F.mse_loss(f, torch.ones(20)))
    torch.testing.assert_close(Wasserstein().critic(r, f), f.mean() - r.mean())
    torch.testing.assert_close(Wasserstein().generator(f), -f.mean())


def test_gradient_penalty_of_a_linear_critic_is_known():
    weight = torch.randn(3, 4, dtype=torch.float64)
    real, fake = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    penalty = GradientPenalty(1.0)(lambda u: (u * weight).sum((-1, -2)), real, fake, 2)
    torch.testing.assert_close(penalty, (weight.norm() - 1) ** 2)


@pytest.mark.parametrize("event_shape", [(3,), (1, 2, 2)])
def test_gradient_penalty_reaches_the_critic_as_finite_differences_say(event_shape):
    gan = perturb(GAN(event_shape, 2, hidden_features=(5,))).double()
    gan.critic.network.activation = nn.Tanh()
    objective = Adversarial(Wasserstein(), GradientPenalty(10.0))
    x = torch.randn(8, *event_shape, dtype=torch.float64)

    def loss():
        torch.manual_seed(1)
        return objective.critic_loss(gan, x)

    gradients = torch.autograd.grad(loss(), list(gan.critic.parameters()), allow_unused=True)
    for p, g in zip(gan.critic.parameters(), gradients, strict=True):
        direction = torch.randn_like(p)
        with torch.no_grad():
            p.add_(1e-5 * direction)
            up = loss()
            p.sub_(2e-5 * direction)
            down = loss()
            p.add_(1e-5 * direction)
        slope = 0.0 if g is None else float((g * direction).sum())
        assert float(up - down) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_gradient_penalty_has_a_finite_gradient_where_the_critic_is_flat():
    critic = nn.Linear(3, 1)
    nn.init.zeros_(critic.weight)
    x = torch.randn(4, 3)
    GradientPenalty(1.0)(lambda u: critic(u).squeeze(-1), x, x + 1, 1).backward()
    assert critic.weight.grad.isfinite().all()


def test_players_have_their_own_parameters_and_losses():
    gan = GAN(3, 2, hidden_features=(8,))
    critic, generator = Adversarial(critic_steps=3)(gan).players
    assert (critic.name, critic.every, generator.name, generator.every) == ("critic", 1, "generator", 3)
    assert {id(p) for p in critic.parameters} == {id(p) for p in gan.critic.parameters()}
    assert {id(p) for p in generator.parameters} == {id(p) for p in gan.generator.parameters()}
    critic.loss(torch.randn(4, 3)).backward()
    assert all(p.grad is None for p in gan.generator.parameters())
    assert all(p.grad is not None for p in gan.critic.parameters())


def test_adversarial_refuses_svi_and_other_models():
    gan = GAN(3)
    with pytest.raises(NotImplementedError, match=r"pyro_dgm\.fit"):
        SVI(lambda x: None, lambda x: None, Adam({}), Adversarial()).step(torch.randn(2, 3))
    with pytest.raises(NotImplementedError, match="no density"):
        gan.model(torch.randn(2, 3))
    with pytest.raises(NotImplementedError, match="no guide"):
        gan.guide(torch.randn(2, 3))
    with pytest.raises(ValueError, match="expected an ImplicitModel"):
        _ = Adversarial()(RealNVP(2)).players
    with pytest.raises(ValueError, match="critic_steps"):
        Adversarial(critic_steps=0)
