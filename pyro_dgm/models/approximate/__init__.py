"""Models whose density is a bound or an estimate: latent variable models."""

from .deep_markov import DeepMarkovModel
from .dequantized import Dequantized
from .hierarchical import HierarchicalVAE, LadderVAE
from .vae import VAE

__all__ = ["VAE", "DeepMarkovModel", "Dequantized", "HierarchicalVAE", "LadderVAE"]
