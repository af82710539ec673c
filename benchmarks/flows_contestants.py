r"""What ``benchmarks.flows`` compares: one and the same flow in this package, zuko, nflows, normflows and Pyro.

.. math::
    \log p(x) = \log N(z; 0, I) + \log|\det \partial z / \partial x|, \qquad z = (T_5 \circ \dots \circ T_1)^{-1}(x)

Every contestant has as many transforms, the same conditioners (two hidden layers, ReLU) and the same bins and interval
of its splines. Couplings take every other feature in turn, or, where a library only cuts in halves (normflows' affine
coupling, Pyro), halves that change places; autoregressive layers go through the features forwards and backwards in
turn. Spline couplings bend the conditioning half too, by splines of their own, which all of them offer; zuko does that
by a masked network of all features (``passes=2``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import nflows.distributions
import nflows.flows
import nflows.transforms
import normflows
import torch
import zuko
from normflows.flows import neural_spline
from pyro import distributions as dist
from pyro.distributions import transforms as pyro_transforms
from pyro.nn import AutoRegressiveNN, DenseNN
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_dgm.models import IAF, MAF, NICE, NSF, RealNVP

from .flows_floor import Products

Family = Literal["NICE", "RealNVP", "MAF", "IAF", "NSF coupling", "NSF autoregressive"]
TRANSFORMS, BINS = 5, 8
EAGER, COMPILED = "eager", "compiled"


class OfVectors:
    """What the shapes of all flows of vectors have: a name, and the shape of one datum."""

    family: str
    features: int
    hidden: int

    @property
    def label(self) -> str:
        """Its name."""
        return f"{self.family}, D {self.features}, hidden {self.hidden}"

    @property
    def event_shape(self) -> tuple[int]:
        """Shape of one datum."""
        return (self.features,)


@dataclass(frozen=True)
class Form(OfVectors):
    """The shape of a flow.

    Attributes:
        family: Its family.
        features: Number of features D.
        hidden: Width of each of the two hidden layers.
        bound: Half-width of the interval of splines.
    """

    family: Family
    features: int
    hidden: int
    bound: float = 5.0

    @property
    def autoregressive(self) -> bool:
        """Whether layers are autoregressive, so that one direction takes D passes."""
        return self.family in ("MAF", "IAF", "NSF autoregressive")

    @property
    def size(self) -> int:
        """Parameters per transformed feature."""
        return 3 * BINS - 1 if self.family.startswith("NSF") else 1 if self.family == "NICE" else 2

    @property
    def widths(self) -> list[int]:
        """Widths of a conditioner, input to output."""
        seen = self.features if self.autoregressive else self.features // 2
        given = self.features if self.autoregressive else self.features - seen
        return [seen, self.hidden, self.hidden, given * self.size]

    def contestants(self) -> dict[str, "Contestant"]:
        """Ours, eager, and the peers that have such a flow."""
        made = {name: make(self) for name, make in MAKERS.items()}
        return {name: contestant for name, contestant in made.items() if contestant is not None}

    def floor(self, x: Tensor, training: bool) -> Callable[[], object]:
        """The matrix products of the conditioners alone."""
        products, seen = Products(self.widths, TRANSFORMS).to(x.device), x[:, : self.widths[0]]
        return (lambda: products.backward(seen)) if training else torch.no_grad()(lambda: products(seen))


@dataclass(frozen=True)
class Contestant:
    """A flow and what it can do, with ``torch.distributions`` not validating.

    Attributes:
        module: Owns the parameters.
        log_prob: Maps data to log-densities.
        sample: Draws so many samples.
        sample_and_log_prob: Draws so many samples, with their log-densities.
    """

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]
    sample_and_log_prob: Callable[[int], tuple[Tensor, Tensor]]


def of_distribution(flow: nn.Module) -> Contestant:
    """A flow of this package or of zuko, whose call gives a distribution."""
    return Contestant(
        flow,
        lambda x: flow().log_prob(x),
        lambda n: flow().sample((n,)),
        lambda n: flow().rsample_and_log_prob((n,)),
    )


def ours(form: Form) -> Contestant:
    """The flow of this package, without what the others lack: standardisation, affine maps before splines."""
    shape = {"transforms": TRANSFORMS, "hidden_features": (form.hidden,) * 2, "standardize": False}
    shape["activation"] = nn.ReLU
    if form.family.startswith("NSF"):
        spline = {"autoregressive": form.autoregressive, "bins": BINS, "bound": form.bound, "affine": False}
        flow = NSF(form.features, **spline, **shape)
    else:
        flow = {"NICE": NICE, "RealNVP": RealNVP, "MAF": MAF, "IAF": IAF}[form.family](form.features, **shape)
    return of_distribution(flow)


def of_zuko(form: Form) -> Contestant | None:
    """Zuko's; its spline couplings are autoregressive layers of two passes."""
    shape = {"transforms": TRANSFORMS, "hidden_features": (form.hidden,) * 2}
    passes = None if form.autoregressive else 2
    match form.family:
        case "RealNVP":
            flow = zuko.flows.RealNVP(form.features, **shape)
        case "MAF":
            flow = zuko.flows.MAF(form.features, **shape)
        case "NSF coupling" | "NSF autoregressive":
            # what zuko.flows.NSF makes, which has no argument for the interval
            spline = partial(zuko.transforms.MonotonicRQSTransform, bound=form.bound)
            numbers = {"univariate": spline, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
            flow = zuko.flows.MAF(form.features, passes=passes, **numbers, **shape)
        case "NICE":
            additive = {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]}
            flow = zuko.flows.NICE(form.features, **additive, **shape)
        case _:
            flow = zuko.flows.MAF(form.features, **shape)
            flow.transform = zuko.lazy.LazyInverse(flow.transform)
    return of_distribution(flow)


