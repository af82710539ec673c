"""Adversarial learning with inference, against exact critics: pairs, aggregate posteriors, features, implicit guides.

Statistical tests are seeded; each states how it did under other seeds.
"""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI
from torch import nn
from torch.nn.functional import softplus

from pyro_dgm import models as m
from pyro_dgm import objectives as o
from pyro_dgm.nn import MLP
from pyro_dgm.training import trace

from .test_vae_family import Linear
from .zoo import perturb

Adam = torch.optim.Adam


def move(players, steps, batch, *rates):
    """Players in turn, learning rates falling to zero."""
    adams = [Adam(player.parameters, lr, betas=(0.5, 0.99)) for player, lr in zip(players, rates, strict=True)]
    for step in range(steps):
        for player, adam, lr in zip(players, adams, rates, strict=True):
            adam.param_groups[0]["lr"] = lr * (1 - step / steps)
            gradients = torch.autograd.grad(player.loss(*batch()), player.parameters)
            for p, g in zip(player.parameters, gradients, strict=True):
                p.grad = g
            adam.step()


# --- BiGAN -----------------------------------------------------------------------------------------------------------


class Affine(nn.Module):
    """N(a u, s^2), drawn or as a distribution, in one dimension."""

    def __init__(self, a, s, drawn):
        super().__init__()
        self.a, self.log_s, self.drawn = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(s).log()), drawn

    def forward(self, u):
        p = dist.Normal(self.a * u, self.log_s.exp()).to_event(1)
        return p.rsample() if self.drawn else p


class BestCritic(nn.Module):
    """log p(x) q(z | x) - log p(z) p(x | z) for x ~ N(0, 1), the best critic of pairs, whatever the networks are."""

    def __init__(self, generator, encoder):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))
        self.networks = (generator, encoder)  # which are not its own

    def forward(self, x, z):
        (a, t), (w, s) = ((n.a.detach(), n.log_s.detach().exp()) for n in self.networks)
        unit = dist.Normal(torch.zeros_like(x), 1.0)
        forth, back = dist.Normal(a * z, t), dist.Normal(w * x, s)
        return unit.log_prob(x) + back.log_prob(z) - unit.log_prob(z) - forth.log_prob(x)


def linear_bigan(a, t, w, s):
    g, e = Affine(a, t, True), Affine(w, s, False)
    return m.BiGAN(1, 1, generator=g, encoder=e, critic=BestCritic(g, e))


def test_the_game_of_pairs_is_its_formula():
    """The critic's loss; generator and encoder minimise it with the pairs exchanged."""
    model, x, c = perturb(m.BiGAN((1, 3), 2, 2, (8,))), torch.randn(6, 1, 3), torch.randn(6, 2)
    for game in (o.NonSaturating(), o.LeastSquares(), o.Wasserstein(), o.Relativistic()):
        critic, generator = o.AdversarialInference(game)(model).players
        torch.manual_seed(0)
        z = torch.randn(6, 2)
        r, f = model.critic(x, model.encoder(x, c), c), model.critic(model.generator(z, c), z, c)
        for player, by_hand in ((critic, game.critic(r, f)), (generator, game.critic(f, r))):
            torch.manual_seed(0)
            torch.testing.assert_close(player.loss(x, c), by_hand)
    moved = {id(p) for p in (*model.generator.parameters(), *model.encoder.parameters())}
    assert {id(p) for p in generator.parameters} == moved
    assert {id(p) for p in critic.parameters} == {id(p) for p in model.critic.parameters()}
    assert all(g is None for g in torch.autograd.grad(critic.loss(x, c), generator.parameters, allow_unused=True))


@pytest.mark.parametrize("stochastic", [True, False])
def test_penalties_of_pairs_and_traces(stochastic):
    torch.manual_seed(1)
    model, x = perturb(m.BiGAN((1, 3), 2, 0, (8,), stochastic=stochastic)), torch.randn(6, 1, 3)
    linear = m.BiGAN(3, 2, critic=nn.Bilinear(3, 2, 1))
    nn.init.zeros_(linear.critic.weight)  # a flat critic has slope 0
    plain, penalised = (o.AdversarialInference(o.Wasserstein(), p)(linear) for p in ((), o.GradientPenalty(7.0)))
    torch.testing.assert_close(penalised.players[0].loss(x[:, 0]), plain.players[0].loss(x[:, 0]) + 7.0)
    bound = o.AdversarialInference(penalty=o.R1(1.0))(model)
    replay = trace(bound, (x,))
    torch.manual_seed(0)
    expected = bound(x)
    torch.manual_seed(0)
    torch.testing.assert_close(replay(x), expected)


