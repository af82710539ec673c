"""What fit offers beside learning: parts of batches, averages, schedules, precision, loggers, data in place."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from pyro_dgm import fit
from pyro_dgm.models import GAN, NSF, VAE, DiagonalNormal, RealNVP, StandardNormal
from pyro_dgm.objectives import Player
from pyro_dgm.training import data, one_cycle, warmup_constant, warmup_cosine
from pyro_dgm.training.average import Average
from pyro_dgm.training.data import Batches
from pyro_dgm.training.moves import Game, Hooked

X = torch.randn(70, 2, generator=torch.Generator().manual_seed(0))
quiet = partial(fit, progress=False, seed=0, compile=False)


def small(**settings):
    torch.manual_seed(0)
    return RealNVP(2, transforms=2, hidden_features=(8,), **settings)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(("parts", "compile"), [(2, False), (3, False), (100, False), (2, True), (3, True)])
def test_a_batch_in_parts_is_the_same_step(parts, compile, monkeypatch):
    """Parts of unequal size too (16 in 3), and a last batch of 6; 100 is more than there are data."""
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: graph)
    whole, divided = small().double(), small().double()
    first = quiet(whole, X.double(), max_epochs=3, batch_size=16)
    second = quiet(divided, X.double(), max_epochs=3, batch_size=16, accumulate=parts, compile=compile)
    assert second["step"] == first["step"]
    torch.testing.assert_close(weights(divided), weights(whole), rtol=1e-8, atol=1e-10)
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-8)


def test_average_is_its_formula():
    p = nn.Parameter(torch.zeros(3))
    average, by_hand = Average([p], 0.9), torch.zeros(3)
    for t in range(1, 200):
        with torch.no_grad():
            p.copy_(torch.randn(3))
        average.update()
        d = min(0.9, (1 + t) / (10 + t))
        by_hand = d * by_hand + (1 - d) * p.detach()
    torch.testing.assert_close(average.average[0], by_hand)
    present = p.detach().clone()
    with average.in_place():
        torch.testing.assert_close(p.detach(), by_hand)
    assert torch.equal(p.detach(), present)


def test_the_average_is_what_is_validated_seen_and_kept():
    seen, model = [], small()

    def look(history, trained):
        with torch.no_grad():
            seen.append((-trained().log_prob(X[:20]).mean().item(), history["validation"][-1], weights(trained)))

    history = quiet(model, X, validation=X[:20], max_epochs=5, batch_size=16, ema=0.9, callbacks=[look])
    assert all(a == pytest.approx(b, rel=1e-5) for a, b, _ in seen)
    assert torch.equal(weights(model), seen[history.best_epoch - 1][2])
    averaged, plain, last = small(), small(), []
    quiet(averaged, X, max_epochs=5, batch_size=16, ema=0.9, callbacks=[lambda h, m: last.append(weights(m))])
    quiet(plain, X, max_epochs=5, batch_size=16)
    assert torch.equal(weights(averaged), last[-1]) and not torch.allclose(weights(averaged), weights(plain))
    with pytest.raises(ValueError, match="ema: expected a decay between 0 and 1"):
        quiet(small(), X, ema=1.0)


def test_the_average_holds_the_generator_of_a_game():
    gan, plain = (GAN(2, 2, hidden_features=(8,)) for _ in range(2))
    plain.load_state_dict(gan.state_dict())
    quiet(gan, X, max_epochs=3, batch_size=16, ema=0.99)
    quiet(plain, X, max_epochs=3, batch_size=16)
    assert not torch.equal(weights(gan.generator), weights(plain.generator))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (partial(warmup_constant, warmup=4), [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1, 1, 1]),
        (partial(warmup_cosine, warmup=0.25), [0.25, 0.5, 0.75, 1, None, None, None, 0.5868, None, None, None, 0.0302]),
    ],
)  # fmt: skip
def test_warm_up_rises_and_goes_on(schedule, expected):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    plan, rates = schedule(optimizer, 12), []
    assert isinstance(plan, LambdaLR)
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    for rate, e in zip(rates, expected, strict=True):
        assert e is None or rate == pytest.approx(2.0 * e, abs=1e-3)
    with pytest.raises(ValueError, match="warmup: expected"):
        warmup_constant(optimizer, 5, warmup=5)


def test_every_step_has_the_rate_that_the_schedule_means():
    """The first step has the first rate and the last the last: SGD moves a linear loss by just its rates' sum."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.weight + 0 * x.sum()

    model = Linear()
    settings = {"optimizer": partial(torch.optim.SGD, lr=1.0), "schedule": partial(warmup_constant, warmup=4)}
    quiet(model, X[:60], batch_size=10, max_epochs=2, gradient_clip=None, **settings)
    assert float(model.weight.detach()) == pytest.approx(-(0.2 + 0.4 + 0.6 + 0.8 + 8))


