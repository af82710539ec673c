"""What shapes broadcast to, without the time that ``torch.broadcast_shapes`` takes, more than ten small kernels."""

import torch


def broadcast_shapes(*shapes: torch.Size | tuple[int, ...]) -> torch.Size:
    """Returns what shapes broadcast to: the longest, where each is the end of it, as nearly always.

    Raises:
        RuntimeError: If they do not broadcast.

    Example:
        >>> broadcast_shapes((5, 3), (3,)), broadcast_shapes((5, 1), (3,)), broadcast_shapes()
        (torch.Size([5, 3]), torch.Size([5, 3]), torch.Size([]))
    """
    longest = max(shapes, key=len, default=())
    if all(longest[len(longest) - len(shape) :] == shape for shape in shapes):
        return torch.Size(longest)
    return torch.broadcast_shapes(*shapes)
