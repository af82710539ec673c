"""Objectives of energy-based models against exact gradients, by enumeration of a machine of 4 + 3 units."""

import copy
import itertools
from contextlib import suppress
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch.optim import SGD

from pyro_dgm import fit
from pyro_dgm.models import GAN, RBM, RealNVP
from pyro_dgm.models.approximate.boltzmann import Gaussian
from pyro_dgm.objectives import (
    ContrastiveDivergence,
    ParallelTempering,
    PersistentContrastiveDivergence,
    RatioMatching,
    ScoreMatching,
    Sparsity,
    SquaredEnergy,
)
from pyro_dgm.training.tracing import trace

from .statistics import within
from .zoo import perturb

STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)


def machine(seed=0, scale=1.0, centred=True):
    torch.manual_seed(seed)
    rbm = RBM(4, 3, centred=centred).double()
    with torch.no_grad():
        for p in rbm.parameters():
            p.normal_(0, scale)
    return rbm


def gradient(loss, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def expected_contrast(rbm, data, model):
    """The gradient of sum_x (data(x) - model(x)) F(x)."""
    return gradient(((data - model) * rbm.energy(STATES)).sum(), rbm)


def kernel(rbm):
    """The matrix p(x' | x) of a sweep, summed over hidden units, by formulas of its own."""
    w, b, c = rbm.weight, rbm.visible_bias, rbm.hidden_bias
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)

    def table(x, logits):
        logits = logits[:, None]
        return torch.where(x > 0, logits.sigmoid(), (-logits).sigmoid()).prod(-1)

    into = table(h, c + (STATES - rbm.visible_offset) @ w.T)  # x, h
    back = table(STATES, b + (h - rbm.hidden_offset) @ w)  # h, x'
    return (into @ back).detach()


RBM4 = machine()
DATA = machine(7)().log_prob(STATES).exp().detach()  # another machine's distribution
MODEL = RBM4().log_prob(STATES).exp().detach()
EXACT = gradient(-(DATA * RBM4().log_prob(STATES)).sum(), RBM4)


def draws(n, p=DATA):
    return STATES[torch.multinomial(p, n, replacement=True)]


def test_the_contrast_with_exact_samples_is_the_gradient_of_the_likelihood():
    torch.testing.assert_close(expected_contrast(RBM4, DATA, MODEL), EXACT)


def test_the_kernel_of_a_sweep_leaves_the_machine_invariant():
    torch.testing.assert_close(MODEL @ kernel(RBM4), MODEL)


@pytest.mark.parametrize("steps", [1, 3])
def test_contrastive_divergence_has_its_own_expected_gradient(steps):
    """100 means of 200 data each within 5 standard errors, 19 numbers: fails once in 50,000 seeds."""
    expected = expected_contrast(RBM4, DATA, DATA @ torch.linalg.matrix_power(kernel(RBM4), steps))
    loss = ContrastiveDivergence(steps)(RBM4)
    found = torch.stack([gradient(loss(draws(200)), RBM4) for _ in range(100)])
    assert all(within(found[:, k], expected[k], 5) for k in range(len(expected)))


def test_the_bias_of_contrastive_divergence_shrinks_with_its_steps():
    """Exact, no draws, relative to the gradient: 0.34 after a step, 0.11 after 3, 0.009 after 10."""
    rbm, biases = machine(2, 3.0), []
    exact = gradient(-(DATA * rbm().log_prob(STATES)).sum(), rbm)
    for steps in (1, 3, 10, 100):
        after = DATA @ torch.linalg.matrix_power(kernel(rbm), steps)
        biases.append(((expected_contrast(rbm, DATA, after) - exact).norm() / exact.norm()).item())
    assert biases == sorted(biases, reverse=True)
    assert biases[:3] == pytest.approx([0.337, 0.113, 0.0086], rel=0.02) and biases[3] < 1e-6


@pytest.mark.parametrize(
    "objective",
    [
        lambda: PersistentContrastiveDivergence(1000),
        lambda: PersistentContrastiveDivergence(1500, steps=2, active=500),
        lambda: ParallelTempering(500, 3),
        lambda: ParallelTempering(500, [1.0, 0.5], steps=2),
    ],
)
def test_chains_that_go_on_have_the_gradient_of_the_likelihood(objective):
    """Parameters held: data exact, samples of 20 updates far apart; 6 of their errors, fails once in 10,000 seeds."""
    loss, found = objective()(RBM4), []
    loss.objective.chains.double()
    for k in range(90):
        with torch.no_grad():
            samples = loss.objective.negative(RBM4, STATES, None)
        if k >= 30 and k % 3 == 0:
            found.append(gradient((DATA * RBM4.energy(STATES)).sum() - RBM4.energy(samples).mean(), RBM4))
    found = torch.stack(found)
    assert all(within(found[:, k], EXACT[k], 6) for k in range(len(EXACT)))


