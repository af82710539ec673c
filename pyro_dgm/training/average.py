r"""The exponential moving average of the weights, which generalises better than the last of them.

.. math::
    \bar\theta_t = d_t\, \bar\theta_{t-1} + (1 - d_t)\, \theta_t, \qquad
    d_t = \min\Bigl(d, \frac{1 + t}{10 + t}\Bigr)

The decay starts low, so that the initial weights are forgotten at once. (Polyak and Juditsky, Acceleration of
stochastic approximation by averaging, 1992; in generative models: Karras, Aila, Laine and Lehtinen, 2017,
arXiv:1710.10196.)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .parts import copy_


class Average:
    """The moving average of some parameters.

    Args:
        parameters: The parameters.
        decay: The greatest decay d, e.g. 0.999.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters = [p.detach() for p in parameters]
        self.decay, self.count = decay, 0
        self.average = [p.clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the present weights in."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the parameters hold their average."""
        present = [p.clone() for p in self.parameters]
        copy_(self.parameters, self.average)
        try:
            yield
        finally:
            copy_(self.parameters, present)

    @torch.no_grad()
    def settle(self) -> None:
        """The parameters become their average, where it is finite."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.copy_(torch.where(average.isfinite(), average, parameter))

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint needs."""
        return {"average": self.average, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        copy_(self.average, state["average"])
        self.count = state["count"]
