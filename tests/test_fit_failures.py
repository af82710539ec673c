"""What goes wrong in training: numbers that are not finite, interruptions, wrong input."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from torch.distributions import constraints
from torch.utils.data import DataLoader, TensorDataset

from pyro_dgm import fit
from pyro_dgm.models import (
    GAN,
    MAF,
    NSF,
    DiagonalNormal,
    IndependentBernoulli,
    StandardNormal,
)
from pyro_dgm.objectives import NegativeLogLikelihood
from pyro_dgm.training import NonFiniteError
from pyro_dgm.training.loop import Loop

from .test_faithful import Loss
from .test_fit import X, quiet, small, weights


@pytest.mark.parametrize("check_every", [1, 7])
def test_not_finite_stops_with_the_place_and_keeps_the_last_finite_weights(check_every, monkeypatch):
    """Once with the flag read at every step (CPU), once read later, as on an accelerator; the weights are the same."""
    made = {}

    def spy(self, *args, **kwargs):
        Loop_init(self, *args[:-1], check_every, **kwargs)
        made["loop"] = self

    Loop_init = Loop.__init__
    monkeypatch.setattr(Loop, "__init__", spy)
    x = torch.randn(96, 2)
    bad = torch.cat([x, torch.full((32, 2), 1e30)])
    loader = DataLoader(TensorDataset(bad), batch_size=32)  # in order: batch 3 is bad
    model = small(standardize=False)
    twin = copy.deepcopy(model)
    with pytest.raises(NonFiniteError, match=r"step 3 \(batch 3 of its epoch\).*ranges from 1e\+30 to 1e\+30") as error:
        quiet(model, loader, max_epochs=2)
    assert (error.value.step, error.value.batch, error.value.player) == (3, 3, "loss")
    quiet(twin, DataLoader(TensorDataset(x), batch_size=32), max_epochs=1)
    assert torch.equal(weights(model), weights(twin))
    assert all(p.grad is None for p in model.parameters())


def test_overflowing_update_is_undone():
    model = DiagonalNormal(2)
    before = weights(model)
    with pytest.raises(NonFiniteError):
        quiet(model, torch.randn(64, 2), gradient_clip=None, optimizer=partial(torch.optim.SGD, lr=float("inf")))
    assert torch.equal(weights(model), before)


def test_an_overflow_in_the_last_update_of_all_is_undone(tmp_path):
    """No later loss tells of it, and it must not get into a checkpoint."""
    x, double = torch.randn(64, 2), small(standardize=False).double()
    for settings in ({}, {"checkpoint": tmp_path / "run.ckpt", "checkpoint_every": 0.0}):
        model = DiagonalNormal(2)
        before = weights(model)
        infinite = partial(torch.optim.SGD, lr=float("inf"))
        with pytest.raises(NonFiniteError):
            quiet(model, x, gradient_clip=None, optimizer=infinite, max_epochs=1, batch_size=64, **settings)
        assert torch.equal(weights(model), before)
    assert not (tmp_path / "run.ckpt").exists()
    loss = quiet(double, x.double(), max_epochs=1, batch_size=64)["loss"][0]
    assert loss != torch.tensor(loss, dtype=torch.float32).item()  # in the precision of the run


def test_validation_is_off_after_the_first_step_and_back_on_at_the_end():
    seen = []

    def loss(module, x):
        seen.append(dist.is_validation_enabled())
        return (module.w * x).square().mean()

    quiet(Loss(loss), torch.randn(64, 1), max_epochs=2, batch_size=32)
    assert seen[1:] == [True, False, False, False]  # the first call creates parameters
    assert dist.is_validation_enabled()
    with pytest.raises(NonFiniteError):
        quiet(small(), DataLoader(TensorDataset(torch.cat([X, 1e30 * X])), batch_size=20))
    assert dist.is_validation_enabled()


def test_interruption_leaves_a_usable_model_with_the_best_weights():
    seen = []

    def interrupt(history, model):
        seen.append((history["validation"][-1], weights(model)))
        if len(history) == 5:
            raise KeyboardInterrupt

    model = NSF(2, hidden_features=(64,))
    with pytest.raises(KeyboardInterrupt):
        quiet(model, X, validation=0.5, callbacks=[interrupt], optimizer=partial(torch.optim.Adam, lr=0.1))
    best = min(range(5), key=lambda k: seen[k][0])
    assert best < 4 and torch.equal(weights(model), seen[best][1])
    assert all(p.requires_grad for p in model.parameters())


def test_infinite_validation_loss_is_an_error():
    held = torch.cat([X, torch.full((1, 2), 1e30)])
    with pytest.raises(NonFiniteError, match="validation loss is inf after epoch 1"):
        quiet(small(), X, validation=held, max_epochs=3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: fit(small(), X.index_fill(0, torch.tensor([3]), torch.nan)),
            r"x: expected finite.*1 of 20 rows.*row 3",
        ),
        (lambda: fit(small(), torch.randn(20, 3)), r"x: expected shape \(n, 2\).*got \(20, 3\)"),
        (lambda: fit(small(), torch.randn(0, 2)), "at least one datum"),
        (lambda: fit(small(), X.double()), "x: expected dtype torch.float32.*got torch.float64"),
        (lambda: fit(small(), X.long()), "x: expected dtype torch.float32.*got torch.int64"),
        (lambda: fit(small(support=constraints.positive), X), "x: expected values in the model's support"),
        (lambda: fit(IndependentBernoulli(2), X), "support"),
        (lambda: fit(small(), X, torch.randn(20, 3)), "context: the model was built with context=0, got one"),
        (lambda: fit(small(context=3), X), "context: the model was built with context=3, got none"),
        (lambda: fit(small(context=3), X, torch.randn(20, 2)), r"context: expected shape \(20, 3\)"),
        (lambda: fit(small(context=3), X, torch.randn(19, 3)), "context: expected 20 rows"),
        (lambda: fit(small(), "data"), "x: expected a tensor"),
        (lambda: fit(small(), np.array(["a", "b"])), "x: expected a tensor, a numpy array of numbers"),
        (lambda: fit(small(), DataLoader(TensorDataset(X)), X), "context: expected None beside"),
        (lambda: fit(small(), X, validation=torch.randn(5, 3)), r"validation: expected shape \(n, 2\)"),
        (lambda: fit(small(), X, validation=0.001), "validation: expected a fraction"),
        (lambda: fit(small(), DataLoader(TensorDataset(X)), validation=0.5), "a fraction needs tensors"),
        (lambda: fit(small(), X, patience=3), "patience: expected validation data"),
        (lambda: fit(small(), X, batch_size=0), "batch_size: expected a whole number, at least 1, got 0"),
        (lambda: fit(small(), X, gradient_clip=0.0), "gradient_clip: expected a positive"),
        (lambda: fit(GAN(2), X, validation=0.5), "adversarial game do not measure progress"),
        (lambda: fit(GAN(2), X, optimizer={"critic": torch.optim.Adam}), "optimizer: expected one for each"),
        (lambda: fit(StandardNormal(2), X), "expected trainable parameters"),
        (lambda: fit(lambda x: x, X), "model: expected a generative model"),
        (
            lambda: fit(NegativeLogLikelihood()(small()), X, objective=NegativeLogLikelihood()),
            "objective: expected None",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_step(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_refusal_changes_nothing():
    model = MAF(2, hidden_features=(8,))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"support|finite"):
        quiet(model, X.index_fill(0, torch.tensor([0]), torch.inf))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
