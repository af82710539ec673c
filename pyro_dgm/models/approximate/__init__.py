"""Models whose density is a bound or an estimate: latent variable models."""

from .adversarial import AdversarialAutoencoder, AdversarialVariationalBayes
from .autoencoder import Autoencoder
from .conditional_vae import ConditionalVAE
from .deep_markov import DeepMarkovModel
from .dequantized import Dequantized
from .hierarchical import HierarchicalVAE, LadderVAE
from .miwae import MIWAE, NotMIWAE
from .regularized import BetaTCVAE, BetaVAE, FactorVAE, InfoVAE
from .semi_supervised import SemiSupervisedVAE
from .vae import VAE
from .vamp_prior import VampPrior
from .vqvae import VQVAE

__all__ = [
    "MIWAE",
    "VAE",
    "VQVAE",
    "AdversarialAutoencoder",
    "AdversarialVariationalBayes",
    "Autoencoder",
    "BetaTCVAE",
    "BetaVAE",
    "ConditionalVAE",
    "DeepMarkovModel",
    "Dequantized",
    "FactorVAE",
    "HierarchicalVAE",
    "InfoVAE",
    "LadderVAE",
    "NotMIWAE",
    "SemiSupervisedVAE",
    "VampPrior",
]
