"""Models that can be sampled but not scored: generative adversarial networks."""

from .auxiliary import ACGAN, InfoGAN
from .dcgan import DCGAN
from .encoding import VAEGAN, BiGAN
from .gan import GAN
from .residual import SNGAN, WGANGP

__all__ = ["ACGAN", "DCGAN", "GAN", "SNGAN", "VAEGAN", "WGANGP", "BiGAN", "InfoGAN"]
