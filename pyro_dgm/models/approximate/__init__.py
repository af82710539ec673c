"""Models whose density is a bound or an estimate: latent variable models."""

from .autoencoder import Autoencoder
from .deep_markov import DeepMarkovModel
from .dequantized import Dequantized
from .hierarchical import HierarchicalVAE, LadderVAE
from .vae import VAE
from .vqvae import VQVAE

__all__ = ["VAE", "VQVAE", "Autoencoder", "DeepMarkovModel", "Dequantized", "HierarchicalVAE", "LadderVAE"]
