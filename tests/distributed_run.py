"""A script for ``torchrun``: fits models on several processes, and writes what each of them ended with.

torchrun --nproc-per-node=2 tests/distributed_run.py FOLDER KIND-STRATEGY[-die|-after_STRATEGY] ...

makes one run after the other, each in a folder of its name: one in which a process dies in its third epoch, one that
goes on from the checkpoint that is there, or one from start to end.
"""

import argparse
import copy
import os
import pickle
import signal
import sys
import warnings
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.optim import Adam

from pyro_dgm import fit
from pyro_dgm.models import GAN, VAE, DiagonalNormal, NormalizingFlow, StandardNormal
from pyro_dgm.nn import spectrally_normalized
from pyro_dgm.objectives import ELBO, R1, Adversarial, Relativistic
from pyro_dgm.training import NonFiniteError, assembly, loop
from pyro_dgm.transforms import ActNorm, Coupling
from tests.zoo import MODELS


class Norm(nn.Sequential):
    """Running statistics that differ from share to share."""

    def __init__(self):
        super().__init__(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


class Odd(nn.Module):
    """A loss with parameters that cannot be cut in two, or are held twice, or do not move."""

    def __init__(self):
        super().__init__()
        self.scalar = nn.Parameter(torch.rand(()))
        self.row = nn.Parameter(torch.rand(1, 2))
        self.transposed = nn.Parameter(torch.rand(3, 2).t())
        self.net, self.tied = nn.Linear(2, 5), nn.Linear(2, 5)
        self.tied.weight = self.net.weight
        self.rnn = nn.GRU(2, 3)
        self.frozen = nn.Parameter(torch.rand(4), requires_grad=False)
        self.double()
        self.single = nn.Parameter(torch.rand(2))

    def forward(self, x):
        states = self.rnn(x[None])[0][0]
        y = self.net(x).tanh() * self.scalar + self.tied(x) + self.frozen.sum() + states.square().mean(-1, keepdim=True)
        return (y - 1).square().mean() + (x * self.row @ self.transposed).square().mean() + self.single.sum()


class Decoder(PyroModule):
    """A model whose parameters Pyro's store may come to hold."""

    def __init__(self):
        super().__init__()
        self.decode = PyroModule[nn.Linear](2, 2)
        self.noise = PyroParam(torch.rand(2) + 1, dist.constraints.positive)
        self.double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), self.noise).to_event(1), obs=x)


class Encoder(PyroModule):
    """Its guide."""

    def __init__(self):
        super().__init__()
        self.encode = PyroModule[nn.Linear](2, 2)
        self.scale = PyroParam(torch.rand(2) + 1, dist.constraints.positive)
        self.double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encode(x), self.scale).to_event(1))


def make(kind, rank):
    torch.manual_seed(rank)  # the first process's weights have to win
    x = 5 + 3 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    if kind == "game":
        return GAN(2, 2, hidden_features=(8,)), x
    if kind == "spectral":
        critic = spectrally_normalized(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)))
        return Adversarial(Relativistic(), R1(), weight_clip=0.2)(GAN(2, 2, hidden_features=(8,), critic=critic)), x
    if kind == "vae":
        vae = VAE(StandardNormal(2), DiagonalNormal(2, 2, network=Norm()), DiagonalNormal(2, 2, (8,)))
        return vae, x
    if kind == "odd":
        return Odd(), x.double()
    layers = [Coupling([1, 0], None, (8,)), ActNorm(2), Coupling([0, 1], None, (8,))]
    return NormalizingFlow(2, layers).double(), x.double()


def flat(model):
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


def is_plain(model, parameters):
    """Whether a model holds the parameters that it held before, and nothing else that training put there."""
    same = all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    plain = all(type(p) is nn.Parameter and type(p.data) is torch.Tensor and p.grad is None for p in parameters)
    clean = all(
        not (m._forward_pre_hooks or m._forward_hooks or m._state_dict_pre_hooks or m._load_state_dict_pre_hooks)
        and not any("fsdp" in name for name in (type(m).__name__.lower(), *vars(m)))
        for m in model.modules()
    )
    copied = torch.equal(flat(copy.deepcopy(model)), flat(model)) and bool(pickle.dumps(model.state_dict()))
    return same and plain and clean and copied


