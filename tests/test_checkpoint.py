"""Exact resume: a run that is killed, terminated or out of disk goes on as if nothing had happened."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch.distributions import constraints
from torch.utils.data import DataLoader, TensorDataset

from pyro_dgm import _archive, fit
from pyro_dgm.models import MAF, RealNVP
from pyro_dgm.training import checkpoint, one_cycle, randomness, warmup_cosine

from .test_import import ENVIRONMENT, ROOT

X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
quiet = partial(fit, batch_size=16, progress=False, seed=0, compile=False)


def small():
    torch.manual_seed(0)
    return RealNVP(2, transforms=2, hidden_features=(8,))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


KILLS = {"flow": 6, "game": 3, "vae": 3, "traced": 3, "compiled": 2}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Runs of every kind, killed and resumed, after one start (see ``killed_run``)."""
    runs = [f"{kind}-{kills}" for kind, kills in KILLS.items()]
    command = [sys.executable, "-W", "ignore", "-m", "tests.killed_run", str(tmp_path_factory.mktemp("killed")), *runs]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


@pytest.mark.xdist_group("killed")
@pytest.mark.parametrize("kind", KILLS)
def test_killed_at_random_moments_and_resumed_ends_bit_equal(kind, killed):
    """SIGKILL, resumed each time; every file found after a kill is whole."""
    found, kills = killed[kind], KILLS[kind]
    assert found["weights"] and found["rows"] and found["best"] and found["stopped"], found
    assert found["killed"] == kills and len(set(found["steps"])) > kills // 2, found
    assert found["steps"] == sorted(found["steps"]) and found["steps"][-1] > found["of"] // 2, found
    assert not found["left"]


TERMINATED = """
import sys, torch
from pyro_dgm import fit
from pyro_dgm.models import RealNVP
torch.manual_seed(0)
x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
model = RealNVP(2, transforms=2, hidden_features=(8,))
settings = dict(batch_size=16, progress=False, seed=0, compile=False, max_epochs=int(sys.argv[1]))
try:
    fit(model, x, checkpoint="run.ckpt", resume=True, checkpoint_every=1e9,
        callbacks=[lambda h, m: print("epoch", len(h), flush=True)], **settings)
finally:
    print("left in order", flush=True)
"""


def test_sigterm_finishes_the_step_writes_and_exits(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", TERMINATED, "100000"]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch 5"):
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert out.endswith("left in order\n")
    saved = checkpoint.Checkpoint(tmp_path / "run.ckpt", True, 0.0).read()
    step = saved["place"][1]
    assert step >= 20
    epochs = step // 4 + 2
    model, twin = small(), small()
    path = {"checkpoint": tmp_path / "run.ckpt", "resume": True}
    history = quiet(model, X, max_epochs=epochs, **path)
    assert len(history) == epochs
    quiet(twin, X, max_epochs=epochs)
    assert torch.equal(weights(model), weights(twin))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def interrupted(path, model, at, **settings):
    """Trains with a checkpoint, and stops by an exception after some epochs, right after a checkpoint."""

    class Stop(Exception):
        pass

    def stop(history, trained):
        if len(history) == at:
            raise Stop

    with pytest.raises(Stop):
        quiet(model, X, checkpoint=path, checkpoint_every=0.0, callbacks=[stop], **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": one_cycle},
        {"schedule": lambda o, n: torch.optim.lr_scheduler.MultiStepLR(o, [3, 9])},
        {"optimizer": partial(torch.optim.SGD, lr=0.01, momentum=0.9), "schedule": warmup_cosine},
        {"optimizer": partial(torch.optim.AdamW, lr=0.01, amsgrad=True), "ema": 0.9},
        {"validation": 0.25, "patience": 3, "seed": None},
        {"gradient_clip": None, "accumulate": 3},
    ],
    ids=["one_cycle", "multi-step", "sgd", "amsgrad-ema", "no-seed", "accumulate"],
)
def test_a_run_goes_on_from_its_checkpoint(settings, tmp_path):
    alone, resumed = small(), small()
    torch.manual_seed(9)
    expected = quiet(alone, X, max_epochs=6, **settings)
    torch.manual_seed(9)
    interrupted(tmp_path / "run.ckpt", resumed, 3, max_epochs=6, **settings)
    other = small()  # what a new process would have
    torch.manual_seed(10)
    history = quiet(other, X, max_epochs=6, checkpoint=tmp_path / "run.ckpt", resume=True, **settings)
    assert torch.equal(weights(other), weights(alone))
    keys = ("epoch", "step", "loss", *(["validation"] if "validation" in settings else []))
    assert all(history[key] == expected[key] for key in keys)
    assert history.best_epoch == expected.best_epoch and history["seconds"] == sorted(history["seconds"])


