"""What cannot be traced is refused with the reason; what changes between steps is noticed."""

import numpy as np
import pytest
import torch
from torch import nn

from pyro_dgm import fit
from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
from pyro_dgm.objectives import (
    ELBO,
)
from pyro_dgm.training import UntraceableError, trace
from pyro_dgm.training.compilation import (
    operations_of,
)
from pyro_dgm.training.graph import capture
from pyro_dgm.training.tracing import MAX_SHAPES, Replay


class Untraceable(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.calls = kind, 0
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        y = (self.weight * x).square()
        if self.kind == "branch" and y.sum() > 0:
            return y.mean()
        if self.kind == "number":
            return y.mean() * float(y.detach().max())
        if self.kind == "mask":
            return y[y > 0.5].sum()
        if self.kind == "counter":
            self.calls += 1
            return y.mean() / self.calls
        if self.kind == "numpy":
            return y.mean() * float(np.random.rand())
        if self.kind == "numpy tensor":
            return (y * torch.from_numpy(np.random.rand(2).astype(np.float32))).mean()
        return y.mean()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("branch", "asks for the value of a tensor"),
        ("number", "asks for the value of a tensor"),
        ("mask", "shape of a result depends on data"),
        ("counter", "different operations or numbers"),
        ("numpy", "different operations or numbers"),
        ("numpy tensor", "different operations or numbers"),
    ],
)
def test_what_cannot_be_traced_is_refused_and_fit_trains_it_all_the_same(kind, reason):
    x = torch.randn(64, 2)
    np.random.seed(0)
    with pytest.raises(UntraceableError, match=reason):
        trace(Untraceable(kind), x)
    eager, other = Untraceable(kind), Untraceable(kind)
    settings = {"batch_size": 16, "max_epochs": 3, "progress": False, "seed": 0}
    fit(eager, x, compile=False, **settings)
    with pytest.warns(UserWarning, match=f"training runs without a graph.*{reason}") as caught:
        fit(other, x, compile=True, **settings)
    assert len(caught) == 1  # said once, not at every step
    if kind != "counter":  # which counts the tracer's calls too
        assert torch.equal(eager.weight, other.weight)


def test_a_number_changed_between_epochs_is_noticed(monkeypatch):
    """A callback that changes the objective's weight, or a module's mode, is followed by a new trace."""
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: graph)

    def run(compile):
        torch.manual_seed(4)
        vae = VAE(StandardNormal(1), DiagonalNormal(2, 1, (4,)), DiagonalNormal(1, 2, (4,)))
        bound = ELBO(kl_weight=0.1)(vae)

        def raise_weight(history, model):
            bound.objective.kl_weight = min(1.0, 0.3 * len(history))

        history = fit(
            bound, torch.randn(32, 2), batch_size=8, max_epochs=4, progress=False, seed=0, compile=compile,
            callbacks=[raise_weight],
        )  # fmt: skip
        return history["loss"]

    assert run(True) == pytest.approx(run(False), rel=1e-5)


def test_every_shape_is_traced_once_and_too_many_are_run(monkeypatch):
    captured = []
    monkeypatch.setattr(
        "pyro_dgm.training.tracing.capture",
        lambda f, batch, modules: captured.append(len(batch[0])) or capture(f, batch, modules),
    )

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (self.weight * x).sum()

    loss = Loss()
    replay = Replay(lambda x: [loss(x).detach()], [loss])
    for _ in range(3):
        for n in (4, 5):
            assert float(replay(torch.ones(n))[0]) == n
    assert captured == [4, 5]
    with pytest.warns(UserWarning, match=f"more than {MAX_SHAPES} shapes"):
        for n in range(1, 30):
            assert float(replay(torch.ones(n))[0]) == n


def test_the_same_tensor_is_one_input_and_numbers_stay_numbers():
    weight = nn.Parameter(torch.tensor(2.0))
    data = torch.arange(3.0)
    graph, state = capture(lambda x: [(weight * x * weight + torch.tensor(0.5) * data).sum()], (torch.ones(3),), [])
    assert [id(t) for t in state] == [id(weight), id(data)]
    assert operations_of(graph) >= 4
