"""Shapes of events, as users give them, and what shapes broadcast to."""

from collections.abc import Sequence
from numbers import Integral

import torch


def as_shape(event_shape: int | Sequence[int], name: str = "event_shape") -> torch.Size:
    """Returns the shape of an event, given it or a number of features.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> as_shape(3), as_shape((1, 28, 28))
        (torch.Size([3]), torch.Size([1, 28, 28]))
    """
    sizes = [event_shape] if isinstance(event_shape, Integral) else event_shape
    if not isinstance(sizes, Sequence) or not all(isinstance(size, Integral) for size in sizes):
        raise ValueError(f"{name}: expected a number of features or the sizes of a shape, got {event_shape!r}")
    return torch.Size([int(size) for size in sizes])


def as_image_shape(event_shape: Sequence[int], name: str = "event_shape") -> torch.Size:
    """Returns the shape (C, H, W) of an image.

    Raises:
        ValueError: If it is none.

    Example:
        >>> as_image_shape([1, 28, 28])
        torch.Size([1, 28, 28])
    """
    shape = as_shape(event_shape, name)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{name}: expected the shape (C, H, W) of an image, got {tuple(shape)}")
    return shape


def broadcast_shapes(*shapes: torch.Size | tuple[int, ...]) -> torch.Size:
    """Returns what shapes broadcast to: the longest, where each is the end of it, as nearly always.

    ``torch.broadcast_shapes`` takes longer than ten small kernels.

    Raises:
        RuntimeError: If they do not broadcast.

    Example:
        >>> broadcast_shapes((5, 3), (3,)), broadcast_shapes((5, 1), (3,)), broadcast_shapes()
        (torch.Size([5, 3]), torch.Size([5, 3]), torch.Size([]))
    """
    longest: torch.Size | tuple[int, ...] = ()
    for shape in shapes:
        longest = shape if len(shape) > len(longest) else longest
    if not torch.compiler.is_compiling() and all(longest[len(longest) - len(shape) :] == shape for shape in shapes):
        return torch.Size(longest)
    return torch.broadcast_shapes(*shapes)
