"""Models that can be sampled but not scored: generative adversarial networks, and those that are the transition of a Markov
chain."""

from .auxiliary import ACGAN, InfoGAN
from .dcgan import DCGAN
from .gan import GAN
from .gsn import GSN, DenoisingAutoencoder
from .residual import SNGAN, WGANGP

__all__ = ["ACGAN", "DCGAN", "GAN", "GSN", "SNGAN", "WGANGP", "DenoisingAutoencoder", "InfoGAN"]
