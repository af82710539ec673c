"""Adversarial games against what they are known to measure, and their parts against definitions.

Distributions on four states are given by data in exact proportions, so that a mean over scores is an expectation.
"""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_dgm import objectives as o
from pyro_dgm.models import GAN
from pyro_dgm.nn import MLP, DiffAugment, Packed, ReconstructionScore, SpectralNorm, spectrally_normalized

from .zoo import perturb

P = torch.tensor([1, 2, 5, 2], dtype=torch.float64) / 10
Q = torch.tensor([4, 3, 1, 2], dtype=torch.float64) / 10
STATES = torch.arange(4)
REAL, FAKE = (STATES.repeat_interleave((10 * p).long()) for p in (P, Q))
U = P / Q
KL = (P * U.log()).sum()
REVERSE = -(Q * U.log()).sum()
TV = (P - Q).abs().sum() / 2
M = (P + Q) / 2
JS = ((P * (P / M).log()).sum() + (Q * (Q / M).log()).sum()) / 2
LOG2 = torch.tensor(2.0).log().double()
# the game, its best critic, and minus what that critic measures
BEST = {
    "Minimax": (o.Minimax(), U.log(), 2 * LOG2 - 2 * JS),
    "NonSaturating": (o.NonSaturating(), U.log(), 2 * LOG2 - 2 * JS),
    "LeastSquares": (o.LeastSquares(), P / (P + Q), (P * Q / (P + Q)).sum() / 2),
    "LeastSquares-Pearson": (o.LeastSquares(-1, 1, 0), (P - Q) / (P + Q), 2 * (P * Q / (P + Q)).sum()),
    "Hinge": (o.Hinge(), (P - Q).sign(), 2 - 2 * TV),
    "EnergyMargin": (o.EnergyMargin(3.0), torch.where(P < Q, -3.0, 0.0).double(), 3 - 3 * TV),
    "KullbackLeibler": (o.KullbackLeibler(), 1 + U.log(), -KL),
    "ReverseKullbackLeibler": (o.ReverseKullbackLeibler(), U.log(), -REVERSE),
    "PearsonChiSquared": (o.PearsonChiSquared(), 2 * (U - 1), -((P - Q).square() / Q).sum()),
    "SquaredHellinger": (o.SquaredHellinger(), U.log() / 2, -(P.sqrt() - Q.sqrt()).square().sum()),
    "JensenShannon": (o.JensenShannon(), U.log(), -2 * JS),
    "TotalVariation": (o.TotalVariation(), 40 * (P - Q).sign(), -TV),
}


@pytest.mark.parametrize("name", BEST)
def test_best_critic_measures_the_divergence(name):
    """And is the best: no critic nearby does better, among those with scores the game allows."""
    game, best, value = BEST[name]

    def loss(table):
        return game.critic(table[REAL], table[FAKE])

    torch.testing.assert_close(loss(best), value)
    for _ in range(50):
        other = best + 0.3 * torch.randn_like(best)
        if name == "EnergyMargin":
            other = other.clamp(max=0)
        assert loss(other) >= loss(best) - 1e-12


def test_least_squares_generator_meets_pearson():
    """With a, b, c = -1, 1, 0 the generator's cost and its twin on data make half of chi^2 between p + q and 2 q."""
    game, best, _ = BEST["LeastSquares-Pearson"]
    total = game.generator(best[FAKE]) + game.generator(best[REAL])
    torch.testing.assert_close(total, ((2 * Q - (P + Q)).square() / (P + Q)).sum() / 2)


def test_wasserstein_critic_measures_the_distance():
    """W1 on a line is the area between the distribution functions; the best 1-Lipschitz critic has slopes +-1."""
    gap = (P - Q).cumsum(0)[:-1]
    best = torch.cat([torch.zeros(1), -gap.sign().cumsum(0)]).double()
    torch.testing.assert_close(o.Wasserstein().critic(best[REAL], best[FAKE]), -gap.abs().sum())
    assert o.Wasserstein().generator(best[FAKE]) == -best[FAKE].mean()


def test_generators_follow_the_theory():
    f = torch.randn(9, dtype=torch.float64)
    torch.testing.assert_close(o.Minimax().generator(f), (1 - f.sigmoid()).log().mean())
    for game in (o.KullbackLeibler, o.ReverseKullbackLeibler, o.PearsonChiSquared, o.SquaredHellinger, o.JensenShannon):
        # in a game of zero sum, what the critic loses the generator wins
        lost = torch.func.grad(partial(game(saturating=True).critic, f + 1))(f)
        torch.testing.assert_close(torch.func.grad(game(saturating=True).generator)(f), -lost)
        # its stand-in raises scores too
        assert (torch.func.grad(game().generator)(f) < 0).all()


