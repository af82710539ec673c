"""Traces that readers broke: whatever a program reads or draws, training traced is training eager, or is refused."""

import copy
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pyro_dgm import fit
from pyro_dgm.training import trace
from pyro_dgm.training.python_state import changed, python_state

quiet = partial(fit, progress=False, seed=0)


pytestmark = pytest.mark.usefixtures("replayed_not_compiled")


class Loss(nn.Module):
    """A loss of one weight, by a function of the module and the batch."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)
        self.register_buffer("target", torch.zeros(()))

    def forward(self, x):
        return self.function(self, x)


def toward(value):
    return lambda m, x: (m.w - value(m)).square().mean() + 0 * x.sum()


class Settings:
    level = 0.0


LEVEL = 0.0


def set_global(m, value):
    global LEVEL
    LEVEL = value


def set_cell():
    level = [0.0]

    def put(m, value):
        level[0] = value

    return (lambda m, x: (m.w - level[0]).square().mean() + 0 * x.sum()), put


CELL, PUT_CELL = set_cell()
SQUARE, CUBE = (lambda w: w**2), (lambda w: w.abs() ** 3)
CHANGES = {
    "number": (toward(lambda m: m.level), lambda m, v: setattr(m, "level", v), {"level": 0.0}),
    "numpy number": (toward(lambda m: float(m.level)), lambda m, v: setattr(m, "level", np.float64(v)), {"level": 0.0}),
    "entry": (toward(lambda m: m.d["a"][0]), lambda m, v: m.d.update(a=[v]), {"d": {"a": [0.0]}}),
    "array": (
        toward(lambda m: torch.from_numpy(m.a).float()),
        lambda m, v: setattr(m, "a", np.full(2, v)),
        {"a": np.zeros(2)},
    ),
    "object": (toward(lambda m: m.settings.level), lambda m, v: setattr(m.settings, "level", v), {"settings": None}),
    "plain tensor": (toward(lambda m: m.t), lambda m, v: setattr(m, "t", torch.tensor(v)), {"t": torch.tensor(0.0)}),
    "buffer": (toward(lambda m: m.target), lambda m, v: setattr(m, "target", torch.tensor(v)), {}),
    "function": (lambda m, x: m.f(m.w).sum() + 0 * x.sum(), lambda m, v: setattr(m, "f", CUBE), {"f": SQUARE}),
    "global": (toward(lambda m: LEVEL), set_global, {}),
    "closure": (CELL, PUT_CELL, {}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_callback_changes_is_trained_with(name):
    """Traced as eager, whatever kind of thing Python holds it as."""

    def run(compile):
        function, change, attributes = CHANGES[name]
        model = Loss(
            function, **{k: Settings() if k == "settings" else copy.deepcopy(v) for k, v in attributes.items()}
        )
        if name in ("global", "closure"):
            change(model, 0.0)
        rates = partial(torch.optim.SGD, lr=0.3)

        def callback(history, m):
            change(m, 2.0 * len(history))

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quiet(model, torch.ones(8, 1), batch_size=2, max_epochs=3, compile=compile, optimizer=rates,
                  callbacks=[callback], gradient_clip=None)  # fmt: skip
        return model.w.detach()

    eager = run(False)
    torch.testing.assert_close(run(True), eager)
    assert float(eager[0]) > 1 or name == "function"


def test_a_number_that_does_not_matter_is_not_compiled_again(monkeypatch):
    compiled = []
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: compiled.append(1) or graph)
    model = Loss(toward(lambda m: 1.0))
    note = [lambda history, m: setattr(m, "last", history["loss"][-1])]
    quiet(model, torch.ones(8, 1), batch_size=1, max_epochs=6, compile=True, callbacks=note)
    assert len(compiled) == 1


def test_public_traces_can_be_refreshed():
    model, x = Loss(toward(lambda m: m.level), level=1.0), torch.ones(2, 1)
    traced = trace(model, x)
    model.level = 3.0
    traced.refresh()
    assert float(traced(x).detach()) == float(model(x).detach()) == 4.0


def seeded(m, x):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return (m.w - torch.randn(2)).square().mean()


def recomputed(m, x):
    return (
        checkpoint(lambda w: torch.nn.functional.dropout(w, 0.5), m.w, use_reentrant=False).square().sum() + 0 * x.sum()
    )


def counted(m, x):
    m.calls += 1
    return (m.w - (1.0 if m.calls <= 8 else 3.0)).square().mean()


def own_generator(m, x):
    return (m.w - torch.randn(2, generator=m.generator)).square().mean()


def recurrent(m, x):
    return (m.lstm(m.w.expand(1, 1, 2))[0] - x.mean()).square().mean()


REFUSED = {
    "random state": (seeded, {}, "something else than the program"),
    "activation checkpoint": (recomputed, {}, "something else than the program"),
    "counter": (counted, {"calls": 0}, "every call changes '.*calls'"),
    "generator": (own_generator, {"generator": torch.Generator()}, "of its own|cannot be replayed"),
    "lstm": (recurrent, {"lstm": nn.LSTM(2, 2)}, "cannot be replayed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_graphs_that_would_not_be_the_program_are_refused(name):
    function, attributes, reason = REFUSED[name]
    model, x = Loss(function, **attributes), torch.ones(16, 1)
    with pytest.warns(UserWarning, match=reason):
        quiet(model, x, batch_size=4, max_epochs=4, compile=True)
    assert all(p.isfinite().all() for p in model.parameters())


def test_dropout_and_batch_normalisation_stay_traced():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    loss = Loss(lambda m, x: m.net(x).square().mean(), net=model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet(loss, torch.randn(16, 2), batch_size=4, max_epochs=2, compile=True)
    assert int(model[1].num_batches_tracked) == 8  # the first call and the tracer's are undone


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.seen = {"n": torch.zeros(())}

    def forward(self, x):
        self.seen["n"].add_(1)
        return self.w * x.mul_(2).mean()


@pytest.mark.parametrize("compile", [False, True])
def test_data_and_plain_tensors_are_left_as_they_are(compile):
    """A loss that works in place changes neither the user's data nor, beyond its own steps, what it keeps."""
    x, model = torch.ones(16, 1), Scaled()
    history = quiet(model, x, batch_size=4, max_epochs=2, compile=compile)
    assert torch.equal(x, torch.ones(16, 1)) and float(model.seen["n"]) == 8
    assert history["loss"][0] == pytest.approx(2.0, abs=0.1)


