"""Networks and models of the GAN family: shapes, counts, formulas, and what training must not break."""

import copy
import math
import pickle
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.nn import functional as F

from pyro_dgm import fit
from pyro_dgm.datasets import digits
from pyro_dgm.distributions import Concatenated
from pyro_dgm.models import ACGAN, DCGAN, GAN, SNGAN, WGANGP, InfoGAN
from pyro_dgm.nn import (
    BatchNorm,
    DCGANCritic,
    DCGANGenerator,
    ResidualCritic,
    ResidualGenerator,
    SelfAttention,
    mixes_data,
)
from pyro_dgm.objectives import R1, Adversarial, AuxiliaryClassifier, GradientPenalty, MutualInformation, Wasserstein

from .zoo import perturb

ADAM = partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.999))


def bound(model):
    """The players of a model's own game."""
    return model.objective()(model).players


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- shapes and counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 64), (9, 5)], ids=str)
@pytest.mark.parametrize("kind", [DCGAN, WGANGP, SNGAN])
def test_images_of_any_size_and_batch_shape(kind, size):
    model = kind((1, *size), 3, context=2, channels=2)
    for batch_shape in ((), (2,), (2, 1)):
        c = torch.randn(*batch_shape, 2)
        x = model(c).sample()  # one datum too, in training mode
        assert x.shape == (*batch_shape, 1, *size) and x.isfinite().all()
        assert model.score(x, c).shape == batch_shape
    assert model.generate(torch.randn(2, 1, 3), torch.randn(2)).shape == (2, 1, 1, *size)
    assert model.generate(torch.randn(3), torch.randn(2, 2)).shape == (2, 1, *size)
    assert model.score(x[0, 0], torch.randn(2, 2)).shape == (2,)


def test_parameter_counts_are_those_of_the_papers_architectures():
    """DCGAN's as in PyTorch's example, which has no biases; SN-GAN's by hand from the table of the paper."""
    assert count(DCGANGenerator(100, (3, 64, 64))) == 3_576_704 + 3
    assert count(DCGANCritic((3, 64, 64))) == 2_765_568 + 64 + 1
    conv = lambda n, m, k=3: n * m * k * k + m  # noqa: E731
    up = 2 * conv(256, 256) + conv(256, 256, 1) + 4 * 256
    start = 128 * 4096 + 4096
    assert count(ResidualGenerator(128, (3, 32, 32))) == start + 3 * up + 2 * 256 + conv(256, 3) == 4_276_739
    first = conv(3, 128) + conv(128, 128) + conv(3, 128, 1)
    rest = 3 * 2 * conv(128, 128) + conv(128, 128, 1)
    assert count(ResidualCritic((3, 32, 32))) == first + rest + 129 == 1_053_825


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DCGAN((1, 4, 4)), "image_shape: expected .* more than 4 pixels"),
        (lambda: DCGANGenerator(3, (1, 8), channels=(4,)), "image_shape: expected"),
        (lambda: DCGANCritic((1, 8, 8), channels=()), "channels: expected at least one level"),
        (lambda: ResidualCritic((1, 8, 8), channels=(4,), attention=5), r"attention: .* one of \[4\], got 5"),
        (
            lambda: bound(WGANGP((1, 8, 8), critic=DCGANCritic((1, 8, 8), channels=(4, 4)))),
            "critic .*batch normalisation",
        ),
        (lambda: Adversarial(penalty=R1(1.0))(DCGAN((1, 9, 9), channels=2)).players, "penalty: .*batch normalisation"),
        (lambda: ACGAN(3, context=1), "context: expected a number of classes"),
        (lambda: InfoGAN(3, categories=(), continuous=0), "at least one code"),
        (lambda: InfoGAN(3, categories=(1,)), "categories of at least 2 values"),
        (lambda: Concatenated([dist.Normal(0.0, 1.0)]), "parts: expected distributions of vectors"),
        (lambda: AuxiliaryClassifier()(GAN(3)).players, "model: expected one that classifies"),
        (lambda: MutualInformation()(GAN(3)).players, "model: expected one with codes"),
        (lambda: MutualInformation(weight=-1.0), "weight: expected at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_critics_under_a_gradient_penalty_do_not_mix_data():
    assert mixes_data(DCGAN((1, 9, 9), channels=2).critic)
    assert not mixes_data(DCGAN((1, 9, 9), channels=2, critic_batch_norm=False).critic)
    critic = perturb(WGANGP((1, 8, 8), channels=2)).critic.double()
    assert not mixes_data(critic)
    x = torch.randn(5, 1, 8, 8).double()
    torch.testing.assert_close(critic(x)[:2], critic(x[:2]))
    assert WGANGP((1, 8, 8), channels=2, critic=DCGANCritic((1, 8, 8), channels=(2,), batch_norm=False))
    game = WGANGP((1, 8, 8), channels=2).objective()
    assert isinstance(game.game, Wasserstein) and game.critic_steps == 5 and game.penalties[0].weight == 10
    assert game(WGANGP((1, 8, 8), channels=2)).players[0].adam["betas"] == (0.0, 0.9)


# --- batch normalisation ---------------------------------------------------------------------------------------------


def test_batch_norm_is_torchs_where_there_is_no_context():
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for _ in range(3):
        h = 2 * torch.randn(4, 3, 5, 5) + 1
        torch.testing.assert_close(ours(h), theirs(h))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(h), theirs.eval()(h))