def test_smoothed_labels_are_those_of_data():
    r, f = torch.randn(9), torch.randn(9)
    bce = F.binary_cross_entropy_with_logits
    expected = bce(r, torch.full((9,), 0.9)) + bce(f, torch.zeros(9))
    for game in (o.NonSaturating(smoothing=0.1), o.Minimax(smoothing=0.1)):
        torch.testing.assert_close(game.critic(r, f), expected)
    with pytest.raises(ValueError, match="smoothing: expected a number"):
        o.NonSaturating(smoothing=0.5)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("base", [o.NonSaturating(), o.LeastSquares(-1, 1), o.Hinge()])
def test_relativistic_games_see_differences_only(base, average):
    game = o.Relativistic(base, average)
    r, f = torch.randn(2, 9, dtype=torch.float64)
    for loss in (game.critic, lambda r, f: game.generator(f, r)):
        torch.testing.assert_close(loss(r + 3, f + 3), loss(r, f))
    torch.testing.assert_close(game.generator(f, r), game.critic(f, r))


def test_relativistic_games_are_their_papers():
    r, f = torch.randn(2, 9)
    torch.testing.assert_close(o.Relativistic().critic(r, f), F.softplus(f - r).mean())
    average = o.Relativistic(o.LeastSquares(-1, 1), average=True)
    expected = ((r - f.mean() - 1).square().mean() + (f - r.mean() + 1).square().mean()) / 2
    torch.testing.assert_close(average.critic(r, f), expected)
    with pytest.raises(ValueError, match="real: a relative game"):
        o.Relativistic().generator(f)
    with pytest.raises(ValueError, match="relative already"):
        o.Relativistic(o.Relativistic())


PENALTIES = {
    "two-sided": o.GradientPenalty(3.0),
    "one-sided": o.GradientPenalty(3.0, target=0.2, one_sided=True),
    "zero": o.GradientPenalty(3.0, target=0.0),
    "DRAGAN": o.DRAGAN(3.0),
    "R1": o.R1(3.0),
    "R2": o.R2(3.0),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_reach_the_critic_as_finite_differences_say(name):
    """The value against slopes by finite differences, then its own gradient towards the weights."""
    critic = perturb(MLP(4, 1, (5,), activation=nn.Tanh), 0.7).double()
    real, fake = torch.randn(2, 6, 2, 2, dtype=torch.float64)

    def score(x):
        return critic(x.flatten(-2)).squeeze(-1)

    def loss():
        torch.manual_seed(1)
        return PENALTIES[name](score, real, fake, 2)

    torch.manual_seed(1)
    u = PENALTIES[name].points(real, fake, 2)
    steps = 1e-5 * torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2)
    square = ((score(u + steps) - score(u - steps)) / 2e-5).square().sum(0)
    torch.testing.assert_close(loss(), 3 * PENALTIES[name].cost(square).mean(), rtol=1e-6, atol=1e-9)
    weights = [p for p in critic.parameters() if p.dim() > 1]
    for p, g in zip(weights, torch.autograd.grad(loss(), weights), strict=True):
        assert float(g.norm()) > 1e-4
        direction = torch.randn_like(p)
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                p.add_(sign * 1e-5 * direction)
            values.append(loss().detach())
        with torch.no_grad():
            p.add_(1e-5 * direction)
        assert float(values[0] - values[1]) / 2e-5 == pytest.approx(float((g * direction).sum()), rel=1e-4, abs=1e-7)


def test_penalty_on_packs_is_that_of_the_critic_of_packs():
    critic, penalty = perturb(MLP(6, 1, (5,), activation=nn.Tanh)), o.R1(2.0)
    x = torch.randn(7, 2)
    packed = penalty(lambda u: Packed(critic, 3)(u).squeeze(-1), x, x, 1)
    torch.testing.assert_close(packed, penalty(lambda u: critic(u).squeeze(-1), x[:6].view(2, 6), x[:6].view(2, 6), 1))


def test_packs_are_of_neighbours_and_leave_their_order():
    x, c = torch.randn(7, 3, 4, 4), torch.randn(7, 2)

    class Seen(nn.Module):
        def forward(self, x, context=None):
            self.seen = x, context
            return x.flatten(1).sum(-1)

    critic = Seen()
    assert Packed(critic, 2, event_dim=3)(x, c).shape == (3,)
    assert torch.equal(critic.seen[0], torch.stack([torch.cat([x[i], x[i + 1]]) for i in (0, 2, 4)]))
    assert torch.equal(critic.seen[1], c[:6].view(3, 4))
    with pytest.raises(ValueError, match="n at least 2"):
        Packed(critic, 2, event_dim=3)(x[:1])


def test_reconstruction_score_is_never_positive():
    score = ReconstructionScore(nn.Linear(3, 3))
    x = torch.randn(5, 3)
    torch.testing.assert_close(score(x), -((x - score.autoencoder(x)) ** 2).mean(-1))