class Swapping(Loss):
    def __init__(self):
        super().__init__(lambda m, x: (m.w - m.a).square().mean() + 0 * x.sum())
        self.register_buffer("a", torch.tensor(0.0))
        self.register_buffer("b", torch.tensor(4.0))

    def forward(self, x):
        self.a, self.b = self.b, self.a
        return super().forward(x)


@pytest.mark.parametrize("compile", [False, True])
def test_buffers_that_change_places(compile):
    model = Swapping()
    quiet(model, torch.ones(10, 1), batch_size=2, max_epochs=1, compile=compile)
    assert (float(model.a), float(model.b)) == (4.0, 0.0)


class ClassHeld(Loss):
    level = 0.0

    def forward(self, x):
        return (self.w - LEVEL - type(self).level).square().mean() + 0 * x.sum()


@pytest.mark.parametrize("change", [set_global, lambda m, v: setattr(ClassHeld, "level", v)], ids=["global", "class"])
def test_what_methods_read_is_noticed(change):
    def run(compile):
        set_global(None, 0.0)
        ClassHeld.level = 0.0
        model = ClassHeld(None)
        quiet(model, torch.ones(8, 1), batch_size=2, max_epochs=3, compile=compile, gradient_clip=None,
              optimizer=partial(torch.optim.SGD, lr=0.3), callbacks=[lambda h, m: change(m, 2.0 * len(h))])  # fmt: skip
        return model.w.detach()

    torch.testing.assert_close(run(True), run(False))


def test_a_number_set_during_validation_is_noticed():
    class Set(Loss):
        def forward(self, x):
            if not self.training:
                self.level = 3.0
            return (self.w - self.level).square().mean() + 0 * x.sum()

    def run(compile):
        model = Set(None, level=0.0)
        quiet(model, torch.ones(8, 1), batch_size=2, max_epochs=3, compile=compile, validation=torch.ones(2, 1),
              optimizer=partial(torch.optim.SGD, lr=0.1))  # fmt: skip
        return model.w.detach()

    torch.testing.assert_close(run(True), run(False))


@pytest.mark.parametrize("draw", [np.random.rand, __import__("random").random], ids=["numpy", "python"])
def test_rare_branches_of_other_generators_are_refused(draw):
    model = Loss(lambda m, x: m.w.square().mean() * (1.0 if draw() < 1e-9 else 2.0) + 0 * x.sum())
    # which reason comes first depends on what else the process has drawn: numpy's state is also a Python object
    with pytest.warns(UserWarning, match="another generator than torch's|which Python holds"):
        quiet(model, torch.ones(16, 1), batch_size=4, compile=True, max_epochs=2)


def test_python_state_survives_odd_objects():
    class Raises:
        @property
        def __dict__(self):
            raise RuntimeError("no dict")

    class Slots:
        __slots__ = ("level",)

    module = nn.Module()
    module.odd, module.slots, module.big = Raises(), Slots(), [list(range(900))] * 2 + [[0.5] * 900 for _ in range(900)]
    module.slots.level, module.hidden = 1.0, [nn.Linear(1, 1)]
    module.self = [module]
    before = python_state([module])
    assert changed(before, python_state([module])) is None
    module.slots.level = 2.0
    assert changed(before, python_state([module])) == "slots"
    module.slots.level = 1.0
    module.hidden[0].training = False
    assert changed(before, python_state([module])) == "hidden"


@pytest.mark.parametrize("identities", [False, True])
def test_python_state_looks_into_every_object_of_a_list(identities):
    module = nn.Module()
    module.things = [SimpleNamespace(level=k) for k in range(20)]
    for thing in module.things:
        before = python_state([module], identities=identities)
        thing.level += 100
        assert changed(before, python_state([module], identities=identities)) == "things"