def test_clipping_is_of_the_whole_gradient():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.unused = (nn.Parameter(torch.zeros(())) for _ in range(3))

        def forward(self, x):
            return 3 * self.a + 4 * self.b + 0 * x.sum()

    model = Linear()
    settings = {"optimizer": partial(torch.optim.SGD, lr=1.0), "gradient_clip": 1.0}
    quiet(model, X[:10], batch_size=10, max_epochs=1, **settings)
    assert [float(p.detach()) for p in model.parameters()] == pytest.approx([-0.6, -0.8, 0.0], rel=1e-5)


def test_a_gradient_that_is_an_expanded_number_is_given_to_the_fused_optimizer_whole():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(7, 5).t())  # not contiguous either

        def forward(self, x):
            return self.weight.sum() + 0 * x.sum()

    model = Sum()
    quiet(model, X[:10], batch_size=10, max_epochs=1, gradient_clip=None)
    torch.testing.assert_close(model.weight.detach(), torch.full((5, 7), -1e-3))


def test_a_scaler_unscales_before_it_clips_and_survives_an_overflow():
    p = nn.Parameter(torch.zeros(2))
    player = Player("loss", (p,), lambda x: (p * x).sum())
    game = Game(nn.Linear(1, 1), [player])
    optimizer = torch.optim.SGD([p], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    move = Hooked(player, optimizer, None, 1.0, 1, game, game, nullcontext, scaler, None, lambda t: t)
    _, finite = move.gradient((torch.tensor([[3.0, 4.0]]),))
    move.update()
    assert bool(finite)
    torch.testing.assert_close(p.detach(), torch.tensor([-0.6, -0.8]), rtol=1e-4, atol=1e-5)
    _, finite = move.gradient((torch.tensor([[3e38, 0.0]]),))  # finite, but 1024 times as much is not
    move.update()
    assert bool(finite) and torch.isfinite(p).all() and scaler.get_scale() < 1024.0
    assert not bool(move.gradient((torch.tensor([[torch.inf, 0.0]]),))[1])  # the loss itself


def test_bf16_keeps_the_weights_and_nearly_the_loss():
    x = torch.randn(512, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
    exact, mixed = NSF(2, transforms=1, hidden_features=(16,)), None
    mixed = copy.deepcopy(exact)
    a = quiet(exact, x, max_epochs=6)["loss"][-1]
    b = quiet(mixed, x, max_epochs=6, precision="bf16-mixed", accumulate=2)["loss"][-1]
    assert b == pytest.approx(a, rel=0.01) and all(p.dtype == torch.float32 for p in mixed.parameters())


def test_traced_under_autocast_equals_eager_under_autocast(monkeypatch):
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: graph)
    vae = VAE(StandardNormal(2), DiagonalNormal(2, 2, (8,)), DiagonalNormal(2, 2, (8,)))
    twin = copy.deepcopy(vae)
    settings = {"precision": "bf16-mixed", "max_epochs": 3, "batch_size": 16}
    eager, traced = quiet(vae, X, **settings), quiet(twin, X, **{**settings, "compile": True})
    assert traced["loss"] == pytest.approx(eager["loss"], rel=1e-5)


def test_loggers_of_fabric_and_callables_hear_every_epoch(tmp_path):
    from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

    rows = []
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board"), rows.append]
    loggers[0]._flush_logs_every_n_steps = 1
    quiet(small(), X, max_epochs=2, validation=0.2, logger=loggers)
    assert [row["epoch"] for row in rows] == [1, 2] and "validation" in rows[0]
    text = next((tmp_path / "csv").rglob("metrics.csv")).read_text()
    assert "validation" in text and len(text.splitlines()) == 3
    assert list((tmp_path / "board").rglob("events.out.tfevents*"))


def test_data_stay_in_the_host_where_they_do_not_fit(monkeypatch):
    """On a GPU with too little memory batches are pinned and copied one by one; here ``meta`` stands for it."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    x = torch.zeros(100)
    assert data._fits((x,), torch.device("cpu")) and data._fits((x[:120],), cuda)
    assert not data._fits((torch.zeros(126),), cuda)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(len(t)) or t)
    monkeypatch.setattr(data, "_fits", lambda tensors, device: False)
    batches = Batches((torch.arange(10.0),), 4, torch.device("meta"), torch.Generator().manual_seed(0))
    assert [b[0].device.type for b in batches] == ["meta"] * 3 and pinned == [4, 4, 2]


def test_shares_of_processes_make_the_batch():
    """Every datum goes to one process, but for the few that are repeated so that all get as many."""
    x = torch.arange(22.0)

    def shares(world_size, shuffled):
        def order():
            return torch.Generator().manual_seed(1) if shuffled else None

        return [[b[0] for b in Batches((x,), 8, x.device, order(), r, world_size)] for r in range(world_size)]

    for world_size in (2, 3):
        whole = shares(1, True)[0]
        parts = shares(world_size, True)
        for i, batch in enumerate(whole):
            pieces = [p[i] for p in parts]
            assert len({len(p) for p in pieces}) == 1
            together = torch.cat(pieces)
            assert set(together.tolist()) == set(batch.tolist()) and len(together) - len(batch) < world_size
        held = torch.cat([b for p in shares(world_size, False) for b in p])
        assert sorted(held.tolist()) == x.tolist()  # validation data are never repeated


def test_a_dataset_is_read_in_the_order_of_the_seed_and_only_where_needed():
    class Numbers(Dataset):
        def __init__(self):
            self.read = []

        def __len__(self):
            return 10

        def __getitem__(self, i):
            self.read.append(i)
            return torch.tensor(float(i)), torch.tensor([1.0])

    generator = torch.Generator().manual_seed(0)
    numbers = Numbers()
    batches = Batches(numbers, 4, torch.device("cpu"), generator)
    state = generator.get_state()
    whole = [b[0] for b in batches.epoch()]
    assert sorted(torch.cat(whole).tolist()) == list(range(10)) and len(batches) == 3
    generator.set_state(state)
    numbers.read.clear()
    rest = [b[0] for b in batches.epoch(skip=1)]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[1:], strict=True)) and len(numbers.read) == 6


def test_seed_covers_python_and_numpy_and_leaves_them_as_they_were():
    import random

    import numpy as np

    class Noisy(Dataset):
        def __len__(self):
            return 32

        def __getitem__(self, i):
            return X[i] + random.random() + float(np.random.randn())

    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    one, other = small(), small()
    quiet(one, Noisy(), max_epochs=2)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(2)
    np.random.seed(2)
    quiet(other, Noisy(), max_epochs=2)
    assert torch.equal(weights(one), weights(other))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"accumulate": 0}, "accumulate: expected a whole number, at least 1"),
        ({"compile": "always"}, "compile: expected 'auto', True or False"),
        ({"strategy": "horovod", "devices": 1}, "strategy: expected one of auto, ddp, fsdp"),
        ({"num_nodes": 2}, "num_nodes: expected devices="),
        ({"schedule": partial(one_cycle), "gradient_clip": -1.0}, "gradient_clip"),
    ],
)
def test_settings_are_checked(settings, match):
    with pytest.raises(ValueError, match=match):
        quiet(small(), X, **settings)
