"""What a model is good for: filling in what is missing, finding what is odd, walks among data, undoing a degradation.

A task asks for the promise of a model's density, or for a latent variable, never for a family; where a family can do
better, it says so by what it offers (``given_order``, say, of models that know all orders).
"""

from .anomaly import anomaly_score, surprise
from .explore import interpolate, traverse
from .impute import Imputation, impute
from .invert import InverseProblem, Inversion, invert

__all__ = [
    "Imputation",
    "InverseProblem",
    "Inversion",
    "anomaly_score",
    "impute",
    "interpolate",
    "invert",
    "surprise",
    "traverse",
]
