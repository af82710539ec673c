"""Deep belief networks against enumeration, greedy training, and how the deeper family is trained and traced."""

import copy

import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.nn import PyroSample
from torch.nn import functional as F

from pyro_dgm import fit
from pyro_dgm.models import DBM, DBN, RBM, BoltzmannMachine
from pyro_dgm.objectives import PersistentContrastiveDivergence
from pyro_dgm.training import pretrain, trace

from .test_deep_boltzmann import random_, states
from .zoo import MODELS

FAMILY = "DBM", "DBN", "BoltzmannMachine", "ConditionalRBM", "ConvolutionalRBM", "EnergyModel"


def dbn_log_prob(dbn, x):
    """log p(x) of a network of two machines by adding up all h_1."""
    low, top = dbn.layers
    h = states(top.event_shape[0])
    log_p = torch.distributions.Bernoulli(logits=low._output(h)[:, None]).log_prob(x).sum(-1)
    return (log_p + top().log_prob(h)[:, None]).logsumexp(0)


def test_bound_of_a_dbn_is_below_its_likelihood_and_the_mirror_image_meets_it():
    dbn, x = random_(DBN([RBM(4, 3), RBM(3, 4)]), 1.0), states(4)
    torch.manual_seed(0)
    with torch.no_grad():
        exact = dbn_log_prob(dbn, x)
        bound = torch.stack([dbn().log_prob(x) for _ in range(400)])
    assert float(exact.exp().sum()) == pytest.approx(1.0)
    error = bound.std(0) / 20
    assert (bound.mean(0) - exact < 4 * error).all() and (bound.mean(0) < exact - 4 * error).any()
    stages = dbn.stages(x)
    next(stages), next(stages)  # the second machine begins as the mirror image of the first
    torch.testing.assert_close(dbn().log_prob(x), dbn.layers[0]().log_prob(x))
    torch.testing.assert_close(dbn_log_prob(dbn, x), dbn.layers[0]().log_prob(x))


def test_gradient_of_a_dbn_is_that_of_its_expected_bound():
    """Mean of 20000 gradients against that of the enumerated expectation; 5 errors: one run in 1e5 by chance."""
    dbn, x = random_(DBN([RBM(3, 2), RBM(2, 2)]), 0.7), torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    low, top = dbn.layers
    h = states(2)
    q = torch.distributions.Bernoulli(low.encode(x))
    log_q = q.log_prob(h).sum(-1)
    joint = -F.binary_cross_entropy_with_logits(low._output(h), x.expand(4, 3), reduction="none").sum(-1)
    expected = (log_q.exp() * (joint - top.energy(h) - log_q)).sum()
    (exact,) = torch.autograd.grad(-expected, low.weight)
    torch.manual_seed(0)
    found = []
    for _ in range(20):
        (gradient,) = torch.autograd.grad(dbn.energy(x.expand(1000, 3)).mean(), low.weight)
        found.append(gradient)
    found = torch.stack(found)
    assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / 20**0.5 + 1e-9).all()


# --- training ---------------------------------------------------------------------------------------------------------


def bars(n):
    """Images of 2 x 3 pixels, each column or each row on or off as a whole."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(2, (n, 1, 3), generator=generator).expand(n, 2, 3)
    rows = torch.randint(2, (n, 2, 1), generator=generator).expand(n, 2, 3)
    return torch.where(torch.rand(n, 1, 1, generator=generator) < 0.5, columns, rows).flatten(1).double()


def test_greedy_training_raises_the_bound_of_a_dbn():
    """Whatever the machine below, by exact gradients; the bound is a mean over 6000 draws, its error below 0.02."""
    torch.manual_seed(0)
    x = bars(300)
    dbn = random_(DBN([RBM(6, 3, centred=False), RBM(3, 6, centred=False)]), 1.0)
    stages = dbn.stages(x)
    below, _ = next(stages)
    machine, hidden = next(stages)  # begun as the mirror image
    begun = dbn().log_prob(x).mean().item()
    assert begun == pytest.approx(below().log_prob(x).mean().item(), abs=1e-9)
    optimizer = torch.optim.Adam(machine.parameters(), 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        (-machine().log_prob(hidden).mean()).backward()
        optimizer.step()
    assert dbn().log_prob(x.repeat(20, 1)).mean().item() > begun + 0.1


def test_pretraining_and_training_of_a_dbm_raise_its_likelihood():
    torch.manual_seed(0)
    x = bars(256)
    dbm = DBM(6, (6, 3)).double()
    dbm.initialize(x)
    before = dbm().log_prob(x).mean().item()
    adam = lambda p: torch.optim.Adam(p, 0.02)  # noqa: E731
    settings = {"optimizer": adam, "batch_size": 64, "progress": False, "seed": 0, "compile": False}
    histories = pretrain(dbm, x, max_epochs=10, **settings)
    pretrained = dbm().log_prob(x).mean().item()
    fit(dbm, x, max_epochs=15, objective=PersistentContrastiveDivergence(100, 2), **settings)
    trained = dbm().log_prob(x).mean().item()
    assert len(histories) == 2
    assert before < pretrained < trained and trained > before + 0.3


@pytest.mark.parametrize("name", FAMILY)
def test_the_objective_of_every_model_is_traced(name):
    """One graph, its chains moved as they are without it."""
    row = MODELS[name]
    context = row.contexts[-1] if name == "ConditionalRBM" else 0
    model = row.build(context)
    batch = (row.data(model), *([torch.randn(6, context)] if context else []))
    few = PersistentContrastiveDivergence(20, steps=2, restart=0.1, active=10)
    eager = (few if name == "EnergyModel" else model.objective())(model)
    traced, twin = trace(eager, batch), copy.deepcopy(eager)
    torch.manual_seed(3)
    expected = twin(*batch)
    torch.manual_seed(3)
    torch.testing.assert_close(traced(*batch), expected)
    for value, other in zip(eager.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(value, other)


def test_weights_with_a_prior_are_those_of_data_and_of_the_partition_function():
    bm = BoltzmannMachine(3, 2)
    bm.joint.weight = PyroSample(dist.Normal(torch.zeros(5, 5), 1.0).to_event(2))
    x = torch.tensor([[1.0, 0.0, 1.0]])
    program = poutine.trace(bm.model).get_trace(x)
    plain = BoltzmannMachine(3, 2)
    with torch.no_grad():
        plain.joint.weight.copy_(next(n["value"] for name, n in program.nodes.items() if name.endswith("joint.weight")))
    torch.testing.assert_close(program.nodes["x"]["fn"].log_prob(x), plain().log_prob(x))
