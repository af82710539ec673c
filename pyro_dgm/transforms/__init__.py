r"""Bijections: value and log-determinant in one pass.

:class:`Transform` is the contract. The transforms of this package take a context through the same class that has
none, remember nothing between calls, and stack with those of ``pyro.distributions.transforms`` in a
:class:`Compose`. What one feature undergoes (:class:`Shift`, :class:`Affine`, :class:`Spline`, :class:`DeepSigmoidal`,
:class:`SumOfSquares`, :class:`GaussianMixtureCDF`) is apart from which features decide about it
(:class:`ElementWise`, :class:`Coupling`, :class:`MaskedAutoregressive`). :class:`Continuous` follows a velocity field
instead.
"""

from .autoregressive import MaskedAutoregressive
from .base import Conditioned, Inverse, Transform
from .block import BlockAutoregressive
from .circular import Harmonics, Wrap
from .compose import Compose, Foreign, as_transform
from .continuous import Continuous
from .coupling import Coupling, alternating, random_masks
from .elementwise import ElementWise, Householder
from .image import ImageCoupling, InvertibleConvolution, Squeeze, checkerboard, first_half
from .inversion import invert
from .linear import ActNorm, LULinear, Permutation, Standardize
from .monotone import DeepSigmoidal, GaussianMixtureCDF, SumOfSquares
from .multiscale import MultiScale
from .planar import Planar, Radial, Sylvester
from .spline import CircularSpline, Spline
from .support import Logit, Support, with_support
from .univariate import Affine, Chain, Shift, Univariate

__all__ = [
    "ActNorm",
    "Affine",
    "BlockAutoregressive",
    "Chain",
    "CircularSpline",
    "Compose",
    "Conditioned",
    "Continuous",
    "Coupling",
    "DeepSigmoidal",
    "ElementWise",
    "Foreign",
    "GaussianMixtureCDF",
    "Harmonics",
    "Householder",
    "ImageCoupling",
    "Inverse",
    "InvertibleConvolution",
    "LULinear",
    "Logit",
    "MaskedAutoregressive",
    "MultiScale",
    "Permutation",
    "Planar",
    "Radial",
    "Shift",
    "Spline",
    "Squeeze",
    "Standardize",
    "SumOfSquares",
    "Support",
    "Sylvester",
    "Transform",
    "Univariate",
    "Wrap",
    "alternating",
    "as_transform",
    "checkerboard",
    "first_half",
    "invert",
    "random_masks",
    "with_support",
]
