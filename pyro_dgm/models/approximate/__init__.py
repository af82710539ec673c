"""Models whose density is a bound or an estimate: latent variable models."""

from .autoencoder import Autoencoder
from .boltzmann import RBM
from .conditional_vae import ConditionalVAE
from .deep_markov import DeepMarkovModel
from .dequantized import Dequantized
from .energy_based import EnergyBasedModel
from .hierarchical import HierarchicalVAE, LadderVAE
from .miwae import MIWAE, NotMIWAE
from .regularized import BetaTCVAE, BetaVAE, FactorVAE, InfoVAE
from .semi_supervised import SemiSupervisedVAE
from .vae import VAE
from .vamp_prior import VampPrior
from .vqvae import VQVAE

__all__ = [
    "MIWAE",
    "RBM",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "BetaTCVAE",
    "BetaVAE",
    "ConditionalVAE",
    "DeepMarkovModel",
    "Dequantized",
    "EnergyBasedModel",
    "FactorVAE",
    "HierarchicalVAE",
    "InfoVAE",
    "LadderVAE",
    "NotMIWAE",
    "SemiSupervisedVAE",
    "VampPrior",
]