def test_where_the_joint_densities_agree_the_game_is_over():
    """p(x) q(z | x) = p(z) p(x | z): the best critic is 0, and no gradient is left for generator and encoder."""
    x = torch.randn(500, 1, dtype=torch.float64)
    for w, over in ((0.8, True), (0.5, False)):
        model = linear_bigan(0.8, 0.6, w, 0.6).double()
        generator = o.AdversarialInference()(model).players[1]
        assert (float(generator.loss(x).detach()) == pytest.approx(2 * math.log(2), abs=1e-8)) == over
        size = sum(g.abs().sum() for g in torch.autograd.grad(generator.loss(x), generator.parameters))
        assert size < 1e-6 if over else size > 0.01


def test_generator_and_encoder_find_each_other_under_the_best_critic():
    """a^2 + t^2 = 1, and q(z | x) the posterior N(a x, t^2); over 10 seeds off by less than 1e-6."""
    model = linear_bigan(0.3, 0.5, -0.4, 1.0)
    players = o.AdversarialInference()(model).players
    move(players[1:], 200, lambda: (torch.randn(256, 1),), 0.05)
    a, t = model.generator.a, model.generator.log_s.exp()
    assert abs(a**2 + t**2 - 1) < 0.1
    assert abs(model.encoder.a - a) < 0.1 and abs(model.encoder.log_s.exp() - t) < 0.1
    assert abs(a) > 0.05  # codes are used


def test_a_learnt_critic_makes_the_encoder_invert_a_linear_generator():
    """E(G(z)) = z within a fifth of its variance; over 8 seeds at most 0.004."""
    torch.manual_seed(0)
    networks = {"generator": nn.Linear(2, 2), "encoder": nn.Linear(2, 2)}
    model = m.BiGAN(2, 2, hidden_features=(32, 32), **networks)
    x = torch.randn(2048, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.8]])
    players = o.AdversarialInference(penalty=o.R1(0.1))(model).players
    move(players, 200, lambda: (x[torch.randint(2048, (128,))],), 0.02, 0.02)
    z = torch.randn(1000, 2)
    assert (model.encode(model.generate(z)) - z).square().mean() < 0.2
    assert (model.encode(x).mT.cov() - torch.eye(2)).abs().max() < 0.3


def test_deterministic_codes_are_points():
    model, x = m.BiGAN((1, 3), 2), torch.randn(4, 1, 3)
    assert torch.equal(model.encode(x), model.encoder(x)) and model.encode(x, num_samples=3).shape == (3, 4, 2)
    torch.testing.assert_close(model.reconstruct(x), model.generate(model.encode(x)))
    assert torch.equal(model.score(x), model.score_pair(x, model.encode(x)))
    with pytest.raises(ValueError, match="stochastic: expected False"):
        m.BiGAN(3, 2, encoder=nn.Linear(3, 2), stochastic=True)
    with pytest.raises(ValueError, match="expected one with an encoder"):
        _ = o.AdversarialInference()(m.GAN(3)).players
    with pytest.raises(ValueError, match="critic_steps"):
        o.AdversarialInference(critic_steps=0)
    with pytest.raises(NotImplementedError, match="a game has several"):
        SVI(lambda x: None, lambda x: None, pyro.optim.Adam({}), o.AdversarialInference()).step(x)


# --- adversarial autoencoder -----------------------------------------------------------------------------------------


def test_reconstruction_under_a_critic_is_its_formula():
    x, c = torch.randn(6, 3), torch.randn(6, 2)
    likelihood = m.DiagonalNormal(3, 2 + 2, (8,))
    autoencoder = m.Autoencoder(m.StandardNormal(2), likelihood, None, 2, (8,))
    critic = MLP(2, 1, (8,), 2)
    objective = o.AdversarialReconstruction(critic, weight=3.0)
    players = objective(autoencoder).players
    z = autoencoder.encode(x, c)
    by_hand = -likelihood(torch.cat([z, c], -1)).log_prob(x).mean() + 3 * softplus(-critic(z, c)).mean()
    torch.testing.assert_close(players[1].loss(x, c), by_hand)
    torch.manual_seed(0)
    real = torch.randn(6, 2)
    torch.manual_seed(0)
    by_hand = softplus(-critic(real, c)).mean() + softplus(critic(z, c)).mean()
    torch.testing.assert_close(players[0].loss(x, c), by_hand)
    moved = {id(p) for p in players[1].parameters}
    assert moved == {id(p) for p in (*autoencoder.encoder.parameters(), *likelihood.parameters())}
    relative = o.AdversarialReconstruction(critic, o.Relativistic())(autoencoder)
    assert relative(x, c).isfinite()
    with pytest.raises(ValueError, match="expected one that encodes and decodes"):
        _ = o.AdversarialReconstruction(critic)(m.GAN(3)).players


