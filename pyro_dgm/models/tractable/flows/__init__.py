"""Normalizing flows: exact densities by invertible maps.

Choose by the direction that must be cheap: :class:`RealNVP` and coupling :class:`NSF` both, :class:`MAF` and
autoregressive :class:`NSF` the density, :class:`IAF` sampling; :class:`NAF`, :class:`SOSPF` and :class:`BNAF` either,
the other by a numerical inverse; :class:`FFJORD` makes neither cheap and needs no masks. :class:`NormalizingFlow`
takes layers of your own. :class:`NCSF` is for angles. :class:`MultiscaleRealNVP` and :class:`Glow` are for images.
"""

from .affine import IAF, MAF, NICE, RealNVP
from .base import FlowModel, NormalizingFlow
from .circular import NCSF
from .continuous import FFJORD
from .image import Glow, MultiscaleRealNVP
from .monotone import BNAF, NAF, SOSPF, GaussianizationFlow
from .spline import NSF

__all__ = [
    "BNAF",
    "FFJORD",
    "IAF",
    "MAF",
    "NAF",
    "NCSF",
    "NICE",
    "NSF",
    "SOSPF",
    "FlowModel",
    "GaussianizationFlow",
    "Glow",
    "MultiscaleRealNVP",
    "NormalizingFlow",
    "RealNVP",
]
