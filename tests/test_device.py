"""Device and dtype: float64, another default device, to and fro, and construction on ``meta``.

With a GPU at hand the same tests also run on it.
"""

import copy

import pytest
import torch

from pyro_dgm import fit
from pyro_dgm.objectives import ELBO, Adversarial, GradientPenalty, NegativeLogLikelihood, Reconstruction

from .test_models import build, once
from .zoo import MODELS

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def exercise(model, x, c, density):
    """Samples, scores and differentiates; returns every tensor that comes out."""
    torch.manual_seed(7)
    before = copy.deepcopy(model.state_dict())
    p = model(c)
    out = [p.sample((2,)), p.expand((2, *p.batch_shape)).sample()]
    if density == "implicit":
        if hasattr(model, "critic"):
            objective = Adversarial(penalty=GradientPenalty(1.0))
        elif hasattr(model, "walk"):
            objective = model.objective()
        else:
            objective = Reconstruction(contraction=1.0, code_weight=1.0)
        loss = objective(model)(x, *([] if c is None else [c]))
    else:
        out.append(p.log_prob(x))
        objective = NegativeLogLikelihood() if density == "exact" else ELBO()
        loss = objective(model)(x, *([] if c is None else [c]))
    if loss.requires_grad:
        loss.backward()
    model.load_state_dict(before)  # a loss in training mode moves codebooks
    return [o.detach() for o in out] + [loss.detach()] + [p.grad for p in model.parameters() if p.grad is not None]


@once(MODELS)
def test_defaults_of_dtype_and_device_do_not_leak_into_a_model(name, context):
    model, x, c = build(name, context)
    expected = exercise(model, x, c, MODELS[name].density)
    model.zero_grad()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        got = exercise(model, x, c, MODELS[name].density)
    finally:
        torch.set_default_device(None)
    for a, b in zip(got, expected, strict=True):
        assert a.device.type == "cpu" and a.dtype == torch.float32 and torch.equal(a, b)


@once(MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_construction_on_meta_and_to_there_and_back(name, context, device):
    """Filled with the state of another, it is the same; so it is through another dtype and device, and back."""
    row = MODELS[name]
    model, x, c = build(name, context)
    expected = exercise(model, x, c, row.density)
    if name != "NormalizingFlow-pyro":  # Pyro's transforms read the values of their masks when constructed
        state = model.state_dict()
        with torch.device("meta"):
            model = row.make(context)
        assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
        model = model.to_empty(device="cpu")
        model.load_state_dict(state)
    model.zero_grad()
    model.to(device, torch.float64)
    there = exercise(model, x.to(device).double(), None if c is None else c.to(device).double(), row.density)
    assert all(t.device.type == device and t.dtype == torch.float64 for t in there)
    model.zero_grad()
    model.to("cpu", torch.float32)
    for a, b in zip(exercise(model, x, c, row.density), expected, strict=True):
        assert torch.equal(a, b)


@once(MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_fit_on_a_device_in_float64(name, context, device):
    model, x, c = build(name, context)
    if not list(model.parameters()):
        return
    c = None if c is None else c.double()
    fit(model.double(), x.double(), c, max_epochs=2, device=device, progress=False, seed=0)
    for p in model.parameters():
        assert p.device.type == device and p.dtype == torch.float64 and p.isfinite().all()
