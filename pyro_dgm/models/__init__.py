"""Generative models, the taxonomy as a tree: ``tractable``, ``approximate``, ``implicit``.

Every model is a module that, called with a context, returns a Pyro distribution; ``base`` says what they share.
"""

from .approximate import VAE
from .base import ApproximateModel, GenerativeModel, ImplicitModel, TractableModel
from .implicit import GAN
from .parametric import DiagonalNormal, IndependentBernoulli, StandardNormal
from .tractable.flows import BNAF, IAF, MAF, NAF, NICE, NSF, SOSPF, GaussianizationFlow, NormalizingFlow, RealNVP

__all__ = [
    "BNAF",
    "GAN",
    "IAF",
    "MAF",
    "NAF",
    "NICE",
    "NSF",
    "SOSPF",
    "VAE",
    "ApproximateModel",
    "DiagonalNormal",
    "GaussianizationFlow",
    "GenerativeModel",
    "ImplicitModel",
    "IndependentBernoulli",
    "NormalizingFlow",
    "RealNVP",
    "StandardNormal",
    "TractableModel",
]
