"""Device and dtype: float64, another default device, to and fro, and construction on ``meta``.

With a GPU at hand the same tests also run on it.
"""

import copy

import pytest
import torch

from pyro_dgm import fit
from pyro_dgm.objectives import ELBO, Adversarial, GradientPenalty, NegativeLogLikelihood, Reconstruction

from .test_models import build, each
from .zoo import MODELS

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def exercise(model, x, c, density):
    """Samples, scores and differentiates; returns every tensor that comes out."""
    torch.manual_seed(7)
    before = copy.deepcopy(model.state_dict())
    p = model(c)
    out = [p.sample((2,)), p.expand((2, *p.batch_shape)).sample()]
    if density == "implicit":
        objective = (
            Adversarial(penalty=GradientPenalty(1.0))
            if hasattr(model, "critic")
            else Reconstruction(contraction=1.0, code_weight=1.0)
        )
        loss = objective(model)(x, *([] if c is None else [c]))
    else:
        out.append(p.log_prob(x))
        objective = NegativeLogLikelihood() if density == "exact" else ELBO()
        loss = objective(model)(x, *([] if c is None else [c]))
    if loss.requires_grad:
        loss.backward()
    model.load_state_dict(before)  # a loss in training mode moves codebooks
    return [o.detach() for o in out] + [loss.detach()] + [p.grad for p in model.parameters() if p.grad is not None]


@each(MODELS)
def test_float64(name, context):
    model, x, c = build(name, context)
    for tensor in exercise(model.double(), x.double(), c.double() if context else None, MODELS[name].density):
        assert tensor.dtype == torch.float64


@each(MODELS)
def test_default_dtype_float64_does_not_leak_into_a_float32_model(name, context):
    model, x, c = build(name, context)
    expected = exercise(model, x, c, MODELS[name].density)
    model.zero_grad()
    torch.set_default_dtype(torch.float64)
    for a, b in zip(exercise(model, x, c, MODELS[name].density), expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


@each(MODELS)
def test_another_default_device(name, context):
    model, x, c = build(name, context)
    expected = exercise(model, x, c, MODELS[name].density)
    model.zero_grad()
    torch.set_default_device("meta")
    try:
        got = exercise(model, x, c, MODELS[name].density)
    finally:
        torch.set_default_device(None)
    for a, b in zip(got, expected, strict=True):
        assert a.device.type == "cpu" and torch.equal(a, b)


@each(MODELS)
def test_construction_on_meta(name, context):
    row = MODELS[name]
    if name == "NormalizingFlow-pyro":
        return  # Pyro's transforms read the values of their masks when constructed
    source, x, c = build(name, context)
    with torch.device("meta"):
        model = row.make(context)
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    model = model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    for a, b in zip(exercise(model, x, c, row.density), exercise(source, x, c, row.density), strict=True):
        assert torch.equal(a, b)


@each(MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_to_there_and_back(name, context, device):
    """Through another dtype, and another device where there is one, and back: the same model."""
    model, x, c = build(name, context)
    expected = exercise(model, x, c, MODELS[name].density)
    model.zero_grad()
    model.to(device, torch.float64)
    there = exercise(model, x.to(device).double(), None if c is None else c.to(device).double(), MODELS[name].density)
    assert all(t.device.type == device and t.dtype == torch.float64 for t in there)
    model.zero_grad()
    model.to("cpu", torch.float32)
    for a, b in zip(exercise(model, x, c, MODELS[name].density), expected, strict=True):
        assert torch.equal(a, b)


@each(MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_fit_on_a_device_in_float64(name, context, device):
    model, x, c = build(name, context)
    if not list(model.parameters()):
        return
    c = None if c is None else c.double()
    fit(model.double(), x.double(), c, max_epochs=2, device=device, progress=False, seed=0)
    for p in model.parameters():
        assert p.device.type == device and p.dtype == torch.float64 and p.isfinite().all()
