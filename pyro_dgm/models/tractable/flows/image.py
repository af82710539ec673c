r"""Flows on images: multi-scale RealNVP and Glow.

.. math::
    z \sim N(0, I), \qquad x = \mathrm{end}\bigl(T_1(T_2(\dots T_L(z_L), \dots, z_2), z_1)\bigr)

with one bijection :math:`T_l` per level: couplings whose conditioners are convolutional, and a squeeze, which
trades resolution for channels. After every level but the last half the channels are done
(:class:`~pyro_dgm.transforms.MultiScale`), so the latent is one vector of C H W numbers. A context is a vector, the
one-hot code of a class for instance, and enters every conditioner.

Pixels are integers; a density of integers is had by dequantisation (:class:`~pyro_dgm.models.Dequantized`), and
``support=Logit(0.05)`` maps the unit interval, where the dequantised pixels lie, to the reals, where the layers work.
The published 1.06 (RealNVP) and 1.05 (Glow) bits/dim on MNIST are of networks trained for days on GPUs; on a processor
these models are for images of its size: a small Glow, given the class, learns 1.28 in less than half an hour.
"""

import math
from collections.abc import Callable, Sequence

from torch import nn
from torch.distributions import constraints

from ...._shapes import as_image_shape
from ....transforms import (
    ActNorm,
    Compose,
    ImageCoupling,
    InvertibleConvolution,
    MultiScale,
    Squeeze,
    Transform,
    checkerboard,
    first_half,
)
from .base import FlowModel

MOST_LEVELS = 3


