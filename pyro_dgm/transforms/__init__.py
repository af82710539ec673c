r"""Bijections: value and log-determinant in one pass.

:class:`Transform` is the contract. The transforms of this package take a context through the same class that has
none, remember nothing between calls, and stack with those of ``pyro.distributions.transforms`` in a
:class:`Compose`. What one feature undergoes (:class:`Shift`, :class:`Affine`, :class:`Spline`, :class:`DeepSigmoidal`,
:class:`SumOfSquares`, :class:`GaussianMixtureCDF`) is apart from which features decide about it
(:class:`ElementWise`, :class:`Coupling`, :class:`MaskedAutoregressive`).
"""

from .autoregressive import MaskedAutoregressive
from .base import Conditioned, Inverse, Transform
from .block import BlockAutoregressive
from .compose import Compose, Foreign, as_transform
from .coupling import Coupling
from .elementwise import ElementWise, Householder
from .inversion import invert
from .linear import ActNorm, LULinear, Permutation, Standardize
from .monotone import DeepSigmoidal, GaussianMixtureCDF, SumOfSquares
from .planar import Planar, Radial, Sylvester
from .support import Support, with_support
from .univariate import Affine, Shift, Spline, Univariate

__all__ = [
    "ActNorm",
    "Affine",
    "BlockAutoregressive",
    "Compose",
    "Conditioned",
    "Coupling",
    "DeepSigmoidal",
    "ElementWise",
    "Foreign",
    "GaussianMixtureCDF",
    "Householder",
    "Inverse",
    "LULinear",
    "MaskedAutoregressive",
    "Permutation",
    "Planar",
    "Radial",
    "Shift",
    "Spline",
    "Standardize",
    "SumOfSquares",
    "Support",
    "Sylvester",
    "Transform",
    "Univariate",
    "as_transform",
    "invert",
    "with_support",
]
