r"""Numbers that an objective tells beside its loss: the divergence of every latent site, the effective sample size.

A posterior that has collapsed onto the prior shows in no loss; it shows in

.. math::
    \frac{1}{n} \sum_i \mathrm{KL}\bigl(q(z_s | x_i) \,\|\, p(z_s)\bigr) \approx 0

As with penalties (:mod:`pyro_dgm.nn.penalty`), whoever knows such a number says it, and nothing happens unless someone
listens. ``fit`` listens on validation data, and its history has a column for each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_listener: ContextVar[dict[str, Tensor] | None] = ContextVar("_listener", default=None)


@contextmanager
def reports() -> Iterator[dict[str, Tensor]]:
    """Within, collects what objectives report, by name; the innermost listener hears it.

    Example:
        >>> import torch
        >>> with reports() as found:
        ...     report("kl_z", torch.tensor([1.0, 3.0]))
        >>> found
        {'kl_z': tensor(2.)}
    """
    found: dict[str, Tensor] = {}
    token = _listener.set(found)
    try:
        yield found
    finally:
        _listener.reset(token)


def report(name: str, values: Tensor) -> None:
    """Reports the mean of one value per datum; in vain if nobody listens."""
    found = _listener.get()
    if found is not None:
        found[name] = values.detach().mean()
