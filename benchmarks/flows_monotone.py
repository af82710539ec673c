r"""The contestants of ``benchmarks.flows`` whose layers have a numerical inverse, or are Gaussianizations.

.. math::
    z_i = g(x_i; \theta_i(x_{<i})) \quad\text{(NAF, SOSPF)}, \qquad z = g(x) \quad\text{(BNAF)}, \qquad
    z = R\, \Phi^{-1}(F(x)) \quad\text{(Gaussianization)}

They score data in one pass; only that, and training, is compared. NAF is the paper's deep sigmoidal flow of 8 units, of
which Pyro has the same; zuko's, a monotonic network with a signal of 8 numbers and one hidden layer of 8 units, is
another function of about as many conditioner's outputs. Zuko's rotations are matrix exponentials, ours reflections.
"""

from dataclasses import dataclass

import torch
import zuko
from pyro import distributions as dist
from pyro.distributions import transforms as pyro_transforms
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

from pyro_dgm import models

from .flows_contestants import EAGER, Contestant, OfVectors, of_distribution

UNITS = 8


@dataclass(frozen=True)
class MonotoneForm(OfVectors):
    """The shape of such a flow.

    Attributes:
        family: The name of its class in :mod:`pyro_dgm.models`.
        features: Number of features D.
        hidden: Width of each of the two hidden layers of its conditioners, if it has them.
        transforms: Number of layers.
    """

    family: str
    features: int
    hidden: int
    transforms: int

    def contestants(self) -> dict[str, Contestant]:
        """Ours, eager, and the peers."""
        return {EAGER: ours(self), **PEERS[self.family](self)}

    def floor(self, x: Tensor, training: bool) -> None:
        """There is none: products of small matrices are not what these cost."""


def ours(form: MonotoneForm) -> Contestant:
    """The flow of this package."""
    hidden = {"hidden_features": (form.hidden,) * 2} if form.family in ("NAF", "SOSPF") else {}
    units = {"NAF": {"units": UNITS}, "BNAF": {"hidden_factors": (UNITS, UNITS)}}.get(form.family, {})
    make = getattr(models, form.family)
    return of_distribution(make(form.features, transforms=form.transforms, standardize=False, **hidden, **units))


def of_zuko(flow: nn.Module) -> dict[str, Contestant]:
    """A flow of zuko."""
    return {"zuko": of_distribution(flow)}


def of_pyro(form: MonotoneForm, layers: list[nn.Module]) -> dict[str, Contestant]:
    """Transforms of Pyro, data to latent; data come as a new view, since caches go by identity."""
    module, transforms = nn.ModuleList(layers), [t.inv for t in reversed(layers)]
    module.register_buffer("loc", torch.zeros(form.features))

    def log_prob(x: Tensor) -> Tensor:
        base = dist.Normal(module.loc, torch.ones_like(module.loc)).to_event(1)
        return dist.TransformedDistribution(base, transforms).log_prob(x.view_as(x))

    def no(n: int) -> Tensor:
        raise NotImplementedError("Pyro has no inverse of these")

    return {"pyro": Contestant(module, log_prob, no, no)}


def naf(form: MonotoneForm) -> dict[str, Contestant]:
    """Neural autoregressive flows."""
    d, hidden = form.features, (form.hidden,) * 2
    network = {"hidden_features": (UNITS,)}
    flow = zuko.flows.NAF(d, transforms=form.transforms, signal=UNITS, network=network, hidden_features=hidden)
    orders = [torch.arange(d) if k % 2 == 0 else torch.arange(d).flip(0) for k in range(form.transforms)]
    networks = [AutoRegressiveNN(d, list(hidden), param_dims=[UNITS] * 3, permutation=order) for order in orders]
    layers = [pyro_transforms.NeuralAutoregressive(n, hidden_units=UNITS) for n in networks]
    return {**of_zuko(flow), **of_pyro(form, layers)}


def bnaf(form: MonotoneForm) -> dict[str, Contestant]:
    """Block neural autoregressive flows."""
    layers: list[nn.Module] = []
    for k in range(form.transforms):
        residual = "gated" if k + 1 < form.transforms else None
        layers.append(
            pyro_transforms.BlockAutoregressive(form.features, hidden_factors=[UNITS, UNITS], residual=residual)
        )
    return of_pyro(form, layers)


PEERS = {
    "NAF": naf,
    "BNAF": bnaf,
    "SOSPF": lambda form: of_zuko(
        zuko.flows.SOSPF(form.features, transforms=form.transforms, hidden_features=(form.hidden,) * 2)
    ),
    "GaussianizationFlow": lambda form: of_zuko(zuko.flows.GF(form.features, transforms=form.transforms)),
}
FORMS = [
    MonotoneForm(family, 16, 64, transforms)
    for family, transforms in (("NAF", 3), ("BNAF", 2), ("SOSPF", 3), ("GaussianizationFlow", 5))
    if hasattr(models, family)
]
