"""Solvers of continuous flows: stiffness, tolerances, precision."""

import math
import sys

import pyro
import pytest
import torch

from pyro_dgm import fit
from pyro_dgm.models import FFJORD
from pyro_dgm.nn import StiffnessError
from pyro_dgm.training import NonFiniteError
from pyro_dgm.transforms import Continuous

from .test_continuous import Explosive, Linear
from .zoo import perturb


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_field_that_is_too_stiff_is_named_as_such(adjoint):
    t = Continuous(1, field=Explosive(), adjoint=adjoint)
    x = torch.tensor([[2.0]])
    with pytest.raises(StiffnessError, match=r"underflow in dt.*too stiff.*smooth activations.*kinetic=.*rk4"):
        t.forward_and_ladj(x)
    few = Continuous(1, field=Explosive(), max_num_steps=3)
    with pytest.raises(StiffnessError, match="max_num_steps exceeded"):
        few.forward_and_ladj(x / 2.1)
    y, _ = Continuous(1, field=Explosive(), min_step=0.1).forward_and_ladj(x / 2.1)
    assert y.isfinite().all()


def test_what_is_not_finite_is_no_matter_of_stiffness():
    flow = FFJORD(2, hidden_features=(4,))
    x = torch.tensor([[0.0, 1.0], [torch.nan, 0.0]])
    pyro.enable_validation(False)
    assert flow().log_prob(x).isnan().all()
    with torch.no_grad():
        flow.transform.transforms[0].field.network.layers[0].bias.fill_(torch.inf)
        flow.transform.transforms[0].field.network.layers[1].weight.fill_(torch.inf)
    with pytest.raises(NonFiniteError):
        fit(flow, torch.randn(8, 2), max_epochs=1, progress=False)


def test_tolerances_that_float32_cannot_keep_are_raised():
    torch.manual_seed(1)
    flow = perturb(FFJORD(2, hidden_features=(8,), rtol=1e-12, atol=1e-12), 0.5)
    flow().log_prob(torch.randn(100, 2))
    single = flow.nfe
    assert 0 < single < 200
    flow.double()().log_prob(torch.randn(100, 2, dtype=torch.float64))
    assert flow.nfe > 2 * single


def test_every_datum_keeps_the_tolerance():
    """One far-out datum among many: its error must not be averaged away."""
    field = Linear(torch.tensor([[3.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    x = torch.full((100_000, 1), 1e-12, dtype=torch.float64)
    x[0] = 1.0
    y, _ = Continuous(1, field=field, rtol=1e-6, atol=1e-6).forward_and_ladj(x)
    assert abs(float(y[0].detach()) - math.exp(3)) < 1e-4


def test_low_precision_does_not_reach_the_solver():
    torch.manual_seed(1)
    flow, x = perturb(FFJORD(3, hidden_features=(8, 8)), 0.5), torch.randn(5, 3)
    expected, nfe = flow().log_prob(x), flow.nfe
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(flow().log_prob(x), expected) and flow.nfe == nfe


def test_the_solver_may_be_imported_under_another_default_device(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "torchdiffeq"]:
        monkeypatch.delitem(sys.modules, name)
    flow, x = FFJORD(2, hidden_features=(4,)), torch.randn(3, 2)
    torch.set_default_device("meta")
    try:
        assert flow().log_prob(x).isfinite().all()
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_values_alone_need_no_trace(solver, context):
    """Samples and latents by a solve of x alone agree, at their tolerance, with those of a solve that has the trace."""
    torch.manual_seed(0)
    t = perturb(Continuous(3, (8,), context, solver=solver, rtol=1e-9, atol=1e-9), 0.5).double()
    t.field.at = _without_divergence(t.field.at)
    x = torch.randn(5, 3, dtype=torch.float64)
    c = torch.randn(5, context, dtype=torch.float64) if context else None
    y, back = t.forward_value(x, c), t.inverse_value(t.forward_value(x, c), c)
    del t.field.at
    torch.testing.assert_close(y, t.forward_and_ladj(x, c)[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-6)
    assert torch.equal(t.condition(c)(x), y) and torch.equal(t.inv.condition(c).inv(x), y)


def _without_divergence(at):
    def bare(context=None):
        field = at(context)
        field.divergence = field.push = None
        return field

    return bare
