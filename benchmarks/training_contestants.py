r"""What ``benchmarks.training`` compares: the same training step written by hand, in Pyro, and by ``pyro_dgm.fit``.

Every contestant of a task minimises the same loss, as a mean or a sum over the batch, by Adam:

.. math::
    \frac{1}{n} \sum_i \bigl[\log q(z_i | x_i) - \log p(x_i | z_i) - \log p(z_i)\bigr], \quad z_i \sim q(z | x_i)

for the autoencoder, :math:`-\frac{1}{n} \sum_i \log p(x_i)` for the flow, and
:math:`\sum_s [\log q(z_s) - \log p(z_s)] - \sum_i \log p(x_i | z)` for a program with latent sites
:math:`z_s`. The hand-written ones are what a careful person writes: plain modules, only the terms of the densities
that matter, fused Adam, no validation, no number read from the device before the end of an epoch. Batches are taken by
``index_select`` along a permutation by all of them.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyro
import pyro.optim
import torch
from pyro import distributions as dist
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F
from torch.optim import Adam

from pyro_dgm import fit
from pyro_dgm.models import VAE, DiagonalNormal, IndependentBernoulli, RealNVP, StandardNormal

Mark = Callable[[], None]
Contestant = Callable[[int, Mark], None]
"""Trains for a number of epochs and calls the mark at the start and at the end of each."""
Step = Callable[[Tensor], Tensor | float]
Program = Callable[[Tensor], None]
Contestants = dict[str, Contestant]
Limits = dict[tuple[str, str], float]

SVI_NAME, JIT, EAGER, COMPILED = "SVI Trace_ELBO", "SVI JitTrace_ELBO", "fit", "fit compiled"
LR = 1e-3


@dataclass(frozen=True)
class Task:
    """Contestants on the same data.

    Attributes:
        name: Its name.
        steps: Steps per epoch.
        batch_size: Data per step.
        contestants: The contestants.
        parameters: Number of parameters that the hand-written contestant, and the one of Pyro, learn.
        limits: Greatest ratio that (contestant, other) may have.
    """

    name: str
    steps: int
    batch_size: int
    contestants: Contestants
    parameters: tuple[int, int]
    limits: Limits


def loop(step: Step, x: Tensor, batch_size: int) -> Contestant:
    """A plain loop around a step."""

    def run(epochs: int, mark: Mark) -> None:
        mark()
        for _ in range(epochs):
            total = torch.zeros((), device=x.device)
            for index in torch.randperm(len(x)).to(x.device).split(batch_size):
                total += step(x.index_select(0, index))
            float(total)
            mark()

    return run


def by_torch(loss: Callable[[Tensor], Tensor], parameters: list[Tensor], x: Tensor, batch_size: int) -> Contestant:
    """Backward and fused Adam in a plain loop."""
    optimizer = Adam(parameters, LR, fused=True)

    def step(batch: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(batch)
        value.backward()
        optimizer.step()
        return value.detach()

    return loop(step, x, batch_size)


def by_svi(model: Program, guide: Program, loss: Any, x: Tensor, batch_size: int) -> Contestant:
    """Pyro's own way, its validation off."""
    plain = loop(SVI(model, guide, pyro.optim.Adam({"lr": LR}), loss).step, x, batch_size)

    def run(epochs: int, mark: Mark) -> None:
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.jit's tracer
            plain(epochs, mark)

    return run


def by_fit(model: nn.Module, x: Tensor, batch_size: int, **settings: Any) -> Contestant:
    """``fit``, called afresh every time, so that it traces and compiles every time."""
    settings = {"gradient_clip": None, "progress": False, **settings}

    def run(epochs: int, mark: Mark) -> None:
        mark()
        fit(model, x, batch_size=batch_size, max_epochs=epochs, callbacks=[lambda *_: mark()], **settings)

    return run


def log_normal(value: Tensor, loc: Tensor | float, log_scale: Tensor | float, scale: Tensor | float) -> Tensor:
    """The log-density of a normal distribution."""
    return -0.5 * ((value - loc) / scale) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