def ends(folder, rank):
    """Training that ends before its time: what it raised, the weights that were left, whether they are plain."""
    settings = {"batch_size": 16, "seed": 3, "devices": "auto", "strategy": "fsdp", "progress": False}

    def send(number, history, trained):
        if rank == 1 and len(history) == 2:
            os.kill(os.getpid(), number)

    def spoil(history, trained):
        if len(history) == 2:
            with torch.no_grad():
                next(trained.parameters()).fill_(float("nan"))

    class OneBad(Odd):
        def forward(self, x):
            loss = super().forward(x)
            self.calls = getattr(self, "calls", 0) + 1
            return loss * float("inf") if rank == 1 and self.calls > 6 else loss

    flow, x = make("flow", rank)
    again, _ = make("flow", rank)
    found = []
    for model, how in (
        (flow, {"callbacks": [partial(send, signal.SIGTERM)], "checkpoint": folder / "run.ckpt"}),
        (again, {"callbacks": [partial(send, signal.SIGINT)], "ema": 0.9}),
        (make("flow", rank)[0], {"callbacks": [spoil]}),
        (OneBad(), {"validation": 0.25}),
    ):
        parameters = list(model.parameters())
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                fit(model, x, max_epochs=20, compile=True, **how, **settings)
            except (SystemExit, KeyboardInterrupt, NonFiniteError) as error:
                name = type(error).__name__
        graphs = sum("without a graph" in str(warning.message) for warning in heard)
        found.append((name, flat(model), is_plain(model, parameters), graphs))
    return found


def programs(rank):
    """Losses by Pyro's programs: with a store that holds the parameters, and with one that does not."""
    found = []
    for bind, strategy in ((Trace_ELBO(), "fsdp"), (Trace_ELBO(), "ddp"), (ELBO(), "fsdp"), (ELBO(), "ddp")):
        pyro.clear_param_store()
        _, x = make("flow", rank)
        model, guide = Decoder(), Encoder()
        parameters = list(model.parameters())
        settings = {"batch_size": 16, "seed": 3, "devices": "auto", "strategy": strategy, "progress": False}
        fit(bind(model, guide), x, max_epochs=3, validation=0.25, **settings)
        found.append((strategy, torch.cat([flat(model), flat(guide)]), is_plain(model, parameters)))
    return found


def every_model(rank):
    """How far the weights of every model in the zoo are from what they are under ddp."""
    found = {}
    for name, row in MODELS.items():
        ends = []
        for strategy in ("ddp", "fsdp"):
            model = row.build(2 if row.conditional else 0).double()
            if not list(model.parameters()):
                continue
            x, context = row.data(model, 32).double(), torch.randn(32, 2).double() if row.conditional else None
            before = flat(model)
            settings = {"batch_size": 16, "seed": 3, "devices": "auto", "strategy": strategy, "progress": False}
            fit(model, x, context, max_epochs=2, compile=False, **settings)
            ends.append(flat(model))
        if ends:
            found[name] = [apart(*ends), apart(ends[0], before)]
    return found


def apart(a, b):
    """The largest difference; infinite numbers, which stand for what is not known yet, may be equal too."""
    return float(torch.where(a == b, 0.0, (a - b).abs()).max())


def train(folder, kind, strategy, fate, rank):
    """One run, and what there is to know of it."""
    model, x = make(kind, rank)
    parameters = list(model.parameters())
    epochs, rows, plain, optimizers = [], [], [], []

    def note(history, trained):
        epochs.append(flat(trained))
        plain.append(is_plain(trained, parameters))
        if fate == "die" and rank == 1 and len(history) == 3:
            os._exit(7)

    def adam(parameters):
        optimizers.append(Adam(parameters, lr=1e-3, fused=True))
        return optimizers[-1]

    history = fit(
        model, x, batch_size=16, max_epochs=6, seed=3, compile=kind == "traced", callbacks=[note],
        devices=None if strategy == "one" else "auto", strategy=strategy.replace("one", "auto"),
        optimizer=adam if kind in ("flow", "odd") else None, accumulate=2 if kind == "odd" else 1,
        validation=x[:15] if kind in ("flow", "traced") else None,
        ema=0.9 if kind in ("vae", "odd", "spectral") else None,
        checkpoint=folder / "run.ckpt" if fate else None, resume=bool(fate), checkpoint_every=0.0,
        logger=rows.append,
    )  # fmt: skip
    plain.append(is_plain(model, parameters))
    state = {name: t.detach() for name, t in model.state_dict().items()}
    moments = [each["exp_avg"] for optimizer in optimizers for each in optimizer.state.values()]
    held = sum((m.to_local() if hasattr(m, "to_local") else m).numel() for m in moments)
    return {
        "epochs": epochs, "state": state, "loss": history["loss"] if "loss" in history.columns else [],
        "noise": torch.randn(4), "told": len(rows), "plain": plain, "held": [held, sum(m.numel() for m in moments)],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    assembly.inductor = lambda graph, inputs: graph  # replayed: a compilation takes longer than the runs
    rank = int(os.environ.get("RANK", 0))
    loop.SNAPSHOT_SECONDS = 1e9 * rank  # clocks that never agree on when to look at the weights
    for run in args.runs:
        print(run, flush=True)
        folder, (kind, strategy, *fate) = args.folder / run, run.split("-")
        folder.mkdir(exist_ok=True)
        pyro.clear_param_store()
        found = {"ends": partial(ends, folder), "programs": programs, "zoo": every_model}.get(kind)
        result = found(rank) if found else train(folder, kind, strategy, "".join(fate), rank)
        torch.save(result, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    sys.exit(main())