class MultiscaleRealNVP(FlowModel):
    r"""RealNVP on images.

    Every level but the last transforms by checkerboards, squeezes, and transforms by halves of the channels; the last
    by checkerboards alone. Every coupling is followed, seen from the data, by an activation normalisation in place of
    the paper's batch normalisation, under which the density in training is not that in evaluation.

    Good at samples and densities alike in one pass; :class:`Glow`, which learns how channels mix, scores somewhat
    better with as many parameters. (Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016,
    arXiv:1605.08803.)

    Args:
        event_shape: Shape (C, H, W) of an image.
        context: Width of the context, 0 for none.
        levels: Number of levels; as many as fit, at most 3, when ``None``. Each but the last halves height and width.
        transforms: Couplings by each kind of mask in a level; the last level has one more.
        hidden_channels: Hidden channels of the conditioners.
        blocks: Their residual blocks.
        activation: Class of their activation.
        positions: Whether they know where in the image they are, by an offset of every first hidden channel at every
            pixel: for images of things that stand in the middle, say. Published flows have convolutions alone.
        support: Where the pixels live, or the transform from the reals that leads there, such as ``Logit(0.05)``.

    Raises:
        ValueError: If the levels do not fit, with how many do.

    Example:
        >>> flow = MultiscaleRealNVP((1, 8, 8), hidden_channels=8)
        >>> flow().sample((2,)).shape, flow.tempered(0.7).sample((2,)).shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context: int = 0,
        *,
        levels: int | None = None,
        transforms: int = 3,
        hidden_channels: int = 64,
        blocks: int = 2,
        activation: type[nn.Module] = nn.ReLU,
        positions: bool = False,
        support: constraints.Constraint | Transform = constraints.real,
    ) -> None:
        def normalized(shape: Sequence[int], masks: Sequence[Sequence]) -> list[Transform]:
            network = (None, hidden_channels, blocks, context, activation, positions)
            return [t for mask in masks for t in (ActNorm(shape), ImageCoupling(shape, mask, *network))]

        def level(shape: tuple[int, int, int], last: bool) -> Transform:
            c, h, w = shape
            boards = [checkerboard(h, w, first=k % 2 == 0) for k in range(transforms + last)]
            if last:
                return Compose(normalized(shape, boards))
            halves = [first_half(4 * c), [not first for first in first_half(4 * c)]]
            halves = [halves[k % 2] for k in range(transforms)]
            inner = normalized((4 * c, h // 2, w // 2), halves)
            return Compose([*inner, Squeeze().inv, *normalized(shape, boards)])

        layers = _multi_scale(event_shape, levels, 1, level)
        super().__init__(event_shape, context, layers, support, standardize=False)


class Glow(FlowModel):
    r"""Flow of invertible 1x1 convolutions and affine couplings.

    Seen from the data, every level squeezes and takes a number of steps

    .. math::
        h \leftarrow W h + b, \qquad h_B \leftarrow g^{-1}\bigl(h_B; \theta(h_A, c)\bigr)

    the first a 1x1 convolution that is an activation normalisation too. What leaves a level is normal given what
    goes on, :math:`z_l \sim N(\mu(h_l, c), \sigma^2(h_l, c))`, and the coarsest :math:`z_L` normal given the context,
    its prior a class's own if the context is a class.

    The best density per parameter among affine flows of images. (Kingma and Dhariwal, Glow: Generative Flow with
    Invertible 1x1 Convolutions, 2018, arXiv:1807.03039.)

    Args:
        event_shape: Shape (C, H, W) of an image.
        context: Width of the context, 0 for none.
        levels: Number of levels, each of which halves height and width; as many as fit, at most 3, when ``None``.
        transforms: Steps per level.
        hidden_channels: Hidden channels of the conditioners.
        blocks: Residual blocks of the conditioners; 0 for the paper's network, 3x3, 1x1, 3x3.
        activation: Class of their activation.
        positions: Whether they know where in the image they are, by an offset of every first hidden channel at every
            pixel: for images of things that stand in the middle, say. Published flows have convolutions alone.
        support: Where the pixels live, or the transform from the reals that leads there, such as ``Logit(0.05)``.

    Raises:
        ValueError: If the levels do not fit, with how many do.

    Example:
        >>> import torch
        >>> flow = Glow((1, 8, 8), context=10, transforms=2, hidden_channels=8)
        >>> flow(torch.eye(10)).log_prob(torch.zeros(10, 1, 8, 8)).shape
        torch.Size([10])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context: int = 0,
        *,
        levels: int | None = None,
        transforms: int = 8,
        hidden_channels: int = 128,
        blocks: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        positions: bool = False,
        support: constraints.Constraint | Transform = constraints.real,
    ) -> None:
        def level(shape: tuple[int, int, int], last: bool) -> Transform:
            c, h, w = shape
            shape = (4 * c, h // 2, w // 2)
            half, steps, common = first_half(4 * c), [], (context, activation, positions)
            for _ in range(transforms):
                steps.append(ImageCoupling(shape, half, None, hidden_channels, blocks, *common))
                steps.append(InvertibleConvolution(4 * c).inv)
            prior = ActNorm(shape, context) if last else ImageCoupling(shape, half, None, 0, 0, *common)
            return Compose([prior, *steps, Squeeze().inv])

        layers = _multi_scale(event_shape, levels, 0, level)
        super().__init__(event_shape, context, layers, support, standardize=False)


def _multi_scale(
    event_shape: Sequence[int],
    levels: int | None,
    unsqueezed: int,
    level: Callable[[tuple[int, int, int], bool], Transform],
) -> Callable[[int], list[Transform]]:
    """Returns the layers of a multi-scale flow.

    Args:
        event_shape: Shape of an image.
        levels: Number of levels, as many as fit, but few, when ``None``.
        unsqueezed: Number of levels, the last ones, that do not squeeze, for which it takes more than one pixel.
        level: Makes one level from the shape of its images and whether it is the last.
    """
    c, h, w = event_shape = as_image_shape(event_shape)
    shared = math.gcd(h, w)
    halvings = (shared & -shared).bit_length() - 1
    fitting = halvings + (unsqueezed if max(h, w) >> halvings > 1 else 0)
    levels = min(fitting, MOST_LEVELS) if levels is None else levels
    if not 1 <= levels <= fitting:
        raise ValueError(
            f"levels: images of {h}x{w} can be halved {halvings} times, so {fitting} levels fit, got "
            f"{levels}; choose fewer, or pad the images"
        )
    shapes = [(2**k * c, h >> k, w >> k) for k in range(levels)]
    return lambda _: [MultiScale(event_shape, [level(s, k + 1 == levels) for k, s in enumerate(shapes)])]