class TorchVAE(nn.Module):
    """The autoencoder by hand; called with data, it returns the single-sample negative ELBO."""

    def __init__(self, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, features))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss; log p(z) and log q(z | x) without the terms that cancel."""
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = 1e-3 + F.softplus(raw + math.log(math.expm1(1 - 1e-3)))
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        divergence = (0.5 * (z * z - noise * noise) - scale.log()).sum()
        return (F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") + divergence) / len(x)


class TorchRealNVP(nn.Module):
    """The flow by hand; the masks alternate, so its two halves are split once and never put together."""

    def __init__(self, features: int, transforms: int, hidden_features: tuple[int, ...]) -> None:
        super().__init__()
        widths = [features // 2, *hidden_features, features]
        self.networks = nn.ModuleList()
        for _ in range(transforms):
            layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())][:-1]
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
            self.networks.append(nn.Sequential(*layers))
        self.constant = features * 0.5 * math.log(2 * math.pi)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mean negative log-likelihood."""
        a, b, ladj = x[:, 1::2], x[:, ::2], 0.0
        for network in reversed(self.networks):
            shift, s = network(a).chunk(2, -1)
            s = 3 * torch.tanh(s / 3)
            ladj = ladj - s.sum(-1)
            a, b = (b - shift) * torch.exp(-s), a
        return (0.5 * (a.square() + b.square()).sum(-1) - ladj).mean() + self.constant


class TorchSites(nn.Module):
    """The mean-field posterior of several sites by hand, site by site."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.locs = nn.ParameterList(torch.zeros(()) for _ in range(sites))
        self.log_scales = nn.ParameterList(torch.zeros(()) for _ in range(sites))
        self.pairs = list(zip(self.locs, self.log_scales, strict=True))  # iterating over ParameterLists is slow

    def forward(self, x: Tensor) -> Tensor:
        """Returns the single-sample negative ELBO, summed over data."""
        total, divergence = 0.0, 0.0
        for loc, log_scale in self.pairs:
            scale = log_scale.exp()
            z = loc + scale * torch.randn((), device=x.device)
            divergence = divergence + log_normal(z, loc, log_scale, scale) - log_normal(z, 0.0, 0.0, 1.0)
            total = total + z
        return divergence - log_normal(x, total, 0.0, 1.0).sum()


def pyro_sites(sites: int, prefix: str) -> tuple[Program, Program]:
    """The same as a model and a guide, plain functions with parameters in Pyro's store under ``prefix``."""

    def model(x: Tensor) -> None:
        zero, one = x.new_zeros(()), x.new_ones(())
        total = 0.0
        for i in range(sites):
            total = total + pyro.sample(f"z_{i}", dist.Normal(zero, one))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(total, one), obs=x[:, 0])

    def guide(x: Tensor) -> None:
        for i in range(sites):
            loc = pyro.param(f"{prefix}_loc_{i}", x.new_zeros(()))
            scale = pyro.param(f"{prefix}_scale_{i}", x.new_ones(()), constraint=constraints.positive)
            pyro.sample(f"z_{i}", dist.Normal(loc, scale))

    return model, guide


def dgm_vae(features: int = 784, hidden: int = 400, latent: int = 20) -> VAE:
    """The autoencoder of this package."""
    likelihood = IndependentBernoulli(features, context=latent, hidden_features=(hidden,))
    return VAE(StandardNormal(latent), likelihood, DiagonalNormal(latent, context=features, hidden_features=(hidden,)))


def dgm_realnvp() -> RealNVP:
    """The flow of this package."""
    return RealNVP(features=16, transforms=4, hidden_features=(64, 64), standardize=False)


