"""Tasks against exact conditionals: every state of a small model is enumerated."""

import itertools
import math

import pytest
import torch

from pyro_dgm import models as m
from pyro_dgm.distributions import heads
from pyro_dgm.tasks import anomaly_score, impute, surprise

from .statistics import chi_squared_p_value, within
from .zoo import MODELS, perturb

STATES = torch.tensor([*itertools.product([0.0, 1.0], repeat=4)])


def exact(log_prob, x, missing):
    """Probabilities of the states that agree with the observed numbers, and log p(x_obs)."""
    agree = (STATES[:, ~missing] == x[~missing]).all(-1)
    log_p = torch.where(agree, log_prob(STATES), -math.inf)
    return log_p.softmax(0), log_p.logsumexp(0)


@pytest.mark.parametrize("name", ["FVBN-4", "MADE", "MADE-masks", "NADE", "EoNADE", "EoNADE-deep", "ConvNADE"])
@pytest.mark.parametrize(
    "missing", [[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
)
def test_imputed_states_have_their_probabilities(name, missing):
    """Chi-square over 3000 draws of one datum at the level 1e-4: the 42 cases fail by chance once in 200 seeds."""
    torch.manual_seed(0)
    model = perturb(m.FVBN(4), 0.8) if name == "FVBN-4" else perturb(MODELS[name].build(), 0.4)
    shape, mask = model.event_shape, torch.tensor(missing, dtype=torch.bool)
    x = torch.tensor([1.0, 0.0, 1.0, 1.0])
    log_prob = model().log_prob
    if getattr(model, "all_orders", False):  # each order is a distribution of its own
        sequence = sorted(range(4), key=lambda i: (missing[i], i))
        log_prob = model.given_order([sequence.index(i) for i in range(4)]).log_prob
    probabilities, log_p = exact(lambda s: log_prob(s.reshape(-1, *shape)), x, mask)
    found = impute(model, x.reshape(1, *shape), mask.reshape(shape), num_samples=3000, num_particles=6000)
    samples = found.samples.reshape(-1, 4)
    assert torch.equal(samples[:, ~mask], x[~mask].expand(3000, -1))
    codes = (samples @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    counts = torch.bincount(codes, minlength=16).double()
    assert (counts[probabilities == 0] == 0).all()
    if mask.any():
        assert chi_squared_p_value(counts, 3000 * probabilities.detach().double()) > 1e-4
    tolerance = 1e-4 if found.effective_size.isinf().all() else 0.15
    assert found.log_prob_observed.item() == pytest.approx(log_p.item(), abs=tolerance)


def test_evidence_is_unbiased_where_particles_are_resampled():
    """Mean of 300 estimates by 20 particles, five standard errors: fails once in a million seeds."""
    torch.manual_seed(0)
    model = perturb(m.MADE(10, hidden_features=(12,)), 0.8)
    states = torch.tensor([*itertools.product([0.0, 1.0], repeat=10)])
    mask = torch.tensor([True, False] * 5)
    x = torch.ones(10)
    agree = (states[:, ~mask] == 1).all(-1)
    truth = model().log_prob(states)[agree].exp().sum().item()
    found = impute(model, x.expand(300, -1), mask, num_particles=20)
    assert within(found.log_prob_observed.exp(), truth, 5)
    assert (found.effective_size < 20).any() and (found.effective_size >= 1 - 1e-4).all()


def test_nan_marks_what_is_missing_row_by_row_with_contexts_and_mixed_columns():
    head = heads.Columns([heads.Normal(), heads.Categorical(3), heads.Bernoulli()])
    model = perturb(m.MADE(3, 2, hidden_features=(8,), head=head))
    nan = float("nan")
    x = torch.tensor([[nan, 2.0, 1.0], [0.3, nan, nan], [0.1, 1.0, 0.0], [nan, nan, nan]])
    found = impute(model, x, context=torch.randn(4, 2), num_samples=7, num_particles=32)
    assert found.samples.shape == (7, 4, 3) and found.samples.isfinite().all()
    shown = ~x.isnan()
    assert torch.equal(found.samples[:, shown], x[shown].expand(7, -1))
    assert model(torch.zeros(2)).support.check(found.samples).all()
    assert found.effective_size.isinf().tolist() == [False, True, True, True]


def test_lower_half_of_an_image_is_completed_exactly():
    torch.manual_seed(0)
    model = perturb(m.MADE(4, hidden_features=(8,)), 0.8)
    x = torch.tensor([1.0, 0.0, 0.0, 0.0])
    lower = torch.tensor([False, False, True, True])
    draws = model().draw((4000,), given=x, observed=~lower)
    probabilities, _ = exact(model().log_prob, x, lower)
    counts = torch.bincount((draws @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long(), minlength=16).double()
    assert chi_squared_p_value(counts, 4000 * probabilities.detach().double()) > 1e-4


def test_anomalies_score_high_and_rank_low():
    torch.manual_seed(0)
    model = m.DiagonalNormal(2)
    reference, odd = torch.randn(999, 2), torch.tensor([[6.0, 6.0]])
    assert anomaly_score(model, odd) > anomaly_score(model, reference).max()
    assert anomaly_score(model, odd, reference=reference).item() == pytest.approx(1 / 1000)
    ranks = anomaly_score(model, torch.randn(2000, 2), reference=reference)
    # uniform: mean 1/2; the error of 2000 ranks and of 999 reference data, five standard errors
    assert abs(ranks.mean().item() - 0.5) < 5 * math.sqrt((1 / 2000 + 1 / 999) / 12)


def test_surprise_is_where_the_odd_number_is_and_sums_to_the_score():
    for name in ("MADE", "MADE-masks", "EoNADE", "ConvNADE"):
        model = MODELS[name].build()
        x = model().sample((5,))
        found = surprise(model, x)
        assert found.shape == x.shape
        if name == "MADE":
            torch.testing.assert_close(found.sum(-1), -model().log_prob(x))
    with pytest.raises(ValueError, match="expected an autoregressive one"):
        surprise(m.StandardNormal(2), torch.zeros(1, 2))


def test_models_are_in_evaluation_mode_and_in_full_precision():
    torch.manual_seed(0)
    model = perturb(m.PixelCNNPlusPlus((1, 4, 4), hidden_channels=4, blocks=1, levels=2, dropout=0.5)).train()
    x = torch.zeros(1, 1, 4, 4)
    missing = torch.rand(1, 4, 4) < 0.5
    found = surprise(model, x), anomaly_score(model, x)
    torch.testing.assert_close(found[0].sum((1, 2, 3)), found[1])
    torch.manual_seed(1)
    expected = impute(model.eval(), x, missing, num_particles=4)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = impute(model.train(), x, missing, num_particles=4)
    assert all(map(torch.equal, drawn, expected)) and model.training


def test_mistakes_are_named():
    model = m.MADE(4)
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 4\), got \(4,\)"):
        impute(model, torch.zeros(4))
    with pytest.raises(ValueError, match="num_samples, num_particles"):
        impute(model, torch.zeros(1, 4), num_particles=0)
    with pytest.raises(ValueError, match=r"missing: expected a shape that broadcasts to \(3, 4\), got \(3,\)"):
        impute(model, torch.zeros(3, 4), torch.ones(3))
    with pytest.raises(ValueError, match="context: expected a shape that broadcasts"):
        impute(m.MADE(4, 2), torch.zeros(3, 4), context=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="x: expected observed numbers that are finite"):
        impute(model, torch.tensor([[math.nan, 2.0, 0.0, 1.0]]))
    with pytest.raises(ValueError, match="x: expected observed numbers that are finite"):
        impute(m.RNADE(2), torch.tensor([[math.nan, math.inf]]))
    with pytest.raises(ValueError, match="expected an autoregressive one"):
        impute(m.RealNVP(2), torch.tensor([[float("nan"), 1.0]]))
