"""Models whose density is a bound or an estimate: latent variable models."""

from .dequantized import Dequantized
from .miwae import MIWAE, NotMIWAE
from .vae import VAE

__all__ = ["MIWAE", "VAE", "Dequantized", "NotMIWAE"]
