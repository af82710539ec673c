"""Normalizing flows: exact densities by invertible maps.

Choose by the direction that must be cheap: :class:`RealNVP` and coupling :class:`NSF` both, :class:`MAF` and
autoregressive :class:`NSF` the density, :class:`IAF` sampling; :class:`NAF`, :class:`SOSPF` and :class:`BNAF` either,
the other by a numerical inverse. :class:`NormalizingFlow` takes layers of your own.
"""

from .affine import IAF, MAF, NICE, RealNVP
from .base import FlowModel, NormalizingFlow
from .monotone import BNAF, NAF, SOSPF, GaussianizationFlow
from .spline import NSF

__all__ = [
    "BNAF",
    "IAF",
    "MAF",
    "NAF",
    "NICE",
    "NSF",
    "SOSPF",
    "FlowModel",
    "GaussianizationFlow",
    "NormalizingFlow",
    "RealNVP",
]
