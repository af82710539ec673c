"""Models that can be sampled but not scored: generative adversarial networks."""

from .auxiliary import ACGAN, InfoGAN
from .dcgan import DCGAN
from .gan import GAN
from .residual import SNGAN, WGANGP

__all__ = ["ACGAN", "DCGAN", "GAN", "SNGAN", "WGANGP", "InfoGAN"]
