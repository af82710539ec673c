"""What a density is good for: filling in what is missing, finding what is odd; a latent variable: walks among data.

A task asks for the promise of a model's density, never for a family; where a family can do better, it says so by what
it offers (``given_order``, say, of models that know all orders).
"""

from .anomaly import anomaly_score, surprise
from .explore import interpolate, traverse
from .impute import Imputation, impute

__all__ = ["Imputation", "anomaly_score", "impute", "interpolate", "surprise", "traverse"]
