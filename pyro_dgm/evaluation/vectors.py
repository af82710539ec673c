r"""Samples as vectors: flattened and checked, seen by a feature network, and their distances in blocks.

Scores of samples compare x_1, ..., x_n with y_1, ..., y_m as points of a space in which Euclidean distance means
something. Pixels are not such a space, features of a network trained on data of the same kind may be one:

    f(x) = the output of any module or function, `embed(network, x)`, with shape `[n, D]`.

Which network it is belongs to the score: figures compare only where f is the same. Everything here is float64 from
the features on, and holds a bounded number of distances at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .likelihood import evaluating

_BLOCK_ENTRIES = 2**22  # distances held at once: 32 MiB in float64


def flat(x: Tensor, name: str) -> Tensor:
    """Samples as `[n, D]` in float64; refuses NaN and infinity, which every score would misread."""
    vectors = x.detach().reshape(len(x), -1).double()
    bad = int((~vectors.isfinite().all(1)).sum())
    if bad:
        raise ValueError(f"{name}: expected finite samples, got NaN or infinity in {bad} of {len(x)}.")
    return vectors


def pair(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y"), least: int = 1) -> tuple[Tensor, Tensor]:
    """Two sets of samples of one shape as `[n, D]` and `[m, D]`, moved by the mean of both, which no distance sees."""
    if x.dim() < 1 or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"{names[1]}: expected shape (m, *{tuple(x.shape[1:])}) as {names[0]} has, got {tuple(y.shape)}."
        )
    if min(len(x), len(y)) < least:
        raise ValueError(f"{', '.join(names)}: expected at least {least} samples of each, got {len(x)} and {len(y)}.")
    a, b = flat(x, names[0]), flat(y, names[1])
    mean = torch.cat([a, b]).mean(0)
    return a - mean, b - mean


def blocks(x: Tensor, columns: int) -> Iterator[Tensor]:
    """The rows of x, so many at a time that a row of numbers for each of `columns` fits into memory."""
    return iter(x.split(max(1, _BLOCK_ENTRIES // max(columns, 1))))


def embed(network: Callable[[Tensor], Tensor], x: Tensor, batch_size: int = 1000) -> Tensor:
    """Features of samples by any network: the space for `frechet_distance`, `kernel_distance` and `prdc`.

    A module is called in evaluation mode (batch normalisation by running statistics, no dropout) and is left in the
    mode in which it was found; no gradients are kept.

    Args:
        network: a module or function from a batch `[b] + event_shape` to features `[b, ...]`; say a classifier
            without its last layer.
        x: samples, with shape `[n] + event_shape`, n >= 1.
        batch_size: samples seen at a time.

    Returns:
        Features, with shape `[n, D]`, flattened.

    Raises:
        ValueError: there are no samples, or batch_size is less than 1.

    Example:
        >>> embed(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.zeros(5, 1, 4, 4)).shape
        torch.Size([5, 3])
    """
    if len(x) < 1 or batch_size < 1:
        raise ValueError(f"x, batch_size: expected at least 1 of each, got {len(x)} and {batch_size}.")
    with torch.no_grad(), evaluating(network if isinstance(network, nn.Module) else nn.Identity()):
        return torch.cat([network(batch).flatten(1) for batch in x.split(batch_size)])
