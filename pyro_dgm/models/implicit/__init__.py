"""Models that can be sampled but not scored: adversarial networks, and transitions of Markov chains."""

from .auxiliary import ACGAN, InfoGAN
from .dcgan import DCGAN
from .encoding import VAEGAN, BiGAN
from .gan import GAN
from .gsn import GSN, DenoisingAutoencoder
from .residual import SNGAN, WGANGP

__all__ = ["ACGAN", "DCGAN", "GAN", "GSN", "SNGAN", "VAEGAN", "WGANGP", "BiGAN", "DenoisingAutoencoder", "InfoGAN"]