def test_batch_norm_gives_every_class_its_mean_and_deviation():
    """One statistic over all classes; then class k has the shift and, where all are alike, the scale of its own."""
    norm = perturb(BatchNorm(2, 3), 1.0)
    h = torch.randn(30, 2, 4, 4)
    h = (h - h.mean((0, 2, 3), keepdim=True)) / h.std((0, 2, 3), unbiased=False, keepdim=True)
    label = torch.arange(30) % 3
    y = norm(h, F.one_hot(label, 3).float())
    for k in range(3):
        gamma, beta = norm.weight + norm.context[:2, k], norm.bias + norm.context[2:, k]
        mean, deviation = h[label == k].mean((0, 2, 3)), h[label == k].std((0, 2, 3))
        torch.testing.assert_close(y[label == k].mean((0, 2, 3)), gamma * mean + beta, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(y[label == k].std((0, 2, 3)), gamma.abs() * deviation, atol=1e-5, rtol=1e-4)


def test_drawing_leaves_running_averages_alone_and_playing_moves_them():
    gan = DCGAN((1, 8, 8), 3, channels=2)
    norms = [m for m in gan.modules() if isinstance(m, BatchNorm)]
    assert norms
    before = copy.deepcopy(gan.state_dict())
    gan().sample((4,))
    gan().sample()
    assert all(torch.equal(v, before[k]) for k, v in gan.state_dict().items())
    Adversarial()(gan).players[1].loss(torch.randn(4, 1, 8, 8))
    assert all(int(m.num_batches_tracked) == 1 for m in norms if m in set(gan.generator.modules()))


def test_in_evaluation_mode_samples_do_not_depend_on_each_other():
    for gan in (DCGAN((1, 8, 8), 3, channels=2), SNGAN((1, 9, 5), 3, channels=2, attention=5)):
        z = torch.randn(5, 3, dtype=torch.float64)
        gan = perturb(gan).double().eval()
        torch.testing.assert_close(gan.generate(z)[1], gan.generate(z[1]))


@pytest.mark.parametrize("kind", [DCGAN, SNGAN])
def test_training_replayed_is_training_and_resumes(kind, tmp_path, monkeypatch):
    """Buffers included: running averages and singular vectors go through traces, averages of weights, checkpoints."""
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: graph)
    torch.manual_seed(0)
    first = kind((1, 6, 6), 2, channels=2)
    x = torch.rand(16, 1, 6, 6) * 2 - 1
    ends = []
    for compile, stops in ((False, (2,)), (True, (1, 2))):
        for epochs in stops:
            gan = pickle.loads(pickle.dumps(first)).double()
            settings = {"checkpoint": tmp_path / "run", "resume": epochs > 1} if len(stops) > 1 else {}
            fit(gan, x.double(), batch_size=8, max_epochs=epochs, seed=1, compile=compile, ema=0.9, progress=False,
                **settings)  # fmt: skip
        ends.append(gan.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=1e-9, rtol=1e-9, msg=name)


