r"""Corruptions, from which a denoising autoencoder restores its data.

.. math::
    \tilde x = x + \sigma \epsilon, \qquad \tilde x_i = m_i x_i, \qquad
    \tilde x_i = m_i x_i + (1 - m_i) (b + (a - b)\, u_i)

with :math:`\epsilon` standard normal, m a mask of coins that are 0 at some rate, and u fair coins: Gaussian noise,
masking noise, and salt and pepper; and coins in the place of probabilities. (Vincent, Larochelle, Bengio and Manzagol,
Extracting and Composing Robust Features with Denoising Autoencoders, 2008; Vincent, Larochelle, Lajoie, Bengio and
Manzagol, Stacked Denoising Autoencoders, 2010.) Any function of x, of the same shape, will do in their place.
"""

import torch
from torch import Tensor

from .._config import Configured


class GaussianNoise(Configured):
    """Normal noise on every number.

    Args:
        scale: Its deviation.

    Example:
        >>> GaussianNoise(0.1)(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, scale: float) -> None:
        if not scale >= 0:
            raise ValueError(f"scale: expected at least 0, got {scale}")
        self.scale = scale

    def __call__(self, x: Tensor) -> Tensor:
        """Adds the noise."""
        return x + self.scale * torch.randn_like(x)


class MaskingNoise(Configured):
    """Zeros in the place of some numbers, each at a rate.

    Args:
        rate: The probability of a number to be masked, in [0, 1].

    Example:
        >>> MaskingNoise(1.0)(torch.ones(3))
        tensor([0., 0., 0.])
    """

    def __init__(self, rate: float) -> None:
        self.rate = _checked(rate)

    def __call__(self, x: Tensor) -> Tensor:
        """Masks."""
        return torch.where(torch.rand_like(x) < self.rate, 0.0, x)


class SaltAndPepper(Configured):
    """The least or the largest value, whichever a fair coin says, in the place of some numbers.

    Args:
        rate: The probability of a number to be replaced, in [0, 1].
        low: The least value.
        high: The largest value.

    Example:
        >>> x = SaltAndPepper(1.0, low=-1.0)(torch.zeros(1000))
        >>> x.unique()
        tensor([-1.,  1.])
    """

    def __init__(self, rate: float, low: float = 0.0, high: float = 1.0) -> None:
        self.rate, self.low, self.high = _checked(rate), low, high

    def __call__(self, x: Tensor) -> Tensor:
        """Replaces."""
        u = torch.rand_like(x)
        low, high = (torch.full_like(x, value) for value in (self.low, self.high))
        return torch.where(u < self.rate, torch.where(u < self.rate / 2, low, high), x)


class StochasticBinary(Configured):
    r"""A coin in the place of each number, which is its probability: noise that makes units binary.

    Its gradient is passed straight through, :math:`\partial \tilde x_i / \partial x_i = 1` (Bengio, Leonard and
    Courville, Estimating or Propagating Gradients Through Stochastic Neurons, 2013, arXiv:1308.3432).

    Example:
        >>> StochasticBinary()(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Tosses the coins."""
        coins = (torch.rand_like(x) < x).to(x)
        return x + (coins - x).detach()


def _checked(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected a probability, got {rate}")
    return rate
