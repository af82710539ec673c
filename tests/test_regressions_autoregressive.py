"""Defects of autoregressive models, heads and what is around them, one test each, so that they stay mended."""

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

from pyro_dgm.datasets import read_images, toy
from pyro_dgm.distributions import Concatenated, density_of, heads
from pyro_dgm.distributions import Mixture as MixtureDistribution
from pyro_dgm.distributions.counts import NegativeBinomial
from pyro_dgm.distributions.steps import Steps
from pyro_dgm.evaluation import compare, prdc
from pyro_dgm.models import (
    MADE,
    VAE,
    Autoregressive,
    CausalTransformer,
    DiagonalNormal,
    EoNADE,
    Factorized,
    PixelCNN,
    PixelCNNPlusPlus,
    PixelRNN,
    StandardNormal,
)
from pyro_dgm.nn import MaskedMLP


def test_a_transformer_samples_in_the_order_that_was_loaded():
    settings = {"width": 8, "blocks": 1, "attention_heads": 2}
    a, b = CausalTransformer(4, order=[3, 1, 0, 2], **settings), CausalTransformer(4, **settings)
    for p in a.parameters():
        p.data.normal_()
    b.load_state_dict(a.state_dict())
    draws = []
    for model in (a, b):
        torch.manual_seed(0)
        draws.append(model().sample((50,)))
    assert torch.equal(*draws)
    assert b.conditioner.order == [3, 1, 0, 2]


@pytest.mark.parametrize("shift", [0.0, 7.3])
def test_ties_count_as_within_the_ball(shift):
    x, y = (torch.randint(0, 2, (300, 8)).float() for _ in range(2))
    a, b = x.numpy().astype(int), y.numpy().astype(int)

    def squared(u, v):
        return ((u[:, None] - v[None]) ** 2).sum(-1)

    inside = squared(a, b) <= np.sort(squared(a, a), 1)[:, 3:4]
    found = prdc(x + shift, y + shift, 3)
    assert found.density == pytest.approx(inside.sum() / (3 * len(b)))
    assert found.coverage == pytest.approx(inside.any(1).mean())


@pytest.mark.parametrize(
    ("head", "value"), [(heads.Bernoulli(), 0.5), (heads.Poisson(), -0.5), (heads.Normal(), float("nan"))]
)
def test_sites_of_numbers_refuse_what_the_model_refuses(head, value):
    data = {"x_0": torch.tensor(value), "x_1": torch.tensor(0.0)}
    with pytest.raises(ValueError, match=r"Expected value argument|value: expected zeros and ones"):
        poutine.trace(poutine.condition(lambda: MADE(2, head=head)().as_sites("x"), data)).get_trace().log_prob_sum()


def test_joint_distributions_promise_what_their_parts_do():
    bound = VAE(StandardNormal(2), DiagonalNormal(3, context=2), DiagonalNormal(2, context=3))()
    exact = StandardNormal(3)()
    for make in (lambda *parts: MixtureDistribution(parts, torch.zeros(2)), lambda *parts: Concatenated(parts)):
        assert density_of(make(exact, exact)) == "exact" and density_of(make(exact, bound)) == "lower_bound"


def test_a_network_gives_as_many_parameters_as_the_head_takes():
    with pytest.raises(ValueError, match=r"conditioner: expected one with out_per_feature=3, .* got 5"):
        Autoregressive(MaskedMLP(3, 5, (8,)), heads.Categorical(3, ordered=True))


@pytest.mark.parametrize(("log_mean", "log_r"), [(5.0, -100.0), (16.0, -75.0), (1e4, -1e4)])
def test_counts_that_are_nearly_always_zero(log_mean, log_r):
    """P(x > 0) is below 1e-25."""
    theta = torch.tensor([log_mean, log_r])
    assert (NegativeBinomial(*theta).sample((5000,)) == 0).all()
    assert (heads.NegativeBinomial().draw(theta.expand(500, 2), torch.rand(500, 2)) == 0).all()


def test_counts_of_negative_binomials_follow_their_probabilities():
    """Means of 40,000 draws, five standard errors."""
    for m, r in ((0.5, 0.3), (3.0, 1.0), (20.0, 8.0)):
        p = NegativeBinomial(torch.tensor(m).log(), torch.tensor(r).log())
        x = p.sample((40_000,))
        assert abs(x.mean() - m) < 5 * (p.variance / len(x)).sqrt()
        zeros = p.log_prob(torch.tensor(0.0)).exp()
        assert abs((x == 0).float().mean() - zeros) < 5 * (zeros * (1 - zeros) / len(x)).sqrt()


def test_noise_of_zero_is_no_count_of_zero():
    rate = torch.tensor([12.0])
    assert heads.Poisson().draw(rate, torch.tensor([0.0])) > 0.9 * rate.exp()


def test_images_of_other_depths_are_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "a").mkdir()
    image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(tmp_path / "a" / "0.png")
    with pytest.raises(ValueError, match="expected 8 bits per channel, got mode I"):
        read_images(tmp_path)


def test_samples_of_large_boards_are_on_black():
    p = toy.checkerboard(cells=128, width=0.3)
    assert p.log_prob(p.sample((500_000,))).isfinite().all()


def test_a_model_of_nan_is_named():
    class Broken(StandardNormal):
        def _distribution(self, context):
            return dist.Normal(self.loc + torch.nan, 1.0, validate_args=False).to_event(1)

    with pytest.raises(ValueError, match="models: 'bad' scores 10 of 10 data with NaN"):
        compare({"bad": Broken(2), "good": StandardNormal(2)}, torch.randn(10, 2))


def test_orders_check_context_and_data():
    with pytest.raises(ValueError, match="context: EoNADE was built without one"):
        EoNADE(3).given_order([0, 1, 2], torch.randn(5, 2))
    for model in (EoNADE(3, 2), MADE(3, 2, masks=2)):
        with pytest.raises(ValueError, match="was built with context=2, got None"):
            model.order_agnostic_loss(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="Expected value argument"):
        EoNADE(3).order_agnostic_loss(torch.full((5, 3), 0.5))
    with pytest.raises(ValueError, match=r"order: expected a permutation of 0..2, got \[0.5"):
        MADE(3, order=[0.5, 1.2, 2.9])


def test_monotone_heads_check_their_data():
    with pytest.raises(ValueError, match="Expected value argument"):
        Factorized(2, heads.Monotone())().log_prob(torch.full((2,), torch.nan))


def test_missing_steps_of_classes():
    p = Steps(dist.OneHotCategorical(torch.ones(3, 2)))
    x = torch.tensor([[1.0, 0.0], [torch.nan, torch.nan], [0.0, 1.0]])
    torch.testing.assert_close(p.log_prob(x), 2 * torch.tensor(0.5).log())


@pytest.mark.parametrize("make", [PixelCNN, PixelRNN, PixelCNNPlusPlus])
def test_numbers_are_no_shapes_of_images(make):
    with pytest.raises(ValueError, match="event_shape: expected"):
        make(4)


def test_scores_of_numbers_have_the_shape_of_the_batch():
    x = torch.zeros(3)
    assert MADE(3)().expand((4,)).conditional_log_probs(x).shape == (4, 3)
    p = MADE(3, 2)(torch.zeros(1, 2)).expand((4,))
    assert p.conditional_log_probs(x).shape == (4, 3) and p.log_prob(x).shape == (4,)
