"""Models whose density is a bound or an estimate: latent variable models."""

from .adversarial import AdversarialAutoencoder, AdversarialVariationalBayes
from .autoencoder import Autoencoder
from .boltzmann import DBM, DBN, RBM, BoltzmannMachine, ConditionalRBM, ConvolutionalRBM
from .conditional_vae import ConditionalVAE
from .deep_markov import DeepMarkovModel
from .dequantized import Dequantized
from .energy_based import EnergyBasedModel
from .energy_model import EnergyModel
from .hierarchical import HierarchicalVAE, LadderVAE
from .miwae import MIWAE, NotMIWAE
from .regularized import BetaTCVAE, BetaVAE, FactorVAE, InfoVAE
from .semi_supervised import SemiSupervisedVAE
from .vae import VAE
from .vamp_prior import VampPrior
from .vqvae import VQVAE

__all__ = [
    "DBM",
    "DBN",
    "MIWAE",
    "RBM",
    "VAE",
    "VQVAE",
    "AdversarialAutoencoder",
    "AdversarialVariationalBayes",
    "Autoencoder",
    "BetaTCVAE",
    "BetaVAE",
    "BoltzmannMachine",
    "ConditionalRBM",
    "ConditionalVAE",
    "ConvolutionalRBM",
    "DeepMarkovModel",
    "Dequantized",
    "EnergyBasedModel",
    "EnergyModel",
    "FactorVAE",
    "HierarchicalVAE",
    "InfoVAE",
    "LadderVAE",
    "NotMIWAE",
    "SemiSupervisedVAE",
    "VampPrior",
]