def test_tempering_keeps_every_temperature_and_helps_over_barriers():
    """Two modes, 0000 and 1111, that Gibbs sampling does not leave; chains that begin in one find both."""
    rbm = RBM(4, 1, centred=False).double()
    with torch.no_grad():
        rbm.weight.fill_(12.0)
        rbm.visible_bias.fill_(-6.0)
        rbm.hidden_bias.fill_(-24.0)
    share = {}
    for name, objective in (("one", PersistentContrastiveDivergence(200)), ("many", ParallelTempering(200, 12))):
        objective.prepare(rbm)
        objective.chains.states.zero_()
        for _ in range(60):
            samples = objective.negative(rbm, STATES, None)
        share[name] = samples.mean().item()
    assert share["one"] < 0.02 and 0.35 < share["many"] < 0.65  # 0.5 is right, its error 0.035


def test_chains_live_in_buffers_move_in_turn_and_rest_in_evaluation():
    loss = PersistentContrastiveDivergence(6, active=2)(RBM4)
    loss.double()
    assert {"chains.states", "chains.position"} <= dict(loss.named_buffers()).keys()
    before = loss.chains.states.fill_(9.0).clone()  # a state that no sweep returns
    for turn in range(4):
        loss(STATES)
        moved = (loss.chains.states != before).any(-1)
        assert moved.tolist() == [k < 2 * (turn + 1) for k in range(6)]
    assert loss.chains.position.item() == 2
    kept = loss.eval().chains.states.clone()
    loss(STATES)
    assert torch.equal(loss.chains.states, kept)
    again = PersistentContrastiveDivergence(500, restart=0.25)(RBM4)
    again.chains.double().states.fill_(9.0)
    with torch.no_grad():
        RBM4.transition, transition = lambda x, *_: x, RBM4.transition
        again(STATES)
        RBM4.transition = transition
    restarted = (again.chains.states != 9).any(-1).double().mean().item()
    assert abs(restarted - 0.25) < 0.1  # five standard errors


