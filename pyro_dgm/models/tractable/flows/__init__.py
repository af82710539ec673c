"""Normalizing flows: exact densities by invertible maps.

Choose by the direction that must be cheap: :class:`RealNVP` and coupling :class:`NSF` both, :class:`MAF` and
autoregressive :class:`NSF` the density, :class:`IAF` sampling; :class:`FFJORD` makes neither cheap and needs no masks.
:class:`NormalizingFlow` takes layers of your own. :class:`MultiscaleRealNVP` and :class:`Glow` are for images.
"""

from .affine import IAF, MAF, NICE, RealNVP
from .base import FlowModel, NormalizingFlow
from .continuous import FFJORD
from .image import Glow, MultiscaleRealNVP
from .spline import NSF

__all__ = [
    "FFJORD",
    "IAF",
    "MAF",
    "NICE",
    "NSF",
    "FlowModel",
    "Glow",
    "MultiscaleRealNVP",
    "NormalizingFlow",
    "RealNVP",
]
