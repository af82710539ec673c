"""Models whose density is a bound or an estimate: latent variable models."""

from .autoencoder import Autoencoder
from .dequantized import Dequantized
from .vae import VAE
from .vqvae import VQVAE

__all__ = ["VAE", "VQVAE", "Autoencoder", "Dequantized"]