def test_binding_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first, second = (PersistentContrastiveDivergence(5)(RBM4).chains.states for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(first, second) and first.std() > 0


# --- without samples -----------------------------------------------------------------------------------------------


def test_ratio_matching_is_least_at_the_truth():
    """Its expected gradient under the model itself is zero, exactly; under other data it is not."""
    loss = RatioMatching()(RBM4)
    found = torch.stack([gradient(loss(x[None]), RBM4) for x in STATES])
    torch.testing.assert_close(MODEL @ found, torch.zeros(len(EXACT), dtype=torch.float64), atol=1e-12, rtol=0)
    assert (DATA @ found).abs().max() > 0.01
    by_hand = 0.0
    for i in range(4):
        other = STATES.clone()
        other[:, i] = 1 - other[:, i]
        by_hand = by_hand + (1 / (1 + (RBM4.energy(other) - RBM4.energy(STATES)).exp())).square()
    torch.testing.assert_close(loss(STATES), by_hand.mean())
    some = torch.stack([RatioMatching(features=2)(RBM4)(STATES).detach() for _ in range(400)])
    assert within(some, by_hand.mean().detach(), 5)  # fails once in a million seeds


def test_score_matching_is_least_at_the_truth():
    """A Gaussian machine on a fine grid: the expected gradient under the model is zero."""
    torch.manual_seed(0)
    rbm = perturb(RBM(Gaussian(1, 0.8), 3), 0.7).double()
    x = torch.linspace(-7, 7, 141, dtype=torch.float64)[:, None]
    p = rbm().log_prob(x).exp().detach() * 0.1
    assert p.sum().item() == pytest.approx(1.0, abs=1e-8)
    loss = ScoreMatching()(rbm)
    found = torch.stack([gradient(loss(row[None]), rbm) for row in x])
    torch.testing.assert_close(p @ found, torch.zeros(found.shape[1], dtype=torch.float64), atol=1e-8, rtol=0)


def test_score_matching_is_its_formula_and_its_slices_the_mean():
    rbm = perturb(RBM(Gaussian(3), 4), 0.5).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    by_hand = 0.0
    for row in x:
        slope = torch.autograd.functional.jacobian(rbm.energy, row)
        laplacian = torch.autograd.functional.hessian(rbm.energy, row).trace()
        by_hand = by_hand + (0.5 * slope.square().sum() - laplacian) / 2
    torch.testing.assert_close(ScoreMatching()(rbm)(x), by_hand)
    slices = torch.stack([ScoreMatching(probes=2)(rbm)(x).detach() for _ in range(300)])
    assert within(slices, by_hand, 5)  # fails once in a million seeds


# --- penalties, training, errors -----------------------------------------------------------------------------------


def test_penalties_are_their_formulas():
    x = draws(50)
    h = RBM4.hidden_mean(x).mean(0)
    kl = (0.2 * (0.2 / h).log() + 0.8 * (0.8 / (1 - h)).log()).sum()
    torch.testing.assert_close(Sparsity(0.2, 3.0)(RBM4, x, x, None), 3 * kl)
    square = RBM4.energy(x).square().mean()
    torch.testing.assert_close(SquaredEnergy(0.5)(RBM4, x, x, None), square)
    torch.manual_seed(0)
    plain = ContrastiveDivergence()(RBM4)(x)
    torch.manual_seed(0)
    penalised = ContrastiveDivergence(penalty=Sparsity(0.2, 3.0))(RBM4)(x)
    torch.testing.assert_close(penalised, plain + 3 * kl)


OBJECTIVES = {
    "CD": lambda: ContrastiveDivergence(2, Sparsity()),
    "PCD": lambda: PersistentContrastiveDivergence(8, restart=0.1),
    "replay": lambda: PersistentContrastiveDivergence(8, active=3),
    "tempering": lambda: ParallelTempering(20, 3),
    "ratio": lambda: RatioMatching(features=2),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_traced_equals_eager(name):
    rbm = machine()
    bound = OBJECTIVES[name]()(rbm).double()
    twin, x = copy.deepcopy(bound), draws(10)
    traced = trace(bound, x)
    for seed in range(3):
        torch.manual_seed(seed)
        loss = traced(x)
        torch.manual_seed(seed)
        expected = twin(x)
        torch.testing.assert_close(gradient(loss, rbm), gradient(expected, twin.model), atol=1e-12, rtol=1e-9)
    for (key, value), other in zip(bound.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    assert traced.reason is None


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", ["PCD", "replay", "tempering"])
def test_a_resumed_run_ends_bit_equal_with_its_chains(name, tmp_path, replayed_not_compiled):
    x = draws(24).float()

    def run(stop, **settings):
        rbm = machine().float()
        bound = OBJECTIVES[name]()(rbm)

        def callback(history, _):
            if len(history) == stop:
                raise StoppedError

        with suppress(StoppedError):
            fit(bound, x, max_epochs=4, batch_size=8, seed=0, progress=False, compile=True, ema=0.9,
                optimizer=partial(SGD, lr=0.1, momentum=0.5), callbacks=[callback], **settings)  # fmt: skip
        return {**bound.state_dict(), **dict(rbm.named_parameters())}

    whole = run(9)
    settings = {"checkpoint": tmp_path / "run", "checkpoint_every": 1e-9, "resume": True}
    run(2, **settings)
    resumed = run(9, **settings)
    assert any("chains.states" in key for key in whole)
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


@pytest.mark.parametrize("name", ["CD", "PCD", "tempering", "ratio"])
def test_learns_a_distribution(name):
    """Three patterns of 16: entropy 1.04 nats, uniform 2.77."""
    torch.manual_seed(0)
    p = torch.zeros(16).scatter_(0, torch.tensor([0, 6, 15]), torch.tensor([0.5, 0.3, 0.2]))
    x = STATES[torch.multinomial(p, 200, replacement=True)].float()
    rbm = RBM(4, 6)
    fit(rbm, x, objective=OBJECTIVES[name](), optimizer=partial(SGD, lr=1.0), batch_size=100, max_epochs=100,
        progress=False, compile=False, seed=0)  # fmt: skip
    assert rbm.initialized and -rbm().log_prob(x).mean() < 1.5


def test_pyro_trains_by_it_too():
    rbm = machine().float()
    before = rbm.weight.detach().clone()
    svi = SVI(rbm.model, rbm.guide, pyro.optim.SGD({"lr": 0.1}), PersistentContrastiveDivergence(5))
    svi.step(draws(10).float())
    assert not torch.equal(rbm.weight, before)


def test_errors_say_what_to_do():
    x = torch.zeros(4, 2)
    cases = [
        (lambda: ContrastiveDivergence(0), "steps"),
        (lambda: PersistentContrastiveDivergence(0), "chains"),
        (lambda: PersistentContrastiveDivergence(3, active=4), "active"),
        (lambda: PersistentContrastiveDivergence(3, restart=1.0), "restart"),
        (lambda: ParallelTempering(3, 1), "temperatures"),
        (lambda: ParallelTempering(3, [0.5, 0.0]), "temperatures"),
        (lambda: Sparsity(1.5), "target"),
        (lambda: PersistentContrastiveDivergence()(GAN(2)), "expected an EnergyBasedModel"),
        (lambda: ContrastiveDivergence()(RealNVP(2))(x), "expected an EnergyBasedModel"),
        (lambda: ScoreMatching()(RBM(2, 2))(x), "RatioMatching"),
        (lambda: RatioMatching()(RBM(Gaussian(2), 2))(x), "ScoreMatching"),
        (lambda: PersistentContrastiveDivergence()(RBM(2, 2))(x, x), "outlive the batch"),
        (lambda: ParallelTempering(2, 2)(RBM(2, 2))(x, x), "outlive the batch"),
        (lambda: fit(RBM(2, 2), x, validation=x, progress=False), "does not measure progress"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