class Quadratic(nn.Module):
    """Scores that are quadratic in their arguments, joined, as log-ratios of normal densities are."""

    def __init__(self, features):
        super().__init__()
        self.rows, self.columns = torch.triu_indices(features + 1, features + 1)
        self.weight = nn.Parameter(torch.zeros(len(self.rows)))

    def forward(self, *parts):
        u = torch.cat([*torch.broadcast_tensors(*parts), torch.ones_like(parts[0][..., :1])], -1)
        return (u[..., self.rows] * u[..., self.columns]) @ self.weight


@pytest.mark.parametrize("deterministic", [False, True])
def test_aggregate_posterior_of_a_linear_autoencoder_matches_the_prior(deterministic):
    """Codes start with deviations 3 and 0.2; over 8 seeds their covariance ended within 0.07 of the prior's."""
    torch.manual_seed(0)
    x = torch.randn(2000, 2) * torch.tensor([2.0, 1.0]) @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    likelihood, weight = Linear(((1.0, 0.0), (0.0, 1.0)), 1.0), ((1.2, 0.9), (-0.1, 0.1))
    if deterministic:
        encoder = nn.Linear(2, 2)
        encoder.weight.data = torch.tensor(weight)
        model, critic = m.Autoencoder(m.StandardNormal(2), likelihood, encoder), Quadratic(2)
        players = o.AdversarialReconstruction(critic, weight=10.0)(model).players
    else:
        model = m.AdversarialAutoencoder(
            m.StandardNormal(2), likelihood, Linear(weight, 0.2), weight=10.0, critic=Quadratic(2)
        )
        players = model.objective()(model).players
    move(players, 250, lambda: (x[torch.randint(2000, (256,))],), 0.1, 0.03)
    q = model.encode(x) if deterministic else model.infer(x).sample()
    assert (q.mT.cov() - torch.eye(2)).abs().max() < 0.2
    assert (model.reconstruct(x) - x).square().mean() < 0.1 * x.square().mean()


# --- VAE-GAN ---------------------------------------------------------------------------------------------------------


def test_three_players_of_the_learned_similarity():
    model, x = perturb(m.VAEGAN((1, 3), 2, 0, (8, 4), gamma=0.3)), torch.randn(6, 1, 3)
    critic, encoder, generator = model.objective()(model).players
    h = model.critic.features
    torch.manual_seed(0)
    q = model.infer(x)
    z = q.rsample()
    noise = torch.randn(6, 2)
    drawn, rebuilt = model.generator(noise), model.generator(z)
    similarity = dist.Normal(h(rebuilt), 1.0).to_event(1).log_prob(h(x)).mean()
    d = [model.critic(u) for u in (x, drawn, rebuilt)]
    kl = (q.log_prob(z) - dist.Normal(torch.zeros(6, 2), 1.0).to_event(1).log_prob(z)).mean()
    fake = torch.cat(d[1:])
    expected = [
        (critic, softplus(-d[0]).mean() + softplus(fake).mean()),
        (encoder, kl - similarity),
        (generator, softplus(-fake).mean() - 0.3 * similarity),
    ]
    for player, by_hand in expected:
        torch.manual_seed(0)
        torch.testing.assert_close(player.loss(x), by_hand)
    parts = model.critic, model.posterior, model.generator
    for player, part in zip((critic, encoder, generator), parts, strict=True):
        assert {id(p) for p in player.parameters} == {id(p) for p in part.parameters()}
    relative = o.LearnedSimilarity(o.Relativistic())(model)
    assert all(player.loss(x).isfinite() for player in relative.players)
    torch.manual_seed(0)
    value = relative(x)
    torch.manual_seed(0)
    torch.testing.assert_close(trace(relative, (x,))(x), value)
