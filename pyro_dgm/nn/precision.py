r"""Where low precision ends: numbers that leave a network under ``torch.autocast``.

Mixed precision computes matrix products in bfloat16 or float16, which is right within a network and wrong behind it: a
log-determinant or a log-density is a sum of many terms, whose error would grow to whole nats,

.. math::
    \Bigl|\,\mathrm{fl}\Bigl(\sum_i \ell_i\Bigr) - \sum_i \ell_i\Bigr| \approx \epsilon \Bigl|\sum_i \ell_i\Bigr|,
    \qquad \epsilon_{\mathrm{bf16}} = 2^{-9}, \quad \epsilon_{\mathrm{f32}} = 2^{-24}

So whoever gives a network's numbers a meaning (the parameters of a transform or of a distribution, samples) takes them
through :func:`leave_autocast`, and what is a log-density, a score or a penalty is :func:`at_least_float32`. Neither
does anything to float32 and float64.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(t: Tensor) -> Tensor:
    """Returns half-precision numbers in float32, and others as they are."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def leave_autocast(t: Tensor) -> Tensor:
    """Returns numbers to which autocast gave half precision in float32, and others as they are.

    A model that is itself in half precision keeps it, since without autocast its next network accepts nothing else.

    Example:
        >>> network, x = torch.nn.Linear(3, 2), torch.zeros(5, 3)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     network(x).dtype, leave_autocast(network(x)).dtype
        (torch.bfloat16, torch.float32)
        >>> leave_autocast(network.bfloat16()(x.bfloat16())).dtype
        torch.bfloat16
    """
    return at_least_float32(t) if t.dtype.itemsize < 4 and _autocast_enabled(t) else t


def without_autocast(t: Tensor) -> AbstractContextManager:
    """Returns a context in which operations on the device of ``t`` keep the precision of their arguments."""
    return torch.autocast(t.device.type, enabled=False) if _autocast_enabled(t) else nullcontext()


def _autocast_enabled(t: Tensor) -> bool:
    device = t.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # "meta" knows no autocast
