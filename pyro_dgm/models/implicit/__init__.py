"""Models that can be sampled but not scored: generative adversarial networks."""

from .dcgan import DCGAN
from .gan import GAN
from .residual import SNGAN, WGANGP

__all__ = ["DCGAN", "GAN", "SNGAN", "WGANGP"]
