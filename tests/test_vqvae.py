"""VQ-VAEs against known truths: sums over codes, cluster means, moving averages by hand, the decoder's gradient."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn

from pyro_dgm import fit
from pyro_dgm.distributions import Embedded, heads
from pyro_dgm.models import MADE, VQVAE, DiagonalNormal, IndependentBernoulli, PixelCNN, StandardNormal
from pyro_dgm.nn import VectorQuantizer, penalties
from pyro_dgm.objectives import ELBO, NegativeLogLikelihood
from pyro_dgm.training import trace

from .zoo import MODELS, perturb


def prior(codes, levels=3, context=0):
    return MADE(codes, context, head=heads.Categorical(levels), hidden_features=(8,))


def binary(context=0, **settings):
    """Three bits by two codes of three."""
    likelihood = IndependentBernoulli(3, 4 + context, (8,))
    torch.manual_seed(3)
    return perturb(VQVAE(prior(2, 3, context), likelihood, 2, None, context, (8,), **settings), 0.5)


BITS = torch.tensor([*itertools.product([0.0, 1.0], repeat=3)])


def exact(model, x, c=None):
    """log sum_k p(x | k) p(k), over all codes."""
    p = model._prior(c).codes.expand(x.shape[:1])
    k = p.enumerate_support()
    return (model.decode(k.long(), c).log_prob(x) + p.log_prob(k)).logsumexp(0)


# --- the density -----------------------------------------------------------------------------------------------------


def test_bound_is_below_the_sum_over_all_codes():
    model = binary()
    total, bound = exact(model, BITS), model().log_prob(BITS)
    assert total.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (bound < total).all() and bound.exp().sum() < 1
    k = model.encode(BITS)
    torch.testing.assert_close(bound, model.decode(k).log_prob(BITS) + model.prior().log_prob(k.float()))


def test_bound_given_a_context_is_below_the_sum_over_all_codes():
    model, c = binary(2), torch.randn(8, 2)
    total, bound = exact(model, BITS, c), model(c).log_prob(BITS)
    assert (bound < total).all() and not torch.equal(model(c).log_prob(BITS), model(-c).log_prob(BITS))


def test_samples_have_the_probabilities_of_the_sum_over_all_codes():
    """Five standard errors for each of eight states: fails once in 10^5 seeds."""
    model = binary()
    draws = model().sample((20_000,))
    shares = torch.stack([(draws == state).all(-1).double().mean() for state in BITS])
    p = exact(model, BITS).exp()
    assert ((shares - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_training_reaches_the_entropy_of_the_data():
    """Four patterns, equally frequent, by two codes of four: at best log 4 nats."""
    x = torch.eye(4).repeat(8, 1)
    torch.manual_seed(1)
    model = VQVAE(prior(2, 4), IndependentBernoulli(4, 4, (16,)), 2, None, 0, (16,), decay=0.9)
    adam = partial(torch.optim.Adam, lr=1e-2)
    fit(model, x, batch_size=32, max_epochs=300, optimizer=adam, progress=False, seed=1, compile=False)
    loss = -model.eval()().log_prob(x).mean()
    assert math.log(4) < loss < math.log(4) + 0.1
    torch.testing.assert_close(model.reconstruct(torch.eye(4)).round(), torch.eye(4))


# --- the quantiser ---------------------------------------------------------------------------------------------------


def test_gradient_goes_straight_through():
    model = binary().eval()
    h = torch.randn(5, 2, 2, requires_grad=True)
    z, k = model.quantizer(h)
    e = model.quantizer.table[k].clone().requires_grad_()
    assert torch.equal(z, e)
    assert torch.equal(k, (h[..., None, :] - model.quantizer.table).square().sum(-1).argmin(-1))
    loss = lambda e: model.likelihood(e.flatten(-2)).log_prob(BITS[:5]).sum()  # noqa: E731
    (through,), (direct,) = torch.autograd.grad(loss(z), h), torch.autograd.grad(loss(e), e)
    assert torch.equal(through, direct) and through.abs().sum() > 0


def quantise(quantizer, h):
    """A step of training: the penalties."""
    with penalties() as found:
        quantizer(h)
    return found


def test_table_is_the_moving_average_by_hand():
    quantizer = VectorQuantizer(4, 2, decay=0.7, restart=0).double()
    table, n = quantizer.table.clone(), torch.full((4,), 0.25).double()
    m = n[:, None] * table
    for _ in range(5):
        h = torch.randn(3, 5, 2).double()
        k = quantizer.nearest(h).flatten()
        quantise(quantizer, h)
        for i in range(4):
            mine = h.flatten(0, 1)[k == i]
            n[i] = 0.7 * n[i] + 0.3 * len(mine) / 15
            m[i] = 0.7 * m[i] + 0.3 * mine.sum(0) / 15
        torch.testing.assert_close(quantizer.usage, n)
        torch.testing.assert_close(quantizer.table, m / n[:, None])
    assert not torch.allclose(quantizer.table, table)
    perplexity = torch.distributions.Categorical(n).entropy().exp()
    torch.testing.assert_close(quantizer.perplexity, perplexity)


def test_codewords_without_data_stay():
    quantizer = VectorQuantizer(3, 2, decay=0.5, restart=0)
    quantizer.table.copy_(torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 70.0]]))
    for _ in range(300):
        quantise(quantizer, torch.randn(8, 2))
    assert torch.equal(quantizer.table[1:], torch.tensor([[50.0, 0.0], [0.0, 70.0]]))
    assert quantizer.table.isfinite().all() and float(quantizer.perplexity) == pytest.approx(1)


def test_dead_codewords_come_alive():
    quantizer = VectorQuantizer(8, 2, decay=0.8, restart=0.05)
    quantizer.table.add_(1000.0)
    x = torch.randn(256, 2)
    for _ in range(100):
        quantise(quantizer, x)
    assert (torch.bincount(quantizer.nearest(x), minlength=8) > 0).all() and quantizer.table.abs().max() < 5
    assert quantizer.perplexity > 4 and float(quantizer.usage.sum()) == pytest.approx(1)


def test_it_learns_only_where_a_loss_listens():
    model = binary()
    before = copy.deepcopy(model.quantizer.state_dict())
    same = lambda: all(torch.equal(t, before[k]) for k, t in model.quantizer.state_dict().items())  # noqa: E731
    model().log_prob(BITS)
    model.encode(BITS)
    ELBO()(model.eval())(BITS)
    assert same()
    ELBO()(model.train())(BITS)
    assert not same()


def test_loss_is_the_bound_and_the_commitment():
    for by_gradient in (False, True):
        model = binary(commitment=0.5, by_gradient=by_gradient)
        h, e = model._encoded(BITS, None), model.quantizer.table[model.encode(BITS)]
        distance = (h - e).square().sum(-1).mean()
        expected = -model().log_prob(BITS).mean() + (0.5 + by_gradient) * distance
        for objective in (ELBO(), NegativeLogLikelihood()):
            torch.testing.assert_close(objective(copy.deepcopy(model))(BITS), expected)
        torch.testing.assert_close(ELBO()(model.eval())(BITS), -model().log_prob(BITS).mean())


def test_table_by_gradient_gets_that_of_the_squared_distance_alone():
    model = binary(by_gradient=True)
    ELBO()(model)(BITS).backward()
    table = model.quantizer.table.detach().clone().requires_grad_()
    distance = (model._encoded(BITS, None).detach() - table[model.encode(BITS)]).square().sum(-1).mean()
    torch.testing.assert_close(model.quantizer.table.grad, torch.autograd.grad(distance, table)[0])


@pytest.mark.parametrize("by_gradient", [False, True])
def test_table_finds_the_means_of_clusters(by_gradient):
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0], [0.0, -4.0]])
    label = torch.arange(256) % 4
    x = centres[label] + 0.3 * torch.randn(256, 2)
    model = VQVAE(prior(1, 4), DiagonalNormal(2, 2, (4,)), 2, nn.Identity(), decay=0.8, by_gradient=by_gradient)
    adam = partial(torch.optim.Adam, lr=0.03)
    fit(model, x, batch_size=256, max_epochs=60, optimizer=adam, progress=False, seed=0)
    means = torch.stack([x[label == i].mean(0) for i in range(4)])
    distance = torch.cdist(model.quantizer.table.detach(), means)
    assert (distance.min(0).values < 0.05).all() and (distance.min(1).values < 0.05).all()
    torch.testing.assert_close(model.usage(x), torch.full((4,), 0.25))
    assert float(model.quantizer.perplexity) == pytest.approx(4, abs=1e-3)


def test_initialisation_spreads_the_codewords():
    """k-means++ misses none of far clusters; draws at random would miss one of eight nearly always."""
    x = 100 * torch.eye(8).repeat(20, 1) + 0.01 * torch.randn(160, 8)
    quantizer = VectorQuantizer(8, 8)
    quantizer.initialize(x)
    assert quantizer.initialized and (torch.bincount(quantizer.nearest(x)) == 20).all()
    quantizer.initialize(torch.zeros(3, 8))  # fewer vectors than codewords
    assert not quantizer.table.any()


# --- images ----------------------------------------------------------------------------------------------------------


class Encoder(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Conv2d(1, 8, 2, 2), nn.Tanh(), nn.Conv2d(8, width, 1))


class Decoder(nn.Sequential):
    def __init__(self, width):
        layers = [nn.Unflatten(-1, (width, 2, 2)), nn.ConvTranspose2d(width, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 1, 1)]
        super().__init__(*layers, nn.Flatten(-3))


def images(**settings):
    torch.manual_seed(0)
    grid = PixelCNN((1, 2, 2), hidden_channels=4, blocks=1, head=heads.Categorical(5))
    likelihood = IndependentBernoulli((1, 4, 4), 3 * 4, network=Decoder(3))
    return VQVAE(grid, likelihood, 3, Encoder(3), **settings)


def stripes(n):
    """Each quadrant of an image is black, white, or has one of two stripes."""
    parts = torch.tensor([[[0, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 1], [0, 0]], [[1, 0], [1, 0]]]).float()
    k = torch.randint(4, (n, 2, 2))
    return parts[k].permute(0, 1, 3, 2, 4).reshape(n, 1, 4, 4)


def test_image_of_codes_is_an_image_of_vectors():
    model, x = images(), stripes(6)
    k, h = model.encode(x), model.encoder(x)
    assert k.shape == (6, 1, 2, 2) and k.dtype == torch.long and model.embed(k).shape == h.shape == (6, 3, 2, 2)
    for i, j in itertools.product(range(2), repeat=2):
        distance = (h[:, :, i, j][:, None] - model.quantizer.table).square().sum(-1)
        assert torch.equal(k[:, 0, i, j], distance.argmin(-1))
        assert torch.equal(model.embed(k)[:, :, i, j], model.quantizer.table[k[:, 0, i, j]])
    z = model.infer(x).sample()
    assert torch.equal(z[..., 0], k.float()) and z.shape == (6, 1, 2, 2, 4)
    torch.testing.assert_close(model.decode(z).mean, model.decode(k).mean)
    torch.testing.assert_close(model.decode(k).mean, model.likelihood(model.embed(k).flatten(1)).mean)


@pytest.mark.parametrize("by_gradient", [False, True])
def test_fit_traced_as_eager_also_in_parts(by_gradient, replayed_not_compiled):
    x, runs = stripes(64), []
    for compiled, accumulate in ((True, 1), (False, 1), (True, 2)):
        model = images(by_gradient=by_gradient, decay=0.8)
        settings = {"batch_size": 32, "max_epochs": 4, "accumulate": accumulate, "compile": compiled}
        history = fit(model, x, progress=False, seed=0, **settings)
        runs.append((history["loss"], model.state_dict()))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-4)
    for key, value in runs[0][1].items():
        torch.testing.assert_close(value, runs[1][1][key], rtol=1e-3, atol=1e-5, msg=key)
    assert all(loss[-1] < loss[0] for loss, _ in runs)


def test_restarts_are_traced():
    model = binary(restart=0.9, decay=0.5)
    traced, twin = trace(ELBO()(model), BITS), copy.deepcopy(model)
    for loss in (traced, ELBO()(twin)):
        torch.manual_seed(0)
        for _ in range(5):
            loss(BITS)
    torch.testing.assert_close(model.quantizer.table, twin.quantizer.table)


def test_svi_with_the_objective_moves_the_table():
    model = binary()
    before = model.quantizer.table.clone()
    svi = SVI(model.model, model.guide, Adam({"lr": 1e-2}), ELBO())
    losses = [svi.step(BITS) for _ in range(30)]
    assert losses[-1] < losses[0] and not torch.equal(before, model.quantizer.table)


def test_enumerated_codes_carry_their_vectors():
    p = MODELS["VQVAE"].build()._prior(None)
    z = p.enumerate_support()
    assert isinstance(p, Embedded) and z.shape == (9, 2, 3) and p.support.check(z).all()
    assert p.log_prob(z).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(z[..., 1:], p.table[z[..., 0].long()])


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: VQVAE(StandardNormal(2), DiagonalNormal(3, 4), 2), r"prior: expected a model of integers 0..K-1"),
        (
            lambda: VQVAE(prior(2), DiagonalNormal(3, 5), 2),
            "likelihood: expected a model with context=4",
        ),
        (
            lambda: VQVAE(prior(2), DiagonalNormal(3, 4), 2, nn.Linear(3, 3)),
            r"encoder: expected vectors of width 2 for codes of shape \(2,\), so an output of shape \(4,\)",
        ),
        (lambda: VQVAE(prior(2), DiagonalNormal(3, 4), 2, decay=1.0), r"decay: expected a number in \[0, 1\)"),
        (lambda: VectorQuantizer(1, 2), "codes, width: expected at least 2 and 1, got 1 and 2"),
        (lambda: VectorQuantizer(2, 2, commitment=-1), "commitment, restart: expected at least 0"),
    ],
)
def test_errors_name_what_is_wrong(make, match):
    with pytest.raises(ValueError, match=match):
        make()
