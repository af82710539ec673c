r"""From the levels of a pixel to real numbers for a density, or to bits for a model of coins.

A density fitted to integers can grow without bound. Uniform dequantisation spreads each level over its cell,

.. math:: y = (x + u) / L, \quad u \sim U[0, 1), \quad x \in \{0, \dots, L - 1\},

and then the density bounds the probability of the level from below (Theis, van den Oord and Bethge, 2016,
https://arxiv.org/abs/1511.01844):

.. math:: \mathbb{E}_u [\log p(y)] - \log L \le \log P(x).

Dynamic binarisation goes the other way: :math:`x / (L - 1)` is the probability of a one, drawn afresh in
every epoch of training, and once, with a fixed seed, for the test set (Salakhutdinov and Murray, 2008, On the
Quantitative Analysis of Deep Belief Networks).
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["binarize", "dequantize"]


def dequantize(x: Tensor, levels: int = 256, generator: torch.Generator | None = None) -> Tensor:
    r"""Adds uniform noise within each level: :math:`(x + u) / L` in [0, 1).

    Rounding never carries a value into the next cell: ``floor(levels * y) == x`` for up to 1024 levels in
    float32.

    Args:
        x: The levels 0, ..., L - 1, of integer or floating type, with any shape.
        levels: The number :math:`L` of levels: 256 for 8-bit images, 17 for
            :func:`~pyro_dgm.datasets.digits`.
        generator: The source of the noise; torch's global generator unless given.

    Returns:
        The dequantised values, of the shape of ``x``; of its type if that is floating, else torch's default.

    Raises:
        ValueError: If, with Pyro's validation on, a level lies outside 0, ..., L - 1.

    Example:
        >>> y = dequantize(torch.tensor([0, 16]), levels=17)
        >>> (y * 17).floor()
        tensor([ 0., 16.])
    """
    if levels < 1:
        raise ValueError(f"dequantize: levels must be positive, got {levels}")
    x = _floating("dequantize", x, levels - 1)
    u = torch.empty_like(x).uniform_(generator=generator)
    upper = (x + 1) * (1 - 2 * torch.finfo(x.dtype).eps)  # below the next level even after the division
    return torch.minimum(x + u, upper) / levels


def binarize(x: Tensor, maximum: float = 255, generator: torch.Generator | None = None) -> Tensor:
    r"""Draws each pixel as a coin with probability :math:`x / x_{\max}` (dynamic binarisation).

    Args:
        x: The intensities between 0 and ``maximum``, of integer or floating type, with any shape.
        maximum: The intensity that is surely a one, one less than the number of levels: 255 for 8-bit images.
        generator: The source of the draws; torch's global generator unless given.

    Returns:
        Zeros and ones, of the shape of ``x``; of its type if that is floating, else torch's default.

    Raises:
        ValueError: If, with Pyro's validation on, an intensity lies outside 0, ..., ``maximum``.

    Example:
        >>> binarize(torch.tensor([0, 255]))
        tensor([0., 1.])
    """
    if maximum <= 0:
        raise ValueError(f"binarize: maximum must be positive, got {maximum}")
    return torch.bernoulli(_floating("binarize", x, maximum) / maximum, generator=generator)


def _floating(name: str, x: Tensor, maximum: float) -> Tensor:
    """``x`` as floating numbers, its range checked where Pyro checks the arguments of distributions."""
    if dist.is_validation_enabled() and x.numel() and not (x.min() >= 0 and x.max() <= maximum):
        raise ValueError(f"{name}: expected values in 0..{maximum}, got {x.min().item()}..{x.max().item()}")
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())
