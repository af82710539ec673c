"""Runs for the tests to kill: forks, so that a start costs nothing, and says how those that survived ended.

    python -m tests.killed_run FOLDER KIND-KILLS ...

prints one line of JSON: of every run how many times it was killed, at which steps it was gone on from, and whether the
final weights and the history equal those of a run left alone, bit for bit.
"""

import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import lightning_fabric  # noqa: F401  (once, in the process that forks)
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pyro_dgm import fit
from pyro_dgm.models import GAN, VAE, DiagonalNormal, RealNVP, StandardNormal
from pyro_dgm.objectives import ELBO, Adversarial, LinearWarmup
from pyro_dgm.training import assembly, warmup_cosine
from pyro_dgm.training.checkpoint import Checkpoint
from pyro_dgm.training.compilation import inductor


class Noisy(Dataset):
    """Data that draw from every generator when they are read."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + 0.01 * (torch.randn(2) + float(np.random.randn()) + random.random())


class Network(nn.Sequential):
    """A network with running statistics and random masks."""

    def __init__(self):
        super().__init__(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 4))


def start(kind):
    """Returns the model and the arguments of fit."""
    torch.manual_seed(0)
    x = torch.randn(96, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
    common = {"batch_size": 16, "max_epochs": 30, "progress": False, "seed": 1, "compile": False}
    if kind == "flow":
        return RealNVP(2, hidden_features=(16,)), x, {
            **common, "validation": 0.2, "ema": 0.9, "schedule": warmup_cosine, "patience": 15, "accumulate": 2,
        }  # fmt: skip
    if kind == "game":
        loader = DataLoader(Noisy(x), batch_size=16, shuffle=True)
        sgd = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
        optimizer = {"critic": torch.optim.Adam, "generator": sgd}
        objective = Adversarial(critic_steps=2)
        return GAN(2, 2, hidden_features=(8,)), loader, {**common, "objective": objective, "optimizer": optimizer}
    vae = VAE(StandardNormal(2), DiagonalNormal(2, 2, network=Network()), DiagonalNormal(2, 2, (8,)))
    objective = ELBO(kl_weight=LinearWarmup(40))
    settings = {**common, "batch_size": 20}
    if kind in ("traced", "compiled"):
        settings["compile"] = True
    return vae, Noisy(x) if kind == "vae" else x, {**settings, "objective": objective, "ema": 0.95}


def finish(kind, path, checkpoint):
    """Trains, or goes on training, to the end, and writes what came out."""
    model, x, settings = start(kind)
    random.seed(5)
    np.random.seed(5)
    history = fit(model, x, **{**settings, **checkpoint})
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    torch.save(
        {"state": model.state_dict(), "rows": rows, "best": history.best_epoch, "stopped": history.stopped}, path
    )


class CompiledOnce:
    """Inductor, asked once for every graph, by whoever forks: a compilation takes longer than a run."""

    def __init__(self):
        self.made = {}

    def __call__(self, graph, inputs):
        if graph.code not in self.made:
            self.made[graph.code] = inductor(graph, inputs)
        return self.made[graph.code]


def forked(function, *args):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function(*args)
            code = 0
        finally:
            os._exit(code)
    return child


def stamp(path):
    """What changes whenever the file is replaced."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def saved_step(path):
    """The step of the checkpoint that is there, which is whole whatever the moment; -1 if there is none."""
    saved = Checkpoint(path, True, 0.0).read()
    return -1 if saved is None else saved["place"][1]


def wait_for(path, step, before, child):
    """Waits until the child has gone on, and as far as a step, however slow the machine is, or is dead."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if stamp(path) != before:
            before = stamp(path)
            if saved_step(path) >= step:
                return
        time.sleep(0.005)


def killed_and_resumed(kind, kills, folder):
    """Kills a run again and again, and compares what comes out in the end with a run left alone."""
    alone, resumed, path = folder / "alone.pt", folder / "resumed.pt", folder / "run.ckpt"
    assembly.inductor = CompiledOnce() if kind == "compiled" else lambda graph, inputs: graph
    finish(kind, alone, {})
    one = torch.load(alone, weights_only=True)
    draw, steps, killed = random.Random(0), [], 0
    moments = sorted(draw.randrange(one["rows"][-1]["step"]) for _ in range(kills))  # from its start to its end
    checkpoint = {"checkpoint": path, "resume": True, "checkpoint_every": 0.0}
    while killed < kills:
        before = stamp(path)
        child = forked(finish, kind, resumed, checkpoint)
        if killed % 4 != 3:  # every fourth is killed wherever it may be, perhaps before it has gone on
            wait_for(path, moments[killed], before, child)
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        steps.append(saved_step(path))
        killed += died
        if not died:
            break
    if kind == "compiled":
        assembly.inductor = inductor  # the last one compiles for itself
    assert os.waitpid(forked(finish, kind, resumed, checkpoint), 0)[1] == 0
    other = torch.load(resumed, weights_only=True)
    same = one["state"].keys() == other["state"].keys()
    same = same and all(torch.equal(v, other["state"][k]) for k, v in one["state"].items())
    rest = {k: one[k] == other[k] or str(one[k]) == str(other[k]) for k in ("rows", "best", "stopped")}
    left = [file.name for file in folder.glob("*.tmp")]
    return {"killed": killed, "steps": steps, "of": one["rows"][-1]["step"], "weights": same, "left": left, **rest}


def main():
    place, found = Path(sys.argv[1]), {}
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes to fork or to leave behind
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(place / "kernels")
    for run in sys.argv[2:]:
        kind, kills = run.split("-")
        (place / kind).mkdir()
        found[kind] = killed_and_resumed(kind, int(kills), place / kind)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
