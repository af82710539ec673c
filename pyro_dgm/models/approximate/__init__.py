"""Models whose density is a bound or an estimate: latent variable models."""

from .dequantized import Dequantized
from .vae import VAE

__all__ = ["VAE", "Dequantized"]
