"""The deeper Boltzmann family against enumeration: partition functions, bounds, gradients, chains, greedy training."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from pyro_dgm.models import DBM, DBN, RBM, BoltzmannMachine, ConditionalRBM, ConvolutionalRBM
from pyro_dgm.models.approximate.boltzmann.layers import CopiedRBM
from pyro_dgm.objectives import ContrastiveDivergence, PersistentContrastiveDivergence
from pyro_dgm.training import pretrain

from .statistics import chi_squared_p_value

SIZES = (4, 3, 3, 2)


def states(n):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * n).reshape(-1, n)


def random_(model, scale=0.7, seed=0):
    """Gives every parameter, and where annealing starts, normal numbers, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    tensors = [*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith("base"))]
    with torch.no_grad():
        for t in tensors:
            t.copy_(scale * torch.randn(t.shape, generator=generator, dtype=torch.float64))
    return model


def dbm_energies(dbm):
    """Minus the energy of all states by the definition, and their layers."""
    sizes, joint = dbm.joint.sizes, dbm.joint
    layers = states(sum(sizes)).split(sizes, -1)
    offsets = dbm._offsets()
    score = sum(h @ b for h, b in zip(layers, joint.biases, strict=True))
    for (k, (low, high)), w in zip(enumerate(pairwise(layers)), joint.weights, strict=True):
        score = score + (((low - offsets[k]) @ w) * (high - offsets[k + 1])).sum(-1)
    return score, layers


def log_marginal(score, x, all_x):
    """Unnormalised log p(x), by adding up the states that show x."""
    return torch.stack([score[(all_x == one).all(-1)].logsumexp(0) for one in x])


def bm_energies(bm):
    s = states(bm.joint.event_shape[0])
    j = bm.joint.couplings()
    return 0.5 * ((s @ j) * s).sum(-1) + s @ bm.joint.bias, s


# --- partition functions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [SIZES, (3, 4), (5, 2, 3)])
@pytest.mark.parametrize("centred", [True, False])
def test_log_partition_of_a_dbm_is_that_of_all_its_states(sizes, centred):
    dbm = random_(DBM(sizes[0], sizes[1:], centred=centred))
    score, _ = dbm_energies(dbm)
    torch.testing.assert_close(dbm.joint.exact_log_partition(), score.logsumexp(0))


def test_log_partition_of_a_general_machine_is_that_of_all_its_states():
    bm = random_(BoltzmannMachine(4, 3))
    torch.testing.assert_close(bm.joint.exact_log_partition(), bm_energies(bm)[0].logsumexp(0))


JOINTS = {
    "dbm": lambda: DBM(SIZES[0], SIZES[1:]).joint,
    "dbm-uncentred": lambda: DBM(3, (4, 2), centred=False).joint,
    "machine": lambda: BoltzmannMachine(3, 3).joint,
    "convolutional": lambda: ConvolutionalRBM((1, 3, 3), 2, 2, pool=2),
    "copies": lambda: CopiedRBM(*_parameters(3, 2), (2, 2)),
}


def _parameters(n, m):
    new = torch.nn.Parameter
    return new(torch.zeros(n, m)), new(torch.zeros(n)), new(torch.zeros(m)), (torch.full((n,), 0.3), torch.zeros(m))


@pytest.mark.parametrize("name", JOINTS)
def test_annealing_starts_normalised_and_its_kernel_is_reversible(name):
    """sum exp(-F_0) = 1, and detailed balance pi(x) T(x, y) = pi(y) T(y, x), T counted from 4000 draws per state.

    A count is off by more than 6 standard errors in one run of 1e6, all pairs of states together.
    """
    model = random_(JOINTS[name]())
    units = model.event_shape.numel()
    x = states(units).reshape(-1, *model.event_shape)
    torch.testing.assert_close((-model.energy(x, beta=0.0)).logsumexp(0), torch.zeros((), dtype=torch.float64))
    beta, draws = 0.7, 4000
    torch.manual_seed(0)
    start = x[:8]
    p = (-model.energy(x, beta=beta)).softmax(0)[:8]
    y = model.transition(start.expand(draws, *start.shape), beta=torch.tensor(beta, dtype=torch.float64))
    place = 2 ** torch.arange(units - 1, -1, -1)
    index = (y.reshape(draws, 8, -1).long() * place).sum(-1)
    t = torch.stack([(index == k).double().mean(0) for k in range(8)], -1)  # T(x, y) with shape (from, to)
    flow, error = p[:, None] * t, p[:, None] * (t * (1 - t) / draws + 1e-8).sqrt()
    assert ((flow - flow.mT).abs() <= 6 * (error.square() + error.mT.square()).sqrt() + 1e-6).all()


