r"""Bijections of images, events (C, H, W): squeezing, couplings, the invertible 1x1 convolution.

.. math::
    y_A = x_A, \quad y_B = g\bigl(x_B; \theta(x_A, c)\bigr) \qquad\text{and}\qquad y_{\cdot hw} = W x_{\cdot hw} + b

A coupling's split A | B is a mask over the channels or over the pixels, and its conditioner :math:`\theta` is
convolutional; the family :math:`g` is any :class:`~pyro_dgm.transforms.Univariate`. All of them are models of
local dependence, and are stacked at several resolutions by :class:`~pyro_dgm.transforms.MultiScale`. (Dinh,
Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803; Kingma and Dhariwal, Glow, 2018,
arXiv:1807.03039.)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from .._shapes import as_image_shape
from ..nn import ConvNet, at_least_float32, leave_autocast, without_autocast
from .base import Pass, Transform
from .coupling import Partition
from .linear import moments
from .univariate import Affine, Univariate

IMAGES = constraints.independent(constraints.real, 3)
REACH = 5.0


def check_image(name: str, x: Tensor, event_shape: Sequence[int]) -> None:
    """Refuses images of another shape.

    Raises:
        ValueError: With what was expected and what came.
    """
    if x.shape[-3:] != tuple(event_shape):
        raise ValueError(f"{name}: expected images of shape {tuple(event_shape)}, got shape {tuple(x.shape)}")


class Squeeze(Transform):
    r"""Space to depth: (C, H, W) becomes (4 C, H / 2, W / 2); volume-preserving.

    Every 2x2 square becomes four channels, :math:`y_{4c + 2i + j,\, h,\, w} = x_{c,\, 2h + i,\, 2w + j}`, so that
    neighbours can condition each other by a mask over channels. In a flow, which runs latent to data, it is inverted.

    Example:
        >>> Squeeze()(torch.arange(4.0).reshape(1, 2, 2)).flatten()
        tensor([0., 1., 2., 3.])
    """

    domain, codomain = IMAGES, IMAGES

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Squeezes."""
        self.forward_shape(x.shape)
        return F.pixel_unshuffle(x, 2), x.new_zeros(())

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Spreads the channels out again."""
        self.inverse_shape(y.shape)
        return F.pixel_shuffle(y, 2), y.new_zeros(())

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of y for a shape of x."""
        *batch, c, h, w = shape
        if h % 2 or w % 2:
            raise ValueError(f"Squeeze: expected an even height and width, got {h}x{w}")
        return torch.Size([*batch, 4 * c, h // 2, w // 2])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of x for a shape of y."""
        *batch, c, h, w = shape
        if c % 4:
            raise ValueError(f"Squeeze: expected a multiple of 4 channels to spread out, got {c}")
        return torch.Size([*batch, c // 4, 2 * h, 2 * w])


class _Channels(nn.Module):
    """The channels, which are last here, in two parts, taken apart and put together."""

    def __init__(self, mask: Sequence[bool]) -> None:
        super().__init__()
        self.partition = Partition(mask)
        self.sizes = self.partition.sizes

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.partition.split(x)

    def join(self, x_a: Tensor, y_b: Tensor, ladj: Tensor) -> Pass:
        return self.partition.join(x_a, y_b), ladj.sum((-3, -2, -1))


class _Pixels(nn.Module):
    """Pixels in two parts: those of the other part are zero where one conditions, and put back afterwards."""

    def __init__(self, channels: int, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.sizes = (channels, channels)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(self.mask[..., None], x, 0.0), x

    def join(self, x_a: Tensor, y_b: Tensor, ladj: Tensor) -> Pass:
        mask = self.mask[..., None]
        return torch.where(mask, x_a, y_b), torch.where(mask, 0.0, ladj.expand_as(y_b)).sum((-3, -2, -1))


class ImageCoupling(Transform):
    r"""A coupling of images with a convolutional conditioner, which sees :math:`r \tanh(x_A / r)`, r = 5.

    A flow magnifies where its data hardly vary, the black border of digits say, and there a single speck is hundreds of
    deviations away. Were the conditioners to see such numbers as they are, each layer would hand more on than it got,
    and a few images of thousands, in training too, would outweigh all the others.

    Args:
        event_shape: Shape (C, H, W) of an image.
        mask: Truth values, a list or a tensor, true for what stays and conditions (A), false for what is transformed
            (B): one per channel (see :func:`first_half`), or a table (H, W) of one per pixel (see
            :func:`checkerboard`).
        univariate: The family :math:`g`; :class:`Affine` when ``None``.
        hidden_channels: Hidden channels of the conditioner, a :class:`~pyro_dgm.nn.ConvNet`; 0 for one convolution.
        blocks: Its number of residual blocks; 0 for one 1x1 convolution in their place.
        context: Width of the context, 0 for none.
        activation: Class of the conditioner's activation.
        positions: Whether the conditioner knows where in the image it is.

    Raises:
        ValueError: If the mask does not fit, or leaves nothing to condition on or nothing to transform.

    Example:
        >>> t = ImageCoupling((2, 4, 4), checkerboard(4, 4))
        >>> y, ladj = t.forward_and_ladj(torch.zeros(10, 2, 4, 4))
        >>> ladj.shape
        torch.Size([10])
    """

    domain, codomain = IMAGES, IMAGES

    def __init__(
        self,
        event_shape: Sequence[int],
        mask: Sequence[bool] | Sequence[Sequence[bool]] | Tensor,
        univariate: Univariate | None = None,
        hidden_channels: int = 64,
        blocks: int = 0,
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        positions: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = c, h, w = as_image_shape(event_shape)
        table = torch.as_tensor(mask, dtype=torch.bool, device="cpu")
        if table.shape not in ((c,), (h, w)):
            raise ValueError(
                f"mask: expected {c} truth values, or a table of {h} rows of {w}, got shape {tuple(table.shape)}"
            )
        by_pixel, values = table.dim() == 2, table.flatten().tolist()
        if all(values) or not any(values):
            raise ValueError("mask: expected at least one true and one false, got all alike")
        self.parts = _Pixels(c, torch.tensor(values).reshape(h, w)) if by_pixel else _Channels(values)
        self.univariate = univariate or Affine()
        a, b = self.parts.sizes
        network = hidden_channels, blocks, context, activation, (h, w) if positions else None
        self.conditioner = ConvNet(a, b * self.univariate.size, *network)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Transforms B given A."""
        return self._run(x, context, self.univariate.forward_and_ladj)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Restores B given A."""
        return self._run(y, context, self.univariate.inverse_and_ladj)

    def _run(self, v: Tensor, context: Tensor | None, g: Callable[[Tensor, Tensor], Pass]) -> Pass:
        check_image("ImageCoupling", v, self.event_shape)
        v_a, v_b = self.parts.split(v.movedim(-3, -1))  # channels last, as memory has them
        w, ladj = self.parts.join(v_a, *g(v_b, self._theta(v_a, context)))
        return w.movedim(-1, -3), ladj

    def _theta(self, v_a: Tensor, context: Tensor | None) -> Tensor:
        seen = REACH * torch.tanh(v_a.movedim(-1, -3) / REACH)
        theta = leave_autocast(self.conditioner(seen, context))
        return theta.movedim(-3, -1).unflatten(-1, (self.univariate.size, -1)).mT


def checkerboard(height: int, width: int, first: bool = True) -> list[list[bool]]:
    """Returns the mask of a chessboard.

    Args:
        height: Its rows.
        width: Its columns.
        first: Its value at the upper left corner.

    Example:
        >>> checkerboard(2, 3)
        [[True, False, True], [False, True, False]]
    """
    return [[(i + j) % 2 == (0 if first else 1) for j in range(width)] for i in range(height)]


def first_half(channels: int) -> list[bool]:
    """Returns the mask that is true for the first half of the channels."""
    return [k < channels // 2 for k in range(channels)]


class InvertibleConvolution(Transform):
    r"""The invertible 1x1 convolution, activation normalisation included: one matrix for all pixels.

    .. math::
        y_{\cdot hw} = W x_{\cdot hw} + b, \quad W = P L U, \quad u_{kk} = \sigma_k e^{s_k}, \qquad
        \log|\det J| = H W \sum_k s_k

    with a permutation P and signs :math:`\sigma` that stay as they were drawn, L unit lower and U upper triangular; W
    starts as a random rotation. An activation normalisation before it needs no layer of its own: U times a diagonal
    is upper triangular, so ``initialize`` puts it there, and one convolution does the work of both. The inverse
    solves with L and U, and nothing is inverted. In a flow that is trained on data it stands inverted, the convolution
    being the cheaper direction. (Kingma and Dhariwal, Glow, 2018, arXiv:1807.03039.)

    Args:
        channels: Number of channels C.

    Example:
        >>> y, ladj = InvertibleConvolution(3).forward_and_ladj(torch.zeros(5, 3, 8, 8))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3, 8, 8]), torch.Size([]))
    """

    domain, codomain = IMAGES, IMAGES

    def __init__(self, channels: int) -> None:
        super().__init__()
        permutation, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(channels, channels)).Q)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("signs", diagonal.sign())
        self.entries = nn.Parameter(lower.tril(-1) + upper.triu(1))
        self.log_scale = nn.Parameter(diagonal.abs().log())
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns P, L without its diagonal, and U."""
        entries, log_scale = at_least_float32(self.entries), at_least_float32(self.log_scale)
        upper = entries.triu(1) + torch.diag_embed(self.signs * log_scale.exp())
        return self.permutation.to(entries), entries.tril(-1), upper

    def _weight(self) -> Tensor:
        permutation, lower, upper = self._factors()
        return permutation @ torch.addmm(upper, lower, upper)

    def _ladj(self, x: Tensor) -> Tensor:
        check_image("InvertibleConvolution", x, (len(self.log_scale), *x.shape[-2:]))
        return x.shape[-2:].numel() * self.log_scale.sum()

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Multiplies every pixel by W."""
        ladj = self._ladj(x)
        with without_autocast(x):
            weight = self._weight()
            y = F.linear(x.movedim(-3, -1).to(weight), weight, self.bias.to(weight))
        return y.movedim(-1, -3).to(self.bias), ladj

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Solves with P, L and U."""
        ladj = self._ladj(y)
        with without_autocast(y):
            permutation, lower, upper = self._factors()
            columns = (y.movedim(-3, -1).to(lower) - self.bias).movedim(-1, 0)
            x = permutation.mT @ columns.flatten(1)
            x = torch.linalg.solve_triangular(lower, x, upper=False, unitriangular=True)
            x = torch.linalg.solve_triangular(upper, x, upper=True)
        return x.reshape(columns.shape).movedim(0, -3).to(self.bias), -ladj

    @torch.no_grad()
    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Scales W and sets b so that ``values`` come out, on the other side, as standardised numbers rotated."""
        mean, std = moments(values.movedim(-3, -1))
        norms = self._weight().norm(dim=0 if at_input else 1).to(std)  # 1, where W is still a rotation
        if at_input:  # W diag(1 / std)
            row, column = torch.ones_like(std), 1 / (norms * std)
        else:  # diag(std) W = P (D L 1/D) (D U), with D the deviations in the order of L
            row, column = self.permutation.mT @ (std / norms), torch.ones_like(std)
        lower = row[:, None] * self.entries.tril(-1) / row
        self.entries.copy_(lower + row[:, None] * self.entries.triu(1) * column)
        self.log_scale.add_((row * column).log())
        self.bias.copy_(-self._weight() @ mean if at_input else mean)
        self.initialized.fill_(True)