def test_a_finished_run_is_not_run_again_and_can_be_prolonged(tmp_path):
    model, path = small(), tmp_path / "run.ckpt"
    first = quiet(model, X, max_epochs=3, checkpoint=path, validation=0.2, ema=0.9)
    again, content = small(), path.read_bytes()
    assert quiet(again, X, max_epochs=3, checkpoint=path, resume=True, validation=0.2, ema=0.9).rows == first.rows
    assert torch.equal(weights(again), weights(model))
    prolonged, alone = small(), small()
    path.write_bytes(content)
    longer = quiet(prolonged, X, max_epochs=5, checkpoint=path, resume=True, validation=0.2, ema=0.9)
    quiet(alone, X, max_epochs=5, validation=0.2, ema=0.9)
    assert len(longer) == 5 and torch.equal(weights(prolonged), weights(alone))


def test_parameters_in_pyros_store_are_in_the_checkpoint(tmp_path):
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("a.loc", torch.zeros(2)), scale).to_event(1), obs=x)

    def run(**settings):
        pyro.clear_param_store()
        with suppress(KeyboardInterrupt):
            quiet(Trace_ELBO()(model, lambda x: None), X, max_epochs=4, **settings)
        return pyro.param("a.loc").detach().clone(), pyro.param("scale").detach().clone()

    alone = run()
    run(checkpoint=tmp_path / "run.ckpt", checkpoint_every=0.0, callbacks=[stop_at_2])
    resumed = run(checkpoint=tmp_path / "run.ckpt", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(alone, resumed, strict=True))
    assert float(alone[1]) != 1.0


def test_a_users_loader_goes_on_in_its_own_order(tmp_path):
    def loader():
        generator = torch.Generator().manual_seed(3)
        return DataLoader(TensorDataset(X), batch_size=16, shuffle=True, generator=generator)

    alone, resumed = small(), small()
    losses = quiet(alone, loader(), max_epochs=4)["loss"]
    with pytest.raises(KeyboardInterrupt):
        quiet(small(), loader(), max_epochs=4, checkpoint=tmp_path / "c", checkpoint_every=0.0, callbacks=[stop_at_2])
    history = quiet(resumed, loader(), max_epochs=4, checkpoint=tmp_path / "c", resume=True)
    assert history["loss"] == losses and torch.equal(weights(alone), weights(resumed))