@pytest.mark.parametrize("name", ["dbm", "dbm-uncentred", "machine", "convolutional"])
def test_chains_go_to_the_enumerated_distribution(name):
    """Chi-squared on all states after 30 sweeps of 4000 chains from fair coins; fails one run in 1000 by chance."""
    model = random_(JOINTS[name](), 0.5)
    torch.manual_seed(1)
    units = model.event_shape.numel()
    s = torch.rand(4000, *model.event_shape, dtype=torch.float64).round()
    for _ in range(30):
        s = model.transition(s)
    p = (-model.energy(states(units).reshape(-1, *model.event_shape))).softmax(0).detach()
    index = (s.reshape(4000, -1).long() * 2 ** torch.arange(units - 1, -1, -1)).sum(-1)
    assert chi_squared_p_value(torch.bincount(index, minlength=len(p)).double(), 4000 * p) > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_annealing_of_a_dbm_is_within_three_errors(seed):
    """Each fails with probability 0.003 by chance, were the seed another."""
    dbm = random_(DBM(6, (5, 4)), 1.0, seed)
    torch.manual_seed(seed)
    found, exact = dbm.estimate_log_partition(100, 200), dbm.joint.exact_log_partition().item()
    assert abs(found.value - exact) < 3 * found.standard_error
    assert found.lower < exact + 0.1 and found.upper > exact - 0.1 and found.upper - found.lower < 0.5


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_mean_field_is_below_the_marginal_and_meets_it_without_weights(scale):
    dbm, x = random_(DBM(SIZES[0], SIZES[1:]), scale), states(4)
    score, layers = dbm_energies(dbm)
    exact = log_marginal(score, x, layers[0]) - score.logsumexp(0)
    gap = exact - dbm().log_prob(x)
    assert (gap > 0).all() and dbm().density == "lower_bound"
    with torch.no_grad():
        dbm.joint.weights[1].zero_()  # h_2 and h_3 no longer depend on the data: only they depend on each other
        dbm.joint.weights[2].zero_()
    score, _ = dbm_energies(dbm)
    exact = log_marginal(score, x, layers[0]) - score.logsumexp(0)
    torch.testing.assert_close(dbm().log_prob(x), exact)


def test_each_update_of_the_mean_field_tightens_the_bound():
    dbm, x = random_(DBM(SIZES[0], SIZES[1:]), 1.5), states(4)
    bounds = []
    for steps in range(1, 6):
        dbm.mean_field_steps = steps
        bounds.append(dbm().log_prob(x))
    assert all((after >= before - 1e-12).all() for before, after in pairwise(bounds))


def test_one_layer_is_a_restricted_machine_with_an_exact_density():
    dbm, x = random_(DBM(4, (3,), centred=False)), states(4)
    energy = -x @ dbm.joint.biases[0] - F.softplus(x @ dbm.joint.weights[0] + dbm.joint.biases[1]).sum(-1)
    torch.testing.assert_close(dbm().log_prob(x), (-energy).log_softmax(0))
    assert dbm().density == "exact"


@pytest.mark.parametrize("hidden", [0, 1, 3])
def test_general_machine_against_enumeration(hidden):
    """Exact without hidden units, and with one, whose mean field is its posterior; else below."""
    bm, x = random_(BoltzmannMachine(4, hidden, mean_field_steps=30), 1.0), states(4)
    score, s = bm_energies(bm)
    exact = log_marginal(score, x, s[:, :4]) - score.logsumexp(0)
    gap = exact - bm().log_prob(x)
    assert (gap > 1e-6).any() if hidden > 1 else gap.abs().max() < 1e-9
    assert gap.min() > -1e-9 and bm().density == ("lower_bound" if hidden else "exact")


def test_gradient_of_the_variational_objective_is_that_of_the_bound():
    """With exact draws in place of chains: by finite differences of the converged bound, and log Z enumerated."""
    dbm, x = random_(DBM(4, (3, 3), mean_field_steps=200), 0.8), states(4)[[3, 5, 9]]
    parameters = [*dbm.parameters()]
    s = states(7)
    p = (-dbm.joint.energy(s)).softmax(0).detach()
    found = torch.autograd.grad(dbm.energy(x).mean() - p @ dbm.joint.energy(s), parameters)
    for parameter, gradient in zip(parameters, found, strict=True):
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter.add_(step * direction)
                values.append(-dbm().log_prob(x).mean())
        with torch.no_grad():
            parameter.add_(1e-5 * direction)
        slope = ((values[0] - values[1]) / 2e-5).detach()
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-7)


