"""The contract of a model, for every row of the zoo: shapes, gradients, copies, errors."""

import copy
import math
import pickle

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist

from pyro_dgm.distributions import density_of
from pyro_dgm.models import DiagonalNormal, StandardNormal

from .zoo import CONTINUOUS, MODELS, SCORED


def pairs(rows):
    return [(name, c) for name, row in rows.items() for c in row.contexts]


def each(rows):
    cases = pairs(rows)
    return pytest.mark.parametrize(("name", "context"), cases, ids=[f"{n}-context" if c else n for n, c in cases])


def once(rows):
    """With a context where there can be one: for what does not depend on whether there is."""
    cases = [(name, row.contexts[-1]) for name, row in rows.items()]
    return pytest.mark.parametrize(("name", "context"), cases, ids=[name for name, _ in cases])


def build(name, context, n=6):
    model = MODELS[name].build(context)
    return model, MODELS[name].data(model, n), torch.randn(n, context) if context else None


# --- shapes --------------------------------------------------------------------------------------------------------


@each(MODELS)
def test_shapes(name, context):
    model, _, _ = build(name, context)
    for batch_shape in ((), (4,), (2, 1, 4)):
        p = model(torch.randn(*batch_shape, context)) if context else model()
        batch = torch.Size(batch_shape) if context else torch.Size()
        assert (p.batch_shape, p.event_shape) == (batch, model.event_shape)
        assert density_of(p) == density_of(p.expand((2, *batch))) == MODELS[name].density
        for sample_shape in ((), (5,), (2, 3)):
            draw = p.sample(sample_shape)
            assert draw.shape == (*sample_shape, *batch, *model.event_shape)
            assert p.support.check(draw).all() and model.support.check(draw).all()
            if MODELS[name].density != "implicit":
                assert p.log_prob(draw).shape == (*sample_shape, *batch)
        expanded = p.expand((3, *batch))
        assert expanded.batch_shape == (3, *batch) and expanded.event_shape == model.event_shape
        assert expanded.sample((2,)).shape == (2, 3, *batch, *model.event_shape)
        if p.has_rsample:
            assert p.rsample((2,)).requires_grad or name == "StandardNormal"


@each(SCORED)
def test_context_broadcasts_against_data(name, context):
    if not context:
        return
    model, x, _ = build(name, context)
    c = torch.randn(4, 1, context)
    scores = model(c).log_prob(x)
    assert scores.shape == (4, 6)
    if MODELS[name].density == "exact":
        for k in range(4):
            torch.testing.assert_close(model(c[k, 0]).log_prob(x), scores[k], atol=MODELS[name].atol, rtol=1.3e-6)


@once(SCORED)
def test_mask_and_to_event(name, context):
    model, x, c = build(name, context)
    p = (model(c) if context else model()).expand((6,))
    if MODELS[name].density == "exact":
        log_prob = p.log_prob(x)
        torch.testing.assert_close(p.to_event(1).log_prob(x), log_prob.sum())
        mask = torch.tensor([True, False] * 3)
        torch.testing.assert_close(p.mask(mask).log_prob(x), log_prob * mask)
    assert p.to_event(1).event_shape == (6, *model.event_shape)
    assert p.mask(False).log_prob(x).abs().sum() == 0


@each(CONTINUOUS)
def test_density_of_own_samples_is_the_same_in_both_directions(name, context):
    model, _, c = build(name, context)
    p = model.double()(c.double() if context else None)
    if not hasattr(p, "rsample_and_log_prob"):
        return
    x, log_prob = p.rsample_and_log_prob((4,))
    torch.testing.assert_close(p.log_prob(x), log_prob, atol=1e-8, rtol=1e-8)
    c = c.double() if context else None
    z = model.encode(x, c)
    torch.testing.assert_close(model.decode(z, c), x, atol=1e-8, rtol=1e-8)


@each(CONTINUOUS)
def test_density_of_a_flow_is_the_change_of_variables(name, context):
    """log p(x) = log p(z) + log|det dz/dx|, the determinant by autograd, and the inverse's by autograd too."""
    model, x, c = build(name, context)
    if not hasattr(model, "encode") or name == "RealNVP-simplex":  # the simplex has more features than reals
        return
    model, x, c = model.double(), x.double(), None if c is None else c.double()
    for i in range(len(x)):
        ci = None if c is None else c[i]
        z = model.encode(x[i], ci)
        base = dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum()
        if name.startswith("NCSF"):
            base = -len(z) * math.log(2 * math.pi)
        inverse = torch.autograd.functional.jacobian(lambda v, ci=ci: model.encode(v, ci), x[i]).reshape(len(z), -1)
        torch.testing.assert_close(
            model(ci).log_prob(x[i]), base + torch.linalg.slogdet(inverse)[1], atol=1e-8, rtol=1e-8
        )
        forward = torch.autograd.functional.jacobian(lambda v, ci=ci: model.decode(v, ci), z.detach())
        forward = forward.reshape(len(z), -1)
        torch.testing.assert_close(
            model(ci).log_prob(x[i]), base - torch.linalg.slogdet(forward)[1], atol=1e-8, rtol=1e-8
        )


@each(MODELS)
def test_context_errors(name, context):
    model, _, _ = build(name, context)
    with pytest.raises(ValueError, match="context"):
        model() if context else model(torch.randn(3, 2))
    if context:
        with pytest.raises(ValueError, match=r"expected shape \(\.\.\., 2\), got \(3, 5\)"):
            model(torch.randn(3, 5))
        for wrong, kind in ((torch.zeros(3, 2, dtype=torch.long), "torch.int64"), (np.zeros((3, 2)), "ndarray")):
            with pytest.raises(
                ValueError, match=rf"context: expected a tensor of floating-point numbers, got .*{kind}"
            ):
                model(wrong)


@pytest.mark.parametrize("wrong", [2.0, "3", (2, 2.5), {2}])
def test_event_shapes_that_are_none(wrong):
    for make in (StandardNormal, DiagonalNormal):
        with pytest.raises(ValueError, match="event_shape: expected a number of features or the sizes of a shape, got"):
            make(wrong)


# --- gradients, copies ---------------------------------------------------------------------------------------------


@each(SCORED)
def test_every_parameter_gets_a_finite_gradient_twice_on_one_tensor(name, context):
    model, x, c = build(name, context)
    for _ in range(2):
        model.zero_grad()
        loss = -model(c).log_prob(x).mean()
        if list(model.parameters()):
            loss.backward()
    parameters = {k: p for k, p in model.named_parameters() if not k.startswith(MODELS[name].idle)}
    for key, p in parameters.items():
        assert p.grad is not None and p.grad.isfinite().all(), key
    total = sum(p.grad.abs().sum() for p in parameters.values()) if list(model.parameters()) else 1
    assert total > 0


@once(MODELS)
def test_deepcopy_and_pickle_are_independent_equals(name, context):
    model, x, c = build(name, context)
    if MODELS[name].density != "implicit":
        model(c).log_prob(x).mean()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for draw in (lambda m: m(c).sample((2,)),):
            torch.manual_seed(3)
            expected = draw(model)
            torch.manual_seed(3)
            assert torch.equal(draw(twin), expected)
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    repr(model)


@once(MODELS)
def test_calling_a_model_leaves_no_trace_in_the_parameter_store(name, context):
    model, _, c = build(name, context)
    model(c).sample((2,))
    assert len(pyro.get_param_store()) == 0
