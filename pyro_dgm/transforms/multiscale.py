r"""Multi-scale architecture: after every level of a flow, half of the channels are done.

Seen from the data, level l maps an image :math:`h_{l-1}` to :math:`(h_l, z_l)`, channels in two halves, of which only
the first goes on:

.. math::
    h_0 = x, \qquad (h_l, z_l) = T_l^{-1}(h_{l-1}), \qquad z_L = T_L^{-1}(h_{L-1}), \qquad
    z = [z_L, z_{L-1}, \dots, z_1]

so that coarse structure passes through more layers than detail does, at a fraction of the cost. All z together are one
vector of as many numbers as the image has. What the field calls a learned prior of :math:`z_l` given
:math:`h_l` (and a context), :math:`N(\mu(h_l, c), \sigma^2(h_l, c))`, is here an affine coupling at the latent end
of level l, A being the half that goes on: the whole is one bijection of standard normal noise, and temperature is
the deviation of that noise. (Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016,
arXiv:1605.08803.)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from .._shapes import broadcast_shapes
from .base import Pass, Transform, check_width
from .compose import pass_on
from .image import IMAGES, check_image

Step = Callable[[Transform, Tensor], Pass]


class MultiScale(Transform):
    """Levels of transforms of images, half the channels leaving after each; from a vector to an image.

    Args:
        event_shape: Shape (C, H, W) of the image.
        levels: One transform of images for every level, finest first, each latent to data; what leaves a level are the
            last half of the channels at its latent side.

    Raises:
        ValueError: If a level but the last leaves an odd number of channels.

    Example:
        >>> from pyro_dgm.transforms import Compose, InvertibleConvolution, Squeeze
        >>> levels = [Compose([InvertibleConvolution(4 + 4 * k).inv, Squeeze().inv]) for k in range(2)]
        >>> MultiScale((1, 8, 8), levels).forward_and_ladj(torch.zeros(5, 64))[0].shape
        torch.Size([5, 1, 8, 8])
    """

    domain, codomain = constraints.real_vector, IMAGES

    def __init__(self, event_shape: Sequence[int], levels: Sequence[Transform]) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.levels = nn.ModuleList(levels)
        self.shapes: list[torch.Size] = []  # of z_1, ..., z_L
        shape = self.event_shape
        for k, level in enumerate(levels):
            c, h, w = level.inverse_shape(shape)
            if k + 1 < len(levels) and c % 2:
                raise ValueError(f"levels: expected an even number of channels to halve after level {k + 1}, got {c}")
            shape = torch.Size([c // 2 if k + 1 < len(levels) else c, h, w])
            self.shapes.append(shape)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Builds the image, coarse to fine."""
        return self._build(x, lambda level, h: level.forward_and_ladj(h, context))

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Takes the image apart, fine to coarse."""
        return self._take_apart(y, lambda level, h: level.inverse_and_ladj(h, context))

    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Fits every level to the data as the levels between it and the data leave them."""

        def step(level: Transform, h: Tensor) -> Pass:
            level.initialize(h, context, at_input=at_input)
            return pass_on(level, h, context, at_input), h.new_zeros(())

        (self._build if at_input else self._take_apart)(values, step)

    def _build(self, z: Tensor, step: Step) -> Pass:
        check_width("MultiScale", z, self.event_shape.numel())
        shapes = self.shapes[::-1]
        parts = [
            part.unflatten(-1, s) for part, s in zip(z.split([s.numel() for s in shapes], -1), shapes, strict=True)
        ]
        h, total = step(self.levels[-1], parts[0])
        for level, part in zip(reversed(self.levels[:-1]), parts[1:], strict=True):
            h, ladj = step(level, torch.cat(_broadcast([h, part], 3), -3))
            total = total + ladj
        return h, total

    def _take_apart(self, x: Tensor, step: Step) -> Pass:
        check_image("MultiScale", x, self.event_shape)
        parts, total = [], x.new_zeros(())
        for level in self.levels[:-1]:
            x, ladj = step(level, x)
            x, part = x.chunk(2, -3)
            parts.append(part.flatten(-3))
            total = total + ladj
        x, ladj = step(self.levels[-1], x)
        return torch.cat(_broadcast([x.flatten(-3), *reversed(parts)], 1), -1), total + ladj

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x."""
        return torch.Size([*shape[:-1], *self.event_shape])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        return torch.Size([*shape[:-3], self.event_shape.numel()])


def _broadcast(parts: list[Tensor], event_dim: int) -> list[Tensor]:
    """Gives parts of one event the same batch dimensions, which a context may have given to some only."""
    batch_shape = broadcast_shapes(*(p.shape[:-event_dim] for p in parts))
    return [p.expand(*batch_shape, *p.shape[-event_dim:]) for p in parts]
