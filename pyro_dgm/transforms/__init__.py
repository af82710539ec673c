r"""Bijections: value and log-determinant in one pass.

:class:`Transform` is the contract. The transforms of this package take a context through the same class that has
none, remember nothing between calls, and stack with those of ``pyro.distributions.transforms`` in a
:class:`Compose`. What one feature undergoes (:class:`Shift`, :class:`Affine`, :class:`Spline`) is apart from
which features decide about it (:class:`Coupling`, :class:`MaskedAutoregressive`). :class:`Continuous` follows a
velocity field instead.
"""

from .autoregressive import MaskedAutoregressive
from .base import Conditioned, Inverse, Transform
from .compose import Compose, Foreign, as_transform
from .continuous import Continuous
from .coupling import Coupling
from .image import ImageCoupling, InvertibleConvolution, Squeeze, checkerboard, first_half
from .linear import ActNorm, LULinear, Permutation, Standardize
from .multiscale import MultiScale
from .support import Logit, Support, with_support
from .univariate import Affine, Shift, Spline, Univariate

__all__ = [
    "ActNorm",
    "Affine",
    "Compose",
    "Conditioned",
    "Continuous",
    "Coupling",
    "Foreign",
    "ImageCoupling",
    "Inverse",
    "InvertibleConvolution",
    "LULinear",
    "Logit",
    "MaskedAutoregressive",
    "MultiScale",
    "Permutation",
    "Shift",
    "Spline",
    "Squeeze",
    "Standardize",
    "Support",
    "Transform",
    "Univariate",
    "as_transform",
    "checkerboard",
    "first_half",
    "with_support",
]