def test_a_stage_is_the_machine_with_copies_written_out():
    weight, b, c, offsets = _parameters(3, 2)
    stage = random_(CopiedRBM(weight, b, c, offsets, (2, 2)))
    v, h = states(6), states(4)
    w = stage.weight.repeat(2, 2)
    mu, lam = offsets[0].double().repeat(2), offsets[1].double().repeat(2)
    joint = v @ stage.visible_bias.repeat(2) + (h @ stage.hidden_bias.repeat(2))[:, None]
    joint = joint + (h - lam) @ w.mT @ (v - mu).mT
    torch.testing.assert_close(-stage.energy(v), joint.logsumexp(0))


# --- conditional and convolutional -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("visible", "hidden"), [(4, 3), (3, 5)])
def test_conditional_machine_against_enumeration_for_every_context(visible, hidden):
    rbm = random_(ConditionalRBM(visible, hidden, 2))
    c, v, h = torch.randn(5, 2, dtype=torch.float64), states(visible), states(hidden)
    b, d = rbm.visible_bias(c), rbm.hidden_bias(c)
    joint = (v @ b.mT)[:, None] + h @ d.mT + (v @ rbm.weight @ h.mT)[..., None]
    exact = joint.logsumexp(1) - joint.flatten(0, 1).logsumexp(0)
    torch.testing.assert_close(rbm(c).log_prob(v[:, None]), exact)
    torch.manual_seed(0)
    draws = rbm(c).sample((3000,))
    index = (draws.long() * 2 ** torch.arange(visible - 1, -1, -1)).sum(-1)
    for k in range(5):  # fails one run in 2000 by chance, all five together
        counts = torch.bincount(index[:, k], minlength=len(v)).double()
        assert chi_squared_p_value(counts, 3000 * exact[:, k].exp().detach()) > 1e-4
    with pytest.raises(ValueError, match="outlive the batch"):
        PersistentContrastiveDivergence()(rbm)(v[:5], c)


@pytest.mark.parametrize("pool", [1, 2])
def test_convolutional_machine_is_a_dense_one_with_shared_weights(pool):
    """Its hidden units, all written out, with the states that pooling forbids left out."""
    rbm = random_(ConvolutionalRBM((2, 3, 3), 2, 2, pool))
    x = torch.rand(7, 2, 3, 3, dtype=torch.float64).round()
    basis = torch.eye(18, dtype=torch.float64).reshape(18, 2, 3, 3)
    dense = F.conv2d(basis, rbm.weight).flatten(1)  # (18, 8): pixels, hidden units
    h = states(8)
    if pool == 2:
        h = h[(h.reshape(-1, 2, 4).sum(-1) <= 1).all(-1)]
    joint = (x.flatten(1) @ dense + rbm.hidden_bias.repeat_interleave(4)) @ h.mT
    energy = -(x * rbm.visible_bias).sum((1, 2, 3)) - joint.logsumexp(-1)
    torch.testing.assert_close(rbm.energy(x), energy)
    torch.testing.assert_close(rbm.energy(x.reshape(7, 1, 2, 3, 3)), energy[:, None])


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DBM(3, ()), "hidden_features: expected a layer"),
        (lambda: DBN([RBM(3, 2)]), "layers: expected at least two RBMs"),
        (lambda: DBN([RBM(3, 2), RBM(3, 2)]), "expected 2 binary visible units above"),
        (lambda: ConditionalRBM(3, 2, 0), "without a context use RBM"),
        (lambda: ConvolutionalRBM((1, 4, 4), 2, 3, pool=3), "multiples of pool"),
        (lambda: BoltzmannMachine(0), "features, hidden_features"),
        (lambda: ContrastiveDivergence()(DBM(3, (2, 2)))(torch.zeros(2, 3)), "use PersistentContrastiveDivergence"),
        (lambda: DBM(30, (25, 30))().log_prob(torch.zeros(30)), r"estimate_log_partition\(\)"),
        (lambda: pretrain(RBM(3, 2), torch.zeros(2, 3)), "use fit"),
    ],
)
def test_mistakes_are_explained(make, match):
    with pytest.raises(ValueError, match=match):
        make()