# --- projection, attention, spectral norms ---------------------------------------------------------------------------


def test_projection_critic_is_its_formula():
    critic = perturb(ResidualCritic((1, 8, 8), context=3, channels=(4,), blocks=1)).double()
    x, c = torch.randn(5, 1, 8, 8).double(), torch.randn(5, 3).double()
    phi = critic.features(x)
    by_hand = phi @ critic.last.weight[0] + critic.last.bias[0]
    by_hand = by_hand + torch.einsum("nk,fk,nf->n", c, critic.projection.weight, phi)
    torch.testing.assert_close(critic(x, c).squeeze(-1), by_hand)
    label = torch.eye(3).double()
    assert critic(x[:, None], label).shape == (5, 3, 1)


def test_self_attention_starts_as_the_identity_and_knows_no_places():
    block = SelfAttention(16).double()
    x = torch.randn(2, 16, 3, 4).double()
    assert torch.equal(block(x), x)
    nn.init.constant_(block.gamma, 0.7)
    y, order = block(x), torch.randperm(12)
    permuted = block(x.flatten(2)[..., order].unflatten(-1, (3, 4)))
    torch.testing.assert_close(permuted.flatten(2), y.flatten(2)[..., order])
    rows = x.flatten(2).mT  # the definition, pixel by pixel
    f, g, h, v = (layer.weight[..., 0, 0] for layer in (block.f, block.g, block.h, block.v))
    beta = torch.einsum("nic,dc,de,nje->nji", rows, f, g, rows).softmax(-1)
    o = torch.einsum("nji,nic,dc,ed->nje", beta, rows, h, v)
    torch.testing.assert_close(y.flatten(2).mT, rows + 0.7 * o)


def test_spectral_norms_are_at_most_one():
    """Up to the power iteration's error, a few percent after the iterations of construction."""
    gan = perturb(SNGAN((1, 9, 5), 3, context=2, channels=4, attention=5, generator_spectral_norm=True))
    x, c = torch.randn(4, 1, 9, 5), torch.randn(4, 2)
    for _ in range(30):
        gan.score(x, c), gan(c).sample()
    normed = [m for m in gan.modules() if type(m).__name__ == "SpectralNorm"]
    assert len(normed) > 20
    for layer in normed:
        assert torch.linalg.matrix_norm(layer.weight().flatten(1), 2).item() <= 1.02
    plain = [m for m in SNGAN((1, 8, 8), 3, channels=4).generator.modules() if type(m).__name__ == "SpectralNorm"]
    assert not plain


# --- second tasks ----------------------------------------------------------------------------------------------------


def test_classifier_terms_are_cross_entropies():
    gan = perturb(ACGAN(4, 2, context=3, hidden_features=(8,))).double()
    x, label = torch.randn(6, 4).double(), torch.arange(6) % 3
    c = F.one_hot(label, 3).double()
    game = Adversarial()

    def loss(objective, player):
        torch.manual_seed(2)
        return objective(gan).players[player].loss(x, c)

    torch.manual_seed(2)
    fake = gan(c).rsample()
    told = F.cross_entropy(gan.classify(fake), label)
    # the game's own samples come after those of the task, so the game alone is drawn with the same numbers by hand
    alone = loss(AuxiliaryClassifier(game, weight=0.0), 1)
    torch.testing.assert_close(loss(AuxiliaryClassifier(game, weight=0.7), 1), alone + 0.7 * told)
    alone = loss(AuxiliaryClassifier(game, weight=0.0), 0)
    both = told + F.cross_entropy(gan.classify(x), label)
    torch.testing.assert_close(loss(AuxiliaryClassifier(game, weight=0.7), 0), alone + 0.7 * both)
    torch.testing.assert_close(gan.score(x, c), gan.critic.network(x)[:, 0])
    generator = AuxiliaryClassifier()(gan).players[1]
    assert {id(p) for p in generator.parameters} == {id(p) for p in gan.generator.parameters()}


