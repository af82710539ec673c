r"""Penalties that a part of a model adds to the loss it is trained with, computed where they cost least.

A regulariser such as :math:`\lambda\, E \int |f|^2 dt` of a continuous flow is known only inside the pass that computes
the density. A part that has one asks whether a loss is listening and, if so, says it:

.. math::
    L = L_0 + \sum_k \lambda_k\, \mathrm{mean}(r_k)

Without a listener nothing is computed; parts in evaluation mode stay silent, so a validation loss has no penalties.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_listener: ContextVar[list[Tensor] | None] = ContextVar("_listener", default=None)


@contextmanager
def penalties() -> Iterator[list[Tensor]]:
    """Within, collects what parts add; the innermost listener hears it.

    Example:
        >>> import torch
        >>> with penalties() as found:
        ...     add_penalty(torch.ones(()))
        >>> found
        [tensor(1.)]
    """
    found: list[Tensor] = []
    token = _listener.set(found)
    try:
        yield found
    finally:
        _listener.reset(token)


def penalties_wanted() -> bool:
    """Whether a loss is listening."""
    return _listener.get() is not None


def add_penalty(value: Tensor) -> None:
    """Adds a scalar, in the unit of the loss; in vain if no loss is listening."""
    found = _listener.get()
    if found is not None:
        found.append(value)
