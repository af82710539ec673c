r"""Learning-rate schedules in the form that ``fit`` takes: a function of an optimizer and its number of steps.

.. math::
    \eta_0 / 25 \;\to\; \eta_0 \;\to\; \eta_0 / 250{,}000

Any schedule of ``torch.optim.lr_scheduler`` can be given likewise, as a lambda or with ``functools.partial``.
"""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


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
