"""Generative models, the taxonomy as a tree: ``tractable``, ``approximate``, ``implicit``.

Every model is a module that, called with a context, returns a Pyro distribution; ``base`` says what they share.
"""

from .approximate import VAE
from .base import ApproximateModel, GenerativeModel, ImplicitModel, TractableModel
from .implicit import GAN
from .mixture import Mixture
from .parametric import DiagonalNormal, IndependentBernoulli, StandardNormal
from .tractable.flows import IAF, MAF, NICE, NSF, NormalizingFlow, RealNVP

__all__ = [
    "GAN",
    "IAF",
    "MAF",
    "NICE",
    "NSF",
    "VAE",
    "ApproximateModel",
    "DiagonalNormal",
    "GenerativeModel",
    "ImplicitModel",
    "IndependentBernoulli",
    "Mixture",
    "NormalizingFlow",
    "RealNVP",
    "StandardNormal",
    "TractableModel",
]