class Conditioner(nn.Module):
    """A network for the couplings of nflows and normflows, which call it with a context."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
        self.hidden_features = widths[1]

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Maps the conditioning features to parameters."""
        first, *others = self.layers
        x = first(x)
        for layer in others:
            x = layer(F.relu(x))
        return x


def _coupling_network(form: Form) -> Callable[[int, int], nn.Module]:
    return lambda n, m: Conditioner([n, form.hidden, form.hidden, m])


def _mask(form: Form, layer: int) -> Tensor:
    return (torch.arange(form.features) + layer) % 2


def _masked(kind: Callable[..., nn.Module], form: Form, **settings: Any) -> nn.Module:
    """A layer of nflows or normflows, with the activation that their masked networks lack behind the first layer."""
    shape = {"features": form.features, "hidden_features": form.hidden, "num_blocks": 1}
    layer = kind(**shape, use_residual_blocks=False, **settings)
    network = layer.autoregressive_net
    network.initial_layer = nn.Sequential(network.initial_layer, nn.ReLU())
    return layer


def _spline(form: Form) -> dict[str, Any]:
    return {"num_bins": BINS, "tails": "linear", "tail_bound": form.bound}


def of_nflows(form: Form) -> Contestant:
    """The flow of nflows, whose transforms run data to latent."""
    t, layers = nflows.transforms, []
    for k in range(TRANSFORMS):
        coupling = {"mask": _mask(form, k), "transform_net_create_fn": _coupling_network(form)}
        if form.autoregressive and k:
            layers.append(t.ReversePermutation(form.features))
        match form.family:
            case "RealNVP":
                layers.append(t.AffineCouplingTransform(**coupling))
            case "NICE":
                layers.append(t.AdditiveCouplingTransform(**coupling))
            case "MAF":
                layers.append(_masked(t.MaskedAffineAutoregressiveTransform, form))
            case "IAF":
                layers.append(t.InverseTransform(_masked(t.MaskedAffineAutoregressiveTransform, form)))
            case "NSF coupling":
                rqs = t.PiecewiseRationalQuadraticCouplingTransform
                layers.append(rqs(**coupling, apply_unconditional_transform=True, **_spline(form)))
            case _:
                rqs = t.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
                layers.append(_masked(rqs, form, **_spline(form)))
    base = nflows.distributions.StandardNormal([form.features])
    flow = nflows.flows.Flow(t.CompositeTransform(layers), base)
    return Contestant(flow, flow.log_prob, flow.sample, flow.sample_and_log_prob)


