r"""Differentiable augmentation of images, which lets a critic see more than the data there are.

.. math::
    L_D = \ell_D\bigl(D(T(x)), D(T(G(z)))\bigr), \qquad L_G = \ell_G\bigl(D(T(G(z)))\bigr)

T is drawn anew for every image and goes before the critic for data and samples alike, in the losses of both players;
augmenting data alone would have the generator imitate the augmentation. Colours are moved without changing the mean of
an image over draws; parts that translation or cutting leaves without a pixel are zero. (Zhao, Liu, Lin, Zhu and Han,
Differentiable Augmentation for Data-Efficient GAN Training, 2020, arXiv:2006.10738.)
"""

import torch
from torch import Tensor


class DiffAugment:
    r"""Random colours, translations and cuts of images.

    With u uniform on [0, 1], independent for every image and every use, :math:`\bar x_{ij}` the mean over the channels
    of a pixel and :math:`\bar x` that over the image, colours are

    .. math::
        x \leftarrow x + u - \tfrac12, \qquad
        x \leftarrow \bar x_{ij} + 2 u\, (x - \bar x_{ij}), \qquad
        x \leftarrow \bar x + (u + \tfrac12) (x - \bar x)

    brightness, saturation and contrast.

    Args:
        colour: Whether colours change. Brightness suits pixels in an interval of length 1 or 2.
        translation: The greatest shift, as a share of height and width; 0 for none.
        cutout: Side of the rectangle that is cut out around a random centre, as a share of height and width; 0 for
            none.

    Raises:
        ValueError: If a share is not in [0, 1].

    Example:
        >>> DiffAugment()(torch.rand(5, 3, 8, 8)).shape
        torch.Size([5, 3, 8, 8])
    """

    def __init__(self, colour: bool = True, translation: float = 0.125, cutout: float = 0.5) -> None:
        for name, share in (("translation", translation), ("cutout", cutout)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: expected a share of the image in [0, 1], got {share}")
        self.colour, self.translation, self.cutout = colour, translation, cutout

    def __call__(self, x: Tensor) -> Tensor:
        """Maps images (*, C, H, W) to the same shape."""
        if self.colour:
            x = _contrasted(_saturated(_brightened(x)))
        for dim in (-2, -1) if self.translation else ():
            x = _translated(x, dim, int(x.shape[dim] * self.translation + 0.5))
        return _cut(x, self.cutout) if self.cutout else x


def _uniform(x: Tensor) -> Tensor:
    return torch.rand(x.shape[:-3], dtype=x.dtype, device=x.device)[..., None, None, None]


def _brightened(x: Tensor) -> Tensor:
    return x + (_uniform(x) - 0.5)


def _saturated(x: Tensor) -> Tensor:
    mean = x.mean(-3, keepdim=True)
    return mean + 2 * _uniform(x) * (x - mean)


def _contrasted(x: Tensor) -> Tensor:
    mean = x.mean((-3, -2, -1), keepdim=True)
    return mean + (_uniform(x) + 0.5) * (x - mean)


def _translated(x: Tensor, dim: int, most: int) -> Tensor:
    """Shifts rows (dim -2) or columns (dim -1) by up to ``most``, zeros coming in."""
    size = x.shape[dim]
    shift = torch.randint(-most, most + 1, x.shape[:-3], device=x.device)[..., None, None, None]
    place = torch.arange(size, device=x.device)
    source = shift + (place[:, None] if dim == -2 else place)
    inside = (source >= 0) & (source < size)
    return torch.where(inside, x.take_along_dim(source.clamp(0, size - 1), dim), 0.0)


def _cut(x: Tensor, share: float) -> Tensor:
    """Sets a rectangle to zero; it may reach over the edge."""
    out = torch.ones((), dtype=torch.bool, device=x.device)
    for dim in (-2, -1):
        size = x.shape[dim]
        side = int(size * share + 0.5)
        start = torch.randint(0, size + 1 - side % 2, x.shape[:-3], device=x.device)[..., None, None, None] - side // 2
        place = torch.arange(size, device=x.device)
        place = place[:, None] if dim == -2 else place
        out = out & (place >= start) & (place < start + side)
    return torch.where(out, 0.0, x)
