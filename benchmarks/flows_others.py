r"""The contestants of ``benchmarks.flows`` that are no stacks of vector layers: flows on images, continuous flows.

Images. Glow's step is a 1x1 convolution that normalises too and an affine coupling by a 3x3, 1x1, 3x3 network. The
peers have the two in two layers, and no prior of what leaves a level given what goes on, so that ours has some
parameters more, one 3x3 convolution per level but the last; half the entries of normflows' L and U take no part. nflows
has the parts of Glow, which are put together here; a multi-scale RealNVP is put together from normflows' checkerboard
and channel couplings, with the networks of ours. Its checkerboards push the pixels that condition together into images
of half the width, so that its convolutions do half the work of the paper's, which see every pixel in its place.

Continuous flows. All solve

.. math::
    \frac{d}{dt} (x, \ell) = \Bigl(f(x, t), \mathrm{tr}\, \frac{\partial f}{\partial x}\Bigr)

by Dormand and Prince's method with the same tolerances and the same field: the weights of ours, drawn at random, are
copied, and those of the time are zero, since zuko sees it as a sine and a cosine. By hand means torchdiffeq and a trace
by batched backward passes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import nflows.distributions
import nflows.flows
import nflows.transforms
import normflows
import torch
import torchdiffeq
import zuko
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_dgm.models import FFJORD, Glow, MultiscaleRealNVP
from pyro_dgm.nn import ConvNet

from .flows_contestants import EAGER, Contestant, OfVectors, of_distribution

TOLERANCE = 1e-5


@dataclass(frozen=True)
class ImageForm:
    """The shape of a flow on images.

    Attributes:
        family: Its family, ``"Glow"`` or ``"multi-scale RealNVP"``.
        event_shape: Shape (C, H, W) of an image.
        hidden: Hidden channels.
        transforms: Steps per level, or couplings by each kind of mask.
        levels: Number of levels.
    """

    family: str
    event_shape: tuple[int, int, int]
    hidden: int
    transforms: int
    levels: int

    @property
    def label(self) -> str:
        """Its name."""
        return f"{self.family}, {'x'.join(map(str, self.event_shape))}, hidden {self.hidden}"

    def contestants(self) -> dict[str, Contestant]:
        """Ours, eager, and the peers."""
        if self.family == "Glow":
            return {EAGER: our_glow(self), "nflows": glow_of_nflows(self), "normflows": glow_of_normflows(self)}
        return {EAGER: our_realnvp(self), "normflows": realnvp_of_normflows(self)}

    def floor(self, x: Tensor, training: bool) -> Callable[[], object]:
        """The convolutions of our conditioners alone."""
        contestant = self.contestants()[EAGER]
        return convolutions(contestant, x, training)

    def shape(self, level: int) -> tuple[int, int, int]:
        """Shape of the images that enter a level, 0 for the finest."""
        c, h, w = self.event_shape
        return 2**level * c, h >> level, w >> level


def convolutions(contestant: Contestant, x: Tensor, training: bool) -> Callable[[], object]:
    """The convolutions that a log-density takes, each on an input like its own, forwards or forwards and backwards."""
    seen: list[tuple[nn.Module, Tensor]] = []
    layers = [m for m in contestant.module.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_pre_hook(lambda m, inputs: seen.append((m, inputs[0].detach()))) for m in layers]
    contestant.log_prob(x)
    for hook in hooks:
        hook.remove()
    pairs = [(m, value.requires_grad_(training)) for m, value in seen]

    def forward() -> list[Tensor]:
        return [m(value) for m, value in pairs]

    def both() -> object:
        outputs = forward()
        inputs = [t for m, value in pairs for t in (value, m.weight, m.bias)]
        return torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs])

    return both if training else torch.no_grad()(forward)


def our_glow(form: ImageForm) -> Contestant:
    """Glow of this package."""
    shape = {"levels": form.levels, "transforms": form.transforms, "hidden_channels": form.hidden}
    return of_distribution(ready(Glow(form.event_shape, **shape), form))


def our_realnvp(form: ImageForm) -> Contestant:
    """Multi-scale RealNVP of this package."""
    shape = {"levels": form.levels, "transforms": form.transforms, "hidden_channels": form.hidden, "blocks": 1}
    return of_distribution(ready(MultiscaleRealNVP(form.event_shape, **shape), form))


def ready(flow: nn.Module, form: ImageForm) -> nn.Module:
    """Returns a flow whose activation normalisations have seen data, as those of the peers have."""
    flow.initialize(torch.randn(8, *form.event_shape))
    return flow


def scored(contestant: Contestant, form: ImageForm) -> Contestant:
    """Returns a contestant whose activation normalisations, which go by the first batch, have seen one."""
    with torch.no_grad():
        contestant.log_prob(torch.randn(8, *form.event_shape))
    return contestant


def glow_of_normflows(form: ImageForm) -> Contestant:
    """Glow of normflows."""
    f, levels = normflows.flows, []
    for level in reversed(range(form.levels)):
        channels = 4 * form.shape(level)[0]
        levels.append([*(f.GlowBlock(channels, form.hidden) for _ in range(form.transforms)), f.Squeeze()])
    return multiscale_of_normflows(form, levels, squeezed=True)


def multiscale_of_normflows(form: ImageForm, levels: list[list[nn.Module]], squeezed: bool) -> Contestant:
    """Levels of normflows, coarsest first, on bases with a mean and a deviation per channel.

    Args:
        form: The shape of the flow.
        levels: The layers of every level.
        squeezed: Whether the coarsest level squeezes too.
    """
    bases = []
    for level in reversed(range(form.levels)):
        c, h, w = form.shape(level)
        last = level + 1 == form.levels
        shape = (c, h, w) if last and not squeezed else (4 * c if last else 2 * c, h // 2, w // 2)
        bases.append(normflows.distributions.GlowBase(shape))
    merges = [normflows.flows.Merge() for _ in levels[1:]]
    flow = normflows.MultiscaleFlow(bases, levels, merges, class_cond=False)
    contestant = Contestant(flow, lambda x: flow.log_prob(x, None), lambda n: flow.sample(n)[0], flow.sample)
    return scored(contestant, form)


def realnvp_of_normflows(form: ImageForm) -> Contestant:
    """Multi-scale RealNVP from the parts of normflows, with the residual networks of ours."""
    f, levels = normflows.flows, []

    def couplings(c_in: int, c_out: int, actnorm: int, mode: str, count: int) -> list[nn.Module]:
        modes = [mode if k % 2 == 0 else f"{mode}_inv" for k in range(count)]
        return [
            layer
            for m in modes
            for layer in (
                f.ActNorm((actnorm, 1, 1)),
                f.AffineCouplingBlock(ConvNet(c_in, 2 * c_out, form.hidden, 1), split_mode=m),
            )
        ]

    for level in reversed(range(form.levels)):
        c, last = form.shape(level)[0], level + 1 == form.levels
        boards = couplings(c, c, c, "checkerboard", form.transforms + last)
        halves = [] if last else [*couplings(2 * c, 2 * c, 4 * c, "channel", form.transforms), f.Squeeze()]
        levels.append([*halves, *boards])
    return multiscale_of_normflows(form, levels, squeezed=False)


class GlowNetwork(nn.Sequential):
    """Glow's network, called with a context by nflows."""

    def __init__(self, n: int, m: int, hidden: int) -> None:
        super().__init__(
            nn.Conv2d(n, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(),
            nn.Conv2d(hidden, m, 3, padding=1),
        )  # fmt: skip
        nn.init.zeros_(self[-1].weight)
        nn.init.zeros_(self[-1].bias)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Maps images to numbers per pixel."""
        return super().forward(x)


def glow_of_nflows(form: ImageForm) -> Contestant:
    """Glow from the parts of nflows."""
    t = nflows.transforms
    cascade = t.MultiscaleCompositeTransform(form.levels)
    for level in range(form.levels):
        c, h, w = form.shape(level)
        c, h, w = 4 * c, h // 2, w // 2
        steps = [t.SqueezeTransform()]
        for _ in range(form.transforms):
            network = lambda n, m: GlowNetwork(n, m, form.hidden)  # noqa: E731
            coupling = t.AffineCouplingTransform(torch.arange(c) >= c // 2, network)
            steps += [t.ActNorm(c), t.OneByOneConvolution(c), coupling]
        cascade.add_transform(t.CompositeTransform(steps), (c, h, w))
    pixels = torch.Size(form.event_shape).numel()
    flow = nflows.flows.Flow(cascade, nflows.distributions.StandardNormal([pixels]))
    return scored(Contestant(flow, flow.log_prob, flow.sample, flow.sample_and_log_prob), form)


@dataclass(frozen=True)
class ContinuousForm(OfVectors):
    """The shape of a continuous flow.

    Attributes:
        features: Number of features D.
        hidden: Width of each of the two hidden layers of its field.
    """

    features: int
    hidden: int
    family = "FFJORD"

    def contestants(self) -> dict[str, Contestant]:
        """Ours, eager, and the peers, with one and the same field."""
        flow = FFJORD(
            self.features, hidden_features=(self.hidden,) * 2, standardize=False, rtol=TOLERANCE, atol=TOLERANCE
        )
        network = flow.transform.transforms[0].field.network
        nn.init.normal_(network.layers[-1].weight, std=2 / self.hidden**0.5)
        nn.init.zeros_(network.context.weight)
        weights = [p.detach().clone() for layer in network.layers for p in (layer.weight, layer.bias)]
        return {EAGER: of_distribution(flow), "zuko": cnf_of_zuko(self, weights), "by hand": by_hand(self, weights)}

    def floor(self, x: Tensor, training: bool) -> None:
        """There is none: how often a field is evaluated is up to the solver."""


def cnf_of_zuko(form: ContinuousForm, weights: list[Tensor]) -> Contestant:
    """Zuko's continuous flow; its transform runs data to latent, so the field is turned round."""
    flow = zuko.flows.CNF(
        form.features, hidden_features=(form.hidden,) * 2, activation=nn.Tanh, freqs=1, exact=True, atol=TOLERANCE,
        rtol=TOLERANCE,
    )  # fmt: skip
    layers = [m for m in flow.modules() if isinstance(m, zuko.nn.Linear)]
    with torch.no_grad():
        first = torch.cat([weights[0].new_zeros(form.hidden, 2), weights[0]], -1)
        for layer, (weight, bias) in zip(layers, [(first, weights[1]), weights[2:4], weights[4:]], strict=True):
            layer.weight.copy_(weight if layer is not layers[-1] else -weight)
            layer.bias.copy_(bias if layer is not layers[-1] else -bias)
    flow.train()
    return of_distribution(flow)


class Field(nn.Module):
    """A field by hand."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(w.clone() for w in (*weights, torch.zeros_like(weights[1])))
        self.calls = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Returns f(x, t)."""
        w1, b1, w2, b2, w3, b3, time = self.weights
        return F.linear(torch.tanh(F.linear(torch.tanh(F.linear(x, w1, b1) + time * t), w2, b2)), w3, b3)

    def with_trace(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns f(x, t) and its divergence, by as many backward passes in a batch as there are features."""
        self.calls += 1
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            x = state[0] if state[0].requires_grad else state[0].detach().requires_grad_()
            f = self(t, x)
        basis = torch.eye(x.shape[-1], device=x.device).unsqueeze(1).expand(-1, len(x), -1)
        rows = torch.autograd.grad(f, x, basis, create_graph=learning, is_grads_batched=True)[0]
        return f, rows.diagonal(dim1=0, dim2=-1).sum(-1)


def by_hand(form: ContinuousForm, weights: list[Tensor]) -> Contestant:
    """A continuous flow of torchdiffeq."""
    field = Field(weights)
    settings = {"method": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}

    def log_normal(z: Tensor) -> Tensor:
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    def log_prob(x: Tensor) -> Tensor:
        times = torch.tensor([1.0, 0.0], device=x.device)
        z, ladj = torchdiffeq.odeint(field.with_trace, (x, x.new_zeros(len(x))), times, **settings)
        return log_normal(z[-1]) + ladj[-1]

    def sample(n: int) -> Tensor:
        z = torch.randn(n, form.features, device=field.weights[0].device)
        return torchdiffeq.odeint(field, z, torch.tensor([0.0, 1.0], device=z.device), **settings)[-1]

    def sample_and_log_prob(n: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(n, form.features, device=field.weights[0].device)
        times = torch.tensor([0.0, 1.0], device=z.device)
        x, ladj = torchdiffeq.odeint(field.with_trace, (z, z.new_zeros(n)), times, **settings)
        return x[-1], log_normal(z) - ladj[-1]

    return Contestant(field, log_prob, sample, sample_and_log_prob)