class Reversed(normflows.flows.Flow):
    """Turns a transform of normflows that runs data to latent, as its wrappers of spline layers do."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to data."""
        x, ladj = self.transform.inverse(z)
        return x, ladj.view(-1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latent."""
        z, ladj = self.transform(x)
        return z, ladj.view(-1)


class Backwards(normflows.flows.Flow):
    """Reverses the order of the features; normflows' own permutations are random or swap halves."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Reverses."""
        return z.flip(-1), z.new_zeros(len(z))

    inverse = forward


def of_normflows(form: Form) -> Contestant:
    """The flow of normflows."""
    f, layers = normflows.flows, []
    for k in range(TRANSFORMS):
        if form.autoregressive and k:
            layers.append(Backwards())
        match form.family:
            case "RealNVP" | "NICE":
                layers.append(f.AffineCouplingBlock(normflows.nets.MLP(form.widths), scale=form.family == "RealNVP"))
                layers.append(f.Permute(form.features, mode="swap"))
            case "MAF":
                layers.append(Reversed(_masked(f.MaskedAffineAutoregressive, form)))
            case "IAF":
                layers.append(_masked(f.MaskedAffineAutoregressive, form))
            case "NSF coupling":
                coupling = {"mask": _mask(form, k), "transform_net_create_fn": _coupling_network(form)}
                rqs = neural_spline.coupling.PiecewiseRationalQuadraticCoupling
                layers.append(Reversed(rqs(**coupling, apply_unconditional_transform=True, **_spline(form))))
            case _:
                rqs = neural_spline.autoregressive.MaskedPiecewiseRationalQuadraticAutoregressive
                layers.append(Reversed(_masked(rqs, form, **_spline(form))))
    base = normflows.distributions.DiagGaussian(form.features, trainable=False)
    flow = normflows.NormalizingFlow(base, layers)
    return Contestant(flow, flow.log_prob, lambda n: flow.sample(n)[0], flow.sample)


def of_pyro(form: Form) -> Contestant | None:
    """Pyro's transforms; its caches go by identity, so data come as a new view and only own samples meet them."""
    d, half, hidden, layers = form.features, form.features // 2, [form.hidden] * 2, []
    per_feature = [BINS, BINS, BINS - 1]
    if form.family == "NICE":
        return None
    swap = torch.cat([torch.arange(half, d), torch.arange(half)])
    for k in range(TRANSFORMS):
        order = torch.arange(d) if k % 2 == 0 else torch.arange(d).flip(0)
        match form.family:
            case "RealNVP":
                layers.append(pyro_transforms.AffineCoupling(half, DenseNN(half, hidden, [d - half] * 2)))
                layers.append(pyro_transforms.Permute(swap))
            case "MAF" | "IAF":
                layers.append(pyro_transforms.AffineAutoregressive(AutoRegressiveNN(d, hidden, permutation=order)))
            case "NSF coupling":
                network = DenseNN(half, hidden, [(d - half) * n for n in per_feature])
                spline = {"count_bins": BINS, "bound": form.bound, "order": "quadratic"}
                layers.append(pyro_transforms.SplineCoupling(d, half, network, **spline))
                for parameter in layers[-1].lower_spline.parameters():  # a random start makes densities too steep
                    nn.init.zeros_(parameter)  # for float32
                layers.append(pyro_transforms.Permute(swap))
            case _:
                network = AutoRegressiveNN(d, hidden, param_dims=per_feature, permutation=order)
                spline = {"count_bins": BINS, "bound": form.bound, "order": "quadratic"}
                layers.append(pyro_transforms.SplineAutoregressive(d, network, **spline))
    module = nn.ModuleList(t for t in layers if isinstance(t, nn.Module))
    turned = form.autoregressive and form.family != "IAF"
    transforms = [t.inv for t in reversed(layers)] if turned else layers
    loc = nn.Buffer(torch.zeros(d))
    module.register_buffer("loc", loc)

    def flow() -> dist.TransformedDistribution:
        base = dist.Normal(module.loc, torch.ones_like(module.loc)).to_event(1)
        return dist.TransformedDistribution(base, transforms)

    def sample_and_log_prob(n: int) -> tuple[Tensor, Tensor]:
        p = flow()
        x = p.rsample((n,))
        return x, p.log_prob(x)

    return Contestant(
        module, lambda x: flow().log_prob(x.view_as(x)), lambda n: flow().sample((n,)), sample_and_log_prob
    )


MAKERS = {EAGER: ours, "zuko": of_zuko, "nflows": of_nflows, "normflows": of_normflows, "pyro": of_pyro}


def parameters(module: nn.Module) -> int:
    """Counts the parameters that take part: weights behind a mask do not."""
    masked = sum(int((m.mask == 0).sum()) for m in module.modules() if isinstance(m, nn.Linear) and hasattr(m, "mask"))
    return sum(p.numel() for p in module.parameters()) - masked
