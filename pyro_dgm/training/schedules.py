r"""Learning-rate schedules in the form that ``fit`` takes: a function of an optimizer and its number of steps.

============================ ===========================================================================
schedule                     learning rate
============================ ===========================================================================
:func:`one_cycle`            :math:`\eta / 25 \to \eta` over 30 % of the steps, then to :math:`\eta / 250{,}000`
:func:`warmup_cosine`        :math:`0 \to \eta` over the warm-up, then :math:`\tfrac{\eta}{2} (1 + \cos \pi t)`
:func:`warmup_constant`      :math:`0 \to \eta` over the warm-up, then :math:`\eta`
============================ ===========================================================================

Any schedule of ``torch.optim.lr_scheduler`` can be given likewise, as a lambda or with ``functools.partial``.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR


def one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """Rises to the optimizer's learning rate over the first 30 % of the steps, then falls to nearly zero by a cosine.

    Smith and Topin, Super-Convergence, 2017, arXiv:1708.07120.

    Args:
        optimizer: An optimizer whose learning rate is the peak.
        steps: Number of steps of the whole run.
    """
    return OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps, cycle_momentum=False
    )


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: float = 0.05) -> LambdaLR:
    """Rises linearly to the optimizer's learning rate, then falls to zero by half a cosine.

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2016, arXiv:1608.03983.

    Args:
        optimizer: An optimizer whose learning rate is the peak.
        steps: Number of steps of the whole run.
        warmup: Number of steps of the rise, or, below 1, their fraction of all steps.
    """
    return _warmed(optimizer, steps, warmup, lambda t: (1 + math.cos(math.pi * t)) / 2)


def warmup_constant(optimizer: Optimizer, steps: int, warmup: float = 0.05) -> LambdaLR:
    """Rises linearly to the optimizer's learning rate and stays there.

    Args:
        optimizer: An optimizer whose learning rate is the peak.
        steps: Number of steps of the whole run.
        warmup: Number of steps of the rise, or, below 1, their fraction of all steps.
    """
    return _warmed(optimizer, steps, warmup, lambda t: 1.0)


def _warmed(optimizer: Optimizer, steps: int, warmup: float, after: Callable[[float], float]) -> LambdaLR:
    """A rate that rises over the warm-up and then follows a function of the rest's fraction t."""
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup: expected a fraction of the steps, or fewer than all {steps} of them, got {warmup}")
    rise = round(warmup * steps if warmup < 1 else warmup)

    def factor(step: int) -> float:
        return (step + 1) / (rise + 1) if step < rise else after((step - rise) / max(1, steps - rise))

    return LambdaLR(optimizer, factor)