class Copies(nn.Module):
    """A generator whose sample is its code, and more noise."""

    def forward(self, z):
        return z


class ReadsOff(nn.Module):
    """The posterior that knows it."""

    def forward(self, x):
        return torch.cat([50 * x[..., :4], x[..., 4:5], torch.full_like(x[..., :1], -20.0)], -1)


def test_information_is_at_most_the_entropy_of_categories_and_reaches_it_by_copying():
    x = torch.randn(200, 6)
    blind = perturb(InfoGAN(6, 2, (4,), 0, (8,)))
    for _ in range(5):
        assert MutualInformation().bound(blind, x).item() <= math.log(4)
    gan = InfoGAN(6, 1, (4,), 1, generator=Copies(), posterior=ReadsOff())
    bound = MutualInformation().bound(gan, x).item()
    # a continuous code known to 0.001: H(c) - H(N(0, 0.001)), of which the draws hit the mean exactly
    known = math.log(4) + math.log(2) - math.log(1e-3) - 0.5 * math.log(2 * math.pi)
    assert bound == pytest.approx(known, abs=1e-3)
    z = gan.prior().sample((5,))
    torch.testing.assert_close(gan.encode(gan.generate(z)), gan.codes(z))
    players = MutualInformation()(blind).players
    assert {id(p) for p in blind.posterior.parameters()} <= {id(p) for p in players[1].parameters}


def test_information_of_independent_code_and_sample_is_at_most_zero():
    gan = perturb(InfoGAN(3, 2, (4,), 0, (8,)))
    nn.init.zeros_(gan.generator.network.layers[0].weight)  # samples know nothing of the code
    # E log q + H = -KL(p || q); 2000 draws, whose mean errs by 0.03 at most, and 0.2 is 6 of its deviations away
    assert MutualInformation().bound(gan, torch.zeros(2000, 3)).item() < 0.2


def test_concatenated_is_the_product_of_its_parts():
    parts = [dist.OneHotCategorical(torch.rand(4, 3)), dist.Normal(torch.randn(2), 1.0).to_event(1)]
    p = Concatenated(parts)
    x = p.sample((5,))
    assert x.shape == (5, 4, 5) and not p.has_rsample and p.support.check(x).all()
    expected = parts[0].log_prob(x[..., :3]) + parts[1].log_prob(x[..., 3:])
    torch.testing.assert_close(p.log_prob(x), expected)
    assert not p.support.check(torch.full((5,), 0.5)).any()
    assert p.expand((2, 4)).sample().shape == (2, 4, 5) and p.mean.shape == (4, 5)
    with pyro.plate("data", 4):
        assert pyro.sample("z", p).shape == (4, 5)


def test_classes_are_learned():
    """An AC-GAN of two of the digits, briefly: its own classifier, and the classes' means, know its samples."""
    images, labels = digits()
    keep = labels < 2
    x, label = images[keep].flatten(1).float() / 8 - 1, labels[keep]
    torch.manual_seed(0)
    gan = ACGAN(64, 8, context=2, hidden_features=(64,))
    fit(
        gan,
        x,
        F.one_hot(label, 2).float(),
        batch_size=120,
        max_epochs=40,
        seed=0,
        optimizer=ADAM,
        progress=False,
        compile=False,
    )
    samples = gan(torch.eye(2)).sample((50,))
    means = torch.stack([x[label == k].mean(0) for k in range(2)])
    nearest = torch.cdist(samples.flatten(0, 1), means).argmin(-1).reshape(50, 2)
    # chance is 0.5
    assert float((nearest == torch.arange(2)).float().mean()) > 0.8


def test_gradient_penalty_reaches_the_attention_of_a_critic():
    critic = perturb(ResidualCritic((1, 8, 8), channels=(8,), blocks=0, attention=4)).double()
    real, fake = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64)
    torch.manual_seed(0)
    penalty = GradientPenalty(1.0)(lambda u: critic(u).squeeze(-1), real, fake, 3)
    gradients = torch.autograd.grad(penalty, [critic.attention["0"].gamma, critic.attention["0"].f.weight])
    assert all(g.isfinite().all() and float(g.abs().sum()) > 0 for g in gradients)
