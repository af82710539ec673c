"""Models whose density is a bound or an estimate: latent variable models."""

from .conditional_vae import ConditionalVAE
from .dequantized import Dequantized
from .regularized import BetaTCVAE, BetaVAE, FactorVAE, InfoVAE
from .semi_supervised import SemiSupervisedVAE
from .vae import VAE
from .vamp_prior import VampPrior

__all__ = [
    "VAE",
    "BetaTCVAE",
    "BetaVAE",
    "ConditionalVAE",
    "Dequantized",
    "FactorVAE",
    "InfoVAE",
    "SemiSupervisedVAE",
    "VampPrior",
]
