r"""Linear bijections: permutations, LU-factored maps, activation normalisation, standardisation.

.. math::
    y = A x + b, \qquad \log|\det \partial y / \partial x| = \log|\det A|

The log-determinant is the same for every datum (unless there is a context), and is returned with shape ``()``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from .._shapes import as_shape
from ..nn import Parameters, at_least_float32, without_autocast
from .base import Pass, Transform, check_width


class Permutation(Transform):
    """Reorders features: y_i = x_order[i]; volume-preserving.

    Args:
        order: A permutation of 0..D-1. It is a buffer: saved with the model and moved with it.

    Raises:
        ValueError: If ``order`` is no permutation.

    Example:
        >>> Permutation([2, 0, 1])(torch.tensor([10.0, 11.0, 12.0]))
        tensor([12., 10., 11.])
    """

    def __init__(self, order: Sequence[int] | Tensor) -> None:
        super().__init__()
        order = [int(i) for i in (order.tolist() if isinstance(order, Tensor) else order)]
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"order: expected a permutation of 0..{len(order) - 1}, got {order}")
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("restore", torch.tensor(sorted(range(len(order)), key=order.__getitem__)))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Reorders."""
        check_width("Permutation", x, len(self.order))
        return x.index_select(-1, self.order), x.new_zeros(())

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Restores the order."""
        check_width("Permutation", y, len(self.order))
        return y.index_select(-1, self.restore), y.new_zeros(())


class LULinear(Transform):
    r"""y = L U x + b with L unit lower triangular and U upper triangular with a positive diagonal.

    The log-determinant is the sum of the logs of U's diagonal, the inverse two triangular solves; nothing is
    inverted explicitly. Starts as the identity. (Kingma and Dhariwal, Glow: Generative Flow with
    Invertible 1x1 Convolutions, 2018, arXiv:1807.03039, without the fixed permutation.)

    Args:
        features: Number of features D.
        context: Width of a context on which the entries depend linearly, 0 for none.
    """

    def __init__(self, features: int, context: int = 0) -> None:
        super().__init__()
        self.features = features
        self.entries = Parameters(features * (features + 1), context)

    def _factors(self, entries: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        entries = at_least_float32(entries)  # there is no triangular solve in half precision
        entries = entries.unflatten(-1, (self.features + 1, self.features))
        matrix, bias = entries[..., :-1, :], entries[..., -1, :]
        log_diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        eye = torch.eye(self.features, dtype=matrix.dtype, device=matrix.device)
        return matrix.tril(-1) + eye, matrix.triu(1) + torch.diag_embed(log_diagonal.exp()), bias, log_diagonal

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Multiplies by U, then by L."""
        entries = self.entries(context)
        lower, upper, bias, log_diagonal = self._factors(entries)
        with without_autocast(x):
            y = (lower @ (upper @ x.to(lower).unsqueeze(-1))).squeeze(-1) + bias
        return y.to(entries.dtype), log_diagonal.sum(-1)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Solves with L, then with U."""
        entries = self.entries(context)
        lower, upper, bias, log_diagonal = self._factors(entries)
        with without_autocast(y):
            x = (y.to(lower) - bias).unsqueeze(-1)
            x = torch.linalg.solve_triangular(lower, x, upper=False, unitriangular=True)
            x = torch.linalg.solve_triangular(upper, x, upper=True).squeeze(-1)
        return x.to(entries.dtype), -log_diagonal.sum(-1)


class ActNorm(Transform):
    r"""y = exp(s) x + b, initialised so that the first data come out standardised at the latent side.

    ``initialize`` is an explicit step, done once before training (``fit`` does it), and the buffer
    ``initialized`` remembers it through saving and loading; calling the transform never changes it.
    (Kingma and Dhariwal, Glow, 2018, arXiv:1807.03039.)

    Args:
        features: Number of features D; or the shape (C, H, W) of images, whose channels have one s and b each for all
            pixels.
        context: Width of a context on which s and b also depend linearly, 0 for none.
    """

    def __init__(self, features: int | Sequence[int], context: int = 0) -> None:
        super().__init__()
        channels, *self.pixels = as_shape(features, "features")
        if self.pixels:
            self.domain = self.codomain = constraints.independent(constraints.real, 1 + len(self.pixels))
        self.affine = Parameters(2 * channels)
        self.shift = Parameters(2 * channels, context) if context else None
        self.register_buffer("initialized", torch.tensor(False))

    def _parameters_at(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns b and s, to be added to events, and the log-determinant."""
        theta = self.affine() if self.shift is None else self.affine() + self.shift(context)
        bias, log_scale = theta.chunk(2, -1)
        ladj = log_scale.sum(-1)
        for size in self.pixels:
            bias, log_scale, ladj = bias.unsqueeze(-1), log_scale.unsqueeze(-1), size * ladj
        return bias, log_scale, ladj

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Scales and shifts."""
        bias, log_scale, ladj = self._parameters_at(context)
        return x * log_scale.exp() + bias, ladj

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Undoes the shift, then the scale."""
        bias, log_scale, ladj = self._parameters_at(context)
        return (y - bias) * (-log_scale).exp(), -ladj

    @torch.no_grad()
    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Sets s and b so that ``values`` have mean 0 and deviation 1 on the other side."""
        mean, std = moments(values.movedim(-1 - len(self.pixels), -1))
        bias, log_scale = (-mean / std, -std.log()) if at_input else (mean, std.log())
        self.affine.value.copy_(torch.cat([bias, log_scale]))
        self.initialized.fill_(True)


class Standardize(Transform):
    r"""y = \sigma x + \mu with the mean and deviation of the training data: fixed, and part of the density.

    A flow that ends in this transform works on standardised numbers and gives densities in data units. A
    constant column keeps deviation 1. Until ``initialize`` is called it is the identity.

    Args:
        features: Number of features D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("initialized", torch.tensor(False))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Goes from standardised numbers to data."""
        return x * self.std + self.mean, self.std.log().sum()

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Goes from data to standardised numbers."""
        return (y - self.mean) / self.std, -self.std.log().sum()

    @torch.no_grad()
    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Takes the moments of ``values``."""
        mean, std = moments(values)
        if at_input:
            mean, std = -mean / std, 1 / std
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.initialized.fill_(True)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and deviation per feature over all batch dimensions; a constant feature has deviation 1."""
    values = values.reshape(-1, values.shape[-1])
    mean = values.mean(0)
    std = (values - mean).square().mean(0).sqrt()
    negligible = torch.finfo(values.dtype).eps * mean.abs() * 4
    return mean, torch.where(std > negligible, std, 1.0)
