"""Models whose density is a bound or an estimate: latent variable models."""

from .vae import VAE

__all__ = ["VAE"]