def modules(hand: Callable[[], nn.Module], make: Callable[[], Any], x: Tensor, batch_size: int) -> Contestants:
    """The contestants of a model of this package, each with weights of its own."""
    data = (x, batch_size)

    def by_module(compiled: bool) -> Contestant:
        module = hand().to(x.device)
        loss = torch.compile(module, dynamic=False) if compiled else module
        return by_torch(loss, list(module.parameters()), *data)

    def by_programs(loss: Any) -> Contestant:
        model = make().to(x.device)
        return by_svi(model.model, model.guide, loss, *data)

    return {
        "torch": by_module(compiled=False),
        "torch.compile": by_module(compiled=True),
        SVI_NAME: by_programs(Trace_ELBO()),
        JIT: by_programs(JitTrace_ELBO(ignore_jit_warnings=True)),
        EAGER: by_fit(make().to(x.device), *data, compile=False),
        COMPILED: by_fit(make().to(x.device), *data, compile=True),
        f"{COMPILED}, clipped": by_fit(make().to(x.device), *data, compile=True, gradient_clip=5.0),
    }


def programs(sites: int, x: Tensor, batch_size: int) -> Contestants:
    """The contestants of a program with latent sites, each with parameters of its own in Pyro's store."""
    hand = TorchSites(sites).to(x.device)
    pairs = [pyro_sites(sites, f"sites{sites}_{k}") for k in range(4)]
    return {
        "torch": by_torch(hand, list(hand.parameters()), x, batch_size),
        SVI_NAME: by_svi(*pairs[0], Trace_ELBO(), x, batch_size),
        JIT: by_svi(*pairs[1], JitTrace_ELBO(ignore_jit_warnings=True), x, batch_size),
        EAGER: by_fit(Trace_ELBO()(*pairs[2]), x, batch_size, compile=False),
        COMPILED: by_fit(Trace_ELBO()(*pairs[3]), x, batch_size, compile=True),
    }


def limits(torch_: float, svi: float, **others: float) -> Limits:
    """The bars of a task: greatest ratios of the compiled ``fit`` to others, and of the eager one to ``torch``."""
    found = {(COMPILED, "torch"): torch_, (COMPILED, SVI_NAME): svi}
    if "compiled" in others:
        found[COMPILED, "torch.compile"] = others["compiled"]
    if "eager" in others:
        found[EAGER, "torch"] = others["eager"]
    return found


def make_task(name: str, device: torch.device, longer: int = 1) -> Task:
    """Makes a task, its data and its contestants.

    Args:
        name: One of :data:`TASKS`.
        device: Where it runs.
        longer: How many times as many steps an epoch has as on a CPU.
    """
    kind, size = name.rsplit("-", 1)
    steps, bars = TASKS[name]
    steps, batch_size = steps * longer, 100 if kind == "sites" else int(size)
    if device.type == "cuda":
        bars = {} if kind == "sites" else {(COMPILED, "torch"): 0.4}
    rows = steps * batch_size
    if kind == "vae":
        x = torch.randint(2, (rows, 784), device=device).float()
        hand, make = lambda: TorchVAE(784, 400, 20), dgm_vae
    elif kind == "realnvp":
        x = torch.randn(rows, 16, device=device)
        hand, make = lambda: TorchRealNVP(16, 4, (64, 64)), dgm_realnvp
    else:
        x = torch.randn(rows, 1, device=device) + 3
        parameters = (count(TorchSites(int(size))),) * 2
        return Task(name, steps, batch_size, programs(int(size), x, batch_size), parameters, bars)
    return Task(name, steps, batch_size, modules(hand, make, x, batch_size), (count(hand()), count(make())), bars)


def count(module: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(p.numel() for p in module.parameters())


TASKS: dict[str, tuple[int, Limits]] = {
    "vae-128": (16, limits(1.0, 0.6, compiled=1.03, eager=1.3)),
    "vae-16": (64, limits(1.0, 0.35, compiled=1.03, eager=1.3)),
    "realnvp-512": (32, limits(1.0, 0.6, compiled=1.03, eager=1.3)),
    "realnvp-128": (64, limits(1.0, 0.35, compiled=1.03, eager=1.3)),
    "sites-1": (200, limits(0.7, 0.15)),
    "sites-10": (100, limits(0.4, 0.08)),
    "sites-50": (30, limits(0.4, 0.08)),
}
"""Steps per epoch on a CPU, for epochs of 20 to 100 ms in the compiled ``fit``, and the bars."""