def stop_at_2(history, model):
    if len(history) == 2:
        raise KeyboardInterrupt


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """A checkpoint of a finished run, and what it contains."""
    path = tmp_path / "run.ckpt"
    quiet(small(), X, max_epochs=2, checkpoint=path)
    return path, path.read_bytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda: (MAF(2, hidden_features=(8,)), X, {}), "another run: model was 'RealNVP', is 'MAF'"),
        (lambda: (RealNVP(2, hidden_features=(9,)), X, {}), "another run: weights was"),
        (lambda: (small().double(), X.double(), {}), "another run: dtypes was"),
        (lambda: (small(), X[:50], {}), "another run: training data was 64, is 50"),
        (lambda: (small(), X, {"batch_size": 8}), "batches was 4, is 8; batch_size was 16, is 8"),
        (lambda: (small(), X, {"ema": 0.9}), "ema was None, is 0.9"),
        (lambda: (small(), X, {"schedule": one_cycle}), "steps of the schedule was None, is 12"),
        (lambda: (small(), X, {"resume": False}), "is there already; pass resume=True"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(written, change, match):
    path, content = written
    model, x, settings = change()
    before = weights(model)
    with pytest.raises(ValueError, match=match):
        quiet(model, x, **{"max_epochs": 3, "checkpoint": path, "resume": True, **settings})
    assert path.read_bytes() == content and torch.equal(weights(model), before)


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "text", "version", "format", "model file"])
def test_a_damaged_or_foreign_file_is_refused_and_kept(written, kind, monkeypatch):
    path, content = written
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        with zipfile.ZipFile(path) as archive:
            info = max(archive.infolist(), key=lambda i: i.file_size)
        middle = info.header_offset + 200 + info.file_size // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "version":
        monkeypatch.setattr(checkpoint, "__version__", "99.0")
    elif kind == "format":
        torch.save({"format": "another"}, path)
    else:
        torch.save(small().state_dict(), path)
    found, model = path.read_bytes(), small()
    match = {"version": "written by version .*, this is 99.0", "format": "expected a checkpoint of fit"}
    match["model file"] = match["format"]
    with pytest.raises(ValueError, match=match.get(kind, "damaged or foreign")):
        quiet(model, X, max_epochs=3, checkpoint=path, resume=True)
    assert path.read_bytes() == found and torch.equal(weights(model), weights(small()))


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails_is_an_error_and_keeps_the_last_checkpoint(written, monkeypatch):
    path, content = written
    monkeypatch.setattr(_archive.os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"could not be written \(No space left.*bytes free; the previous file is whole"):
        quiet(small(), X, max_epochs=3, checkpoint=path, resume=True)
    assert path.read_bytes() == content and os.listdir(path.parent) == [path.name]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 KiB, where we may make one; elsewhere the test above has to do."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a file system needs root")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_when_there_is_room(tiny_disk):
    path, filler, alone, model = tiny_disk / "run.ckpt", tiny_disk / "filler", small(), small()

    def fill(history, trained):
        if len(history) == 3:
            filler.write_bytes(bytes(os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_bsize))

    with pytest.raises(OSError, match=r"No space left.*the previous file is whole"):
        quiet(model, X, max_epochs=6, checkpoint=path, checkpoint_every=0.0, callbacks=[fill])
    assert set(os.listdir(tiny_disk)) == {"run.ckpt", "filler"}
    filler.unlink()
    resumed = small()
    quiet(resumed, X, max_epochs=6, checkpoint=path, resume=True)
    quiet(alone, X, max_epochs=6)
    assert torch.equal(weights(resumed), weights(alone))


def test_settings_are_checked_before_anything_is_done(tmp_path):
    with pytest.raises(ValueError, match="resume: expected a checkpoint"):
        quiet(small(), X, resume=True)
    with pytest.raises(ValueError, match="checkpoint: expected a path in a folder that exists"):
        quiet(small(), X, checkpoint=tmp_path / "no" / "run.ckpt")


def test_an_optimizer_that_cannot_be_stored_is_refused_at_the_first_checkpoint(tmp_path):
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                self.state[p]["object"] = Path("anything but a tensor")

    path = tmp_path / "run.ckpt"
    with pytest.raises(ValueError, match="checkpoint: the state of an optimizer or schedule holds more than tensors"):
        quiet(small(), X, optimizer=partial(Odd, lr=0.01), checkpoint=path, checkpoint_every=0.0)
    assert not path.exists()


def test_a_checkpoint_is_written_when_it_is_due(tmp_path, monkeypatch):
    times = []
    write = _archive.write
    monkeypatch.setattr(_archive, "write", lambda *args: (times.append(time.monotonic()), write(*args)))
    quiet(small(), X, max_epochs=3, checkpoint=tmp_path / "a")
    assert len(times) == 1  # the end, since a minute has not passed
    quiet(small(), X, max_epochs=3, checkpoint=tmp_path / "b", checkpoint_every=0.0)
    assert len(times) == 1 + 12 + 1


def test_states_of_all_generators_are_restored():
    device = torch.device("cpu")
    random.gauss(0, 1)  # leaves a second number for the next call
    np.random.standard_normal()
    state = randomness.get_state(device)
    draws = [random.random(), random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(()))]
    randomness.set_state(state, device)
    assert draws == [random.random(), random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(()))]
