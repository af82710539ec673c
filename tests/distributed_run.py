"""A script for ``torchrun``: fits a model on several processes and writes what each of them ended with.

torchrun --nproc-per-node=2 tests/distributed_run.py KIND FOLDER [--epochs N] [--die EPOCH]
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from torch import nn

from pyro_dgm import fit
from pyro_dgm.models import GAN, VAE, DiagonalNormal, NormalizingFlow, StandardNormal
from pyro_dgm.transforms import ActNorm, Coupling


class Norm(nn.Sequential):
    """Running statistics that differ from share to share."""

    def __init__(self):
        super().__init__(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def make(kind, rank):
    torch.manual_seed(rank)  # the first process's weights have to win
    x = 5 + 3 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    if kind == "game":
        return GAN(2, 2, hidden_features=(8,)), x
    if kind == "vae":
        vae = VAE(StandardNormal(2), DiagonalNormal(2, 2, network=Norm()), DiagonalNormal(2, 2, (8,)))
        return vae, x
    layers = [Coupling([1, 0], None, (8,)), ActNorm(2), Coupling([0, 1], None, (8,))]
    return NormalizingFlow(2, layers).double(), x.double()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["flow", "traced", "game", "vae", "one"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--die", type=int, default=0)
    parser.add_argument("--strategy", default="ddp")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    if args.kind == "traced":
        import pyro_dgm.training.assembly as assembly

        assembly.inductor = lambda graph, inputs: graph
    model, x = make(args.kind, rank)
    epochs, rows = [], []

    def note(history, trained):
        epochs.append(torch.cat([t.detach().double().flatten() for t in trained.state_dict().values()]))
        if args.die and rank == 1 and len(history) == args.die:
            os._exit(7)

    history = fit(
        model, x, batch_size=16, max_epochs=args.epochs, seed=3, compile=args.kind == "traced", callbacks=[note],
        devices=None if args.kind == "one" else "auto", strategy=args.strategy,
        validation=x[:15] if args.kind in ("flow", "traced", "one") else None, ema=0.9 if args.kind == "vae" else None,
        checkpoint=args.folder / "run.ckpt" if args.epochs > 4 or args.die else None, resume=bool(args.die) or args.epochs > 4,  # noqa: E501
        checkpoint_every=0.0, logger=rows.append,
    )  # fmt: skip
    state = {name: t.detach() for name, t in model.state_dict().items()}
    noise = torch.randn(4)
    torch.save(
        {"epochs": epochs, "state": state, "loss": history["loss"] if "loss" in history.columns else [], "noise": noise,
         "told": len(rows)},
        args.folder / f"rank{rank}.pt",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
