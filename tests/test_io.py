"""Saving and loading: bit-equal in a new process, refusals that execute and destroy nothing."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyro_dgm
from pyro_dgm import models as m
from pyro_dgm import transforms as t

from .zoo import MODELS

ROOT = Path(__file__).parent.parent
STORABLE = [(n, row.contexts[-1]) for n, row in MODELS.items() if row.storable]


def measure(model, x, c):
    """A log-density and a seeded sample, as exact numbers."""
    torch.manual_seed(4)
    out = [model(c).sample((2,))]
    if pyro_dgm.distributions.density_of(model(c)) != "implicit":
        out.append(model(c).log_prob(x))
    return [o.detach() for o in out]


READ = """
import sys, torch, pyro_dgm
from tests.test_io import measure
for line in open(sys.argv[1] + "/list"):
    name = line.strip()
    data = torch.load(sys.argv[1] + "/" + name + ".data")
    model = pyro_dgm.load(sys.argv[1] + "/" + name + ".pt")
    for a, b in zip(measure(model, data["x"], data["c"]), data["expected"], strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), name
print("all equal")
"""


def test_every_model_is_bit_equal_in_a_new_process(tmp_path):
    names = []
    for k, (name, context) in enumerate(STORABLE):
        model = MODELS[name].build(context).eval()  # as a loaded model is; batch normalisation differs
        x, c = MODELS[name].data(model), torch.randn(6, context) if context else None
        model.initialize(x, c)
        if k % 2:
            model, x, c = model.double(), x.double(), None if c is None else c.double()
        names.append(f"{name}-{context}")
        pyro_dgm.save(model, tmp_path / f"{names[-1]}.pt")
        torch.save({"x": x, "c": c, "expected": measure(model, x, c)}, tmp_path / f"{names[-1]}.data")
    (tmp_path / "list").write_text("\n".join(names))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.strip() == "all equal", result.stderr


def test_loading_leaves_the_random_state_alone(tmp_path):
    pyro_dgm.save(m.RealNVP(3), tmp_path / "a.pt")
    before = torch.get_rng_state()
    pyro_dgm.load(tmp_path / "a.pt")
    assert torch.equal(torch.get_rng_state(), before)


def test_nested_parts_keep_their_settings(tmp_path):
    flow = m.NSF(2, bins=5, support=constraints.interval(0.0, 2.0), activation=nn.SiLU)
    vae = m.VAE(flow, m.DiagonalNormal((1, 2, 2), context=2), m.IAF(2, 4, support=constraints.interval(0.0, 2.0)))
    custom = m.NormalizingFlow(3, [t.Coupling([1, 0, 1], t.Spline(6, 2.0)), t.Permutation([2, 0, 1]), t.LULinear(3)])
    for model in (vae, custom):
        pyro_dgm.save(model, tmp_path / "a.pt")
        again = pyro_dgm.load(tmp_path / "a.pt")
        assert repr(again) == repr(model)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in model.state_dict().items()
        }
    assert pyro_dgm.load(tmp_path / "a.pt").transform.transforms[0].univariate.bound == 2.0


def test_a_users_module_is_refused_with_the_way_out(tmp_path):
    model = m.GAN(2, critic=nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"GAN.critic is a torch.nn.modules.linear.Linear.*state_dict.*into=model"):
        pyro_dgm.save(model, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = m.GAN(2, critic=nn.Linear(2, 1))
    assert pyro_dgm.load(tmp_path / "weights.pt", into=other) is other
    assert torch.equal(other.critic.weight, model.critic.weight)


def test_a_users_subclass_is_refused(tmp_path):
    class Mine(m.TractableModel):
        def __init__(self):
            super().__init__(2)

    with pytest.raises(ValueError, match="not a public class"):
        pyro_dgm.save(Mine(), tmp_path / "a.pt")


def content(model, /, **changes):
    description = {"class": type(model).__name__, "arguments": {"event_shape": 2}}
    base = {
        "format": "pyro_dgm.model.v1",
        "version": "0",
        "model": json.dumps(description),
        "state": model.state_dict(),
    }
    return {**base, **changes}


class Evil:
    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": json.dumps({"class": "os.system", "arguments": {}})}, "expected one of the classes of pyro_dgm"),
        (
            {"model": json.dumps({"class": "as_transform", "arguments": {"transform": 1}})},
            "expected one of the classes",
        ),
        ({"model": json.dumps({"class": "DiagonalNormal", "arguments": {"event_shape": 3}})}, "do not fit"),
        (
            {"model": json.dumps({"class": "DiagonalNormal", "arguments": {"nonsense": 3}})},
            "does not suit this version",
        ),
        (
            {"model": json.dumps({"class": "Permutation", "arguments": {"order": [0, 1]}})},
            "expected a generative model",
        ),
        ({"model": "{"}, "does not suit"),
        ({"model": json.dumps([1])}, "expected a generative model"),
        ({"state": {}}, "do not fit DiagonalNormal"),
        ({"state": 3}, "expected a state_dict"),
        ({"format": "other"}, "expected a file written by pyro_dgm.save"),
    ],
)
def test_foreign_content_is_a_clear_error(tmp_path, changes, match):
    torch.save(content(m.DiagonalNormal(2), **changes), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=match):
        pyro_dgm.load(tmp_path / "a.pt")


def test_nothing_is_executed_from_a_file(tmp_path):
    evil = Evil()
    evil.path = tmp_path / "executed"
    for write in (lambda f: pickle.dump(evil, f), lambda f: torch.save(content(m.DiagonalNormal(2), state=evil), f)):
        with open(tmp_path / "a.pt", "wb") as file:
            write(file)
        with pytest.raises(ValueError, match="nothing in it was executed"):
            pyro_dgm.load(tmp_path / "a.pt")
        assert not evil.path.exists()


def test_truncated_files_are_clear_errors(tmp_path):
    pyro_dgm.save(m.DiagonalNormal(2), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 40):
        (tmp_path / "b.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged or foreign"):
            pyro_dgm.load(tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        pyro_dgm.load(tmp_path / "missing.pt")


def test_a_file_that_does_not_fit_leaves_the_model_unchanged(tmp_path):
    pyro_dgm.save(m.DiagonalNormal(3), tmp_path / "a.pt")
    model = m.DiagonalNormal(2)
    before = model().base_dist.loc.clone()
    with pytest.raises(ValueError, match="do not fit"):
        pyro_dgm.load(tmp_path / "a.pt", into=model)
    assert torch.equal(model().base_dist.loc, before)


def test_a_failed_save_keeps_the_previous_file(tmp_path, monkeypatch):
    pyro_dgm.save(m.DiagonalNormal(2), tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        pyro_dgm.save(m.DiagonalNormal(2), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
