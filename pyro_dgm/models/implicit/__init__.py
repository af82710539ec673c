"""Models that can be sampled but not scored: generative adversarial networks."""

from .gan import GAN

__all__ = ["GAN"]
