"""Generative models, the taxonomy as a tree: ``tractable``, ``approximate``, ``implicit``.

Every model is a module that, called with a context, returns a Pyro distribution; ``base`` says what they share.
"""

from .approximate import VAE, Dequantized
from .base import ApproximateModel, GenerativeModel, ImplicitModel, TractableModel
from .implicit import GAN
from .parametric import DiagonalNormal, IndependentBernoulli, StandardNormal
from .tractable.flows import FFJORD, IAF, MAF, NICE, NSF, Glow, MultiscaleRealNVP, NormalizingFlow, RealNVP

__all__ = [
    "FFJORD",
    "GAN",
    "IAF",
    "MAF",
    "NICE",
    "NSF",
    "VAE",
    "ApproximateModel",
    "Dequantized",
    "DiagonalNormal",
    "GenerativeModel",
    "Glow",
    "ImplicitModel",
    "IndependentBernoulli",
    "MultiscaleRealNVP",
    "NormalizingFlow",
    "RealNVP",
    "StandardNormal",
    "TractableModel",
]
