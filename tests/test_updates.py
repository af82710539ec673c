"""The step of a fused Adam, bit for bit the optimizer's own, and what is left to the optimizer."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from pyro_dgm.training.updates import FusedAdam

SHAPES = [(3, 2), (2,), (), (4, 1)]
OPTIMIZERS = {
    "adam": partial(Adam, fused=True),
    "adamw": partial(AdamW, fused=True, weight_decay=0.1),
    "decay": partial(Adam, fused=True, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-3),
    "amsgrad": partial(Adam, fused=True, amsgrad=True),
    "maximize": partial(Adam, fused=True, maximize=True),
    "groups": lambda ps: Adam([{"params": ps[:1], "lr": 0.1}, {"params": ps[1:], "weight_decay": 0.2}], fused=True),
    "foreach": partial(Adam, foreach=True),
    "momentum": partial(SGD, lr=0.1, momentum=0.9),
    "tensor rate": lambda ps: Adam(ps, lr=torch.tensor(0.1), fused=True),
}


def twins(make, dtype=torch.float32):
    parameters = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    others = copy.deepcopy(parameters)
    return (parameters, make(parameters)), (others, make(others))


def give(parameters, others, skip=None):
    for k, (p, q) in enumerate(zip(parameters, others, strict=True)):
        p.grad = None if k == skip else torch.randn_like(p)
        q.grad = None if k == skip else p.grad.clone()


def assert_equal(one, other):
    assert all(torch.equal(p, q) for p, q in zip(one[0], other[0], strict=True))
    for a, b in zip(one[1].state.values(), other[1].state.values(), strict=True):
        assert a.keys() == b.keys() and all(
            torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_the_optimizers_own(name, dtype):
    """With a rate that changes, gradients that are missing for a while, and a state loaded on the way."""
    one, other = twins(OPTIMIZERS[name], dtype)
    step = FusedAdam(one[1])
    for number in range(9):
        for optimizer in (one[1], other[1]):
            rate = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = rate if torch.is_tensor(rate) else 0.9 * rate
        give(one[0], other[0], skip=1 if number == 4 else None)
        if number == 6:
            one[1].load_state_dict(copy.deepcopy(one[1].state_dict()))
            step.forget()
        step()
        other[1].step()
        assert_equal(one, other)


def test_the_optimizer_is_asked_once_and_hooks_are_heard(monkeypatch):
    one, other = twins(OPTIMIZERS["adam"])
    step, calls, heard = FusedAdam(one[1]), [], []
    own = Adam.step
    monkeypatch.setattr(Adam, "step", lambda self, *args: calls.append(1) or own(self, *args))
    for _ in range(5):
        give(*(ps for ps, _ in (one, other)))
        step()
    assert len(calls) == 1
    one[1].register_step_post_hook(lambda *_: heard.append(1))
    step()
    assert len(calls) == 2 and len(heard) == 1


def test_a_step_is_left_out_where_the_flag_says_so():
    """As on a GPU, where the flag of an overflow stays on the device."""
    one, other = twins(OPTIMIZERS["adam"])
    for _, optimizer in (one, other):
        optimizer.found_inf, optimizer.grad_scale = torch.zeros(()), None
    step = FusedAdam(one[1])
    for number in range(4):
        for _, optimizer in (one, other):
            optimizer.found_inf.fill_(float(number == 2))
        before = [p.detach().clone() for p in one[0]]
        give(*(ps for ps, _ in (one, other)))
        step()
        other[1].step()
        assert_equal(one, other)
        assert all(torch.equal(p, q) for p, q in zip(one[0], before, strict=True)) == (number == 2)