LAYERS = [
    (nn.Linear(4, 3), (5, 4), lambda w: w),
    (nn.Conv2d(2, 3, 3), (5, 2, 6, 6), lambda w: w.flatten(1)),
    (nn.ConvTranspose2d(2, 3, 3), (5, 2, 6, 6), lambda w: w.transpose(0, 1).flatten(1)),
]


@pytest.mark.parametrize(("layer", "shape", "matrix"), LAYERS)
def test_spectral_norm_is_the_largest_singular_value(layer, shape, matrix):
    layer = SpectralNorm(copy.deepcopy(layer).double(), start=0)
    x = torch.randn(shape, dtype=torch.float64)
    for _ in range(400):
        layer.weight()
    sigma = torch.linalg.svdvals(matrix(layer.layer.weight.detach()))[0]
    torch.testing.assert_close(layer.weight(), layer.layer.weight / sigma, rtol=1e-6, atol=1e-9)
    bias = layer.layer.bias.detach()[(...,) + (None,) * (x.dim() - 2)]
    torch.testing.assert_close(layer(x), (layer.layer(x) - bias) / sigma + bias, rtol=1e-6, atol=1e-9)
    # gradients are those of W / sigma(W), the true sigma by SVD
    w = layer.layer.weight
    probe = torch.randn_like(w)
    (got,) = torch.autograd.grad((probe * layer.weight()).sum(), w)
    (expected,) = torch.autograd.grad((probe * w / torch.linalg.matrix_norm(matrix(w), 2)).sum(), w)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-8)


def test_spectral_norm_in_evaluation_stays_and_is_stored_exactly():
    critic = spectrally_normalized(perturb(MLP(3, 1, (8,), context=2)))
    x, c = torch.randn(5, 3), torch.randn(5, 2)
    assert sum(isinstance(m, SpectralNorm) for m in critic.modules()) == 3
    for _ in range(3):
        critic(x, c)
    critic.eval()
    value = critic(x, c)
    assert torch.equal(critic(x, c), value)
    twin = spectrally_normalized(MLP(3, 1, (8,), context=2)).eval()
    twin.load_state_dict(critic.state_dict())
    assert torch.equal(twin(x, c), value)
    for copied in (copy.deepcopy(critic), pickle.loads(pickle.dumps(critic))):
        assert torch.equal(copied(x, c), value)
    with pytest.raises(ValueError, match="expected a linear layer"):
        SpectralNorm(nn.ReLU())


def test_diff_augment_keeps_colours_in_the_mean():
    """Over 20,000 draws; a number is off by 4.5 standard errors in 1 of 150,000, of 27 numbers here: fails at 2e-4."""
    x = torch.rand(3, 3, 3, dtype=torch.float64)
    draws = DiffAugment(translation=0, cutout=0)(x.expand(20_000, 3, 3, 3))
    error = draws.std(0) / 20_000**0.5
    assert ((draws.mean(0) - x).abs() < 4.5 * error).all()
    assert (draws.std(0) > 0.1).all()


def test_diff_augment_shifts_and_cuts_by_the_image():
    torch.manual_seed(0)
    x = torch.arange(1.0, 65.0).view(1, 8, 8)
    shifted = DiffAugment(colour=False, cutout=0)(x.expand(500, 1, 8, 8))
    padded = F.pad(x, (1, 1, 1, 1))
    ways = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    counts = torch.stack([(shifted == way).flatten(1).all(1).sum() for way in ways])
    assert counts.sum() == 500 and (counts > 20).all()  # 55.6 expected of each; 5 deviations below
    cut = DiffAugment(colour=False, translation=0)(x.expand(500, 1, 8, 8)) == 0
    assert cut.flatten(1).sum(1).max() == 16 and cut.flatten(1).sum(1).min() >= 4
    with pytest.raises(ValueError, match="cutout: expected a share"):
        DiffAugment(cutout=2.0)


def test_diff_augment_passes_gradients_to_samples():
    gan = perturb(GAN((3, 4, 4), 2, hidden_features=(5,)))
    objective = o.Adversarial(augment=DiffAugment(), penalty=o.R1(1.0))
    x = torch.randn(6, 3, 4, 4)
    for player in objective(gan).players:
        gradients = torch.autograd.grad(player.loss(x), [p for p in player.parameters if p.dim() > 1])
        assert all(float(g.norm()) > 0 for g in gradients)
    plain = o.Adversarial(augment=DiffAugment(False, 0.0, 0.0))
    torch.manual_seed(1)
    expected = o.Adversarial().critic_loss(gan, x)
    torch.manual_seed(1)
    assert torch.equal(plain.critic_loss(gan, x), expected)
