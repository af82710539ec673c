r"""Greedy training: a deep model learns layer by layer, each layer as a small machine of its own.

.. math::
    \theta_l \leftarrow \arg\min_\theta L_l(h_{l-1}; \theta), \qquad h_0 = x, \quad h_l \sim p(h_l | h_{l-1}; \theta_l)

(Hinton, Osindero and Teh, A fast learning algorithm for deep belief nets, 2006; for deep Boltzmann machines
Salakhutdinov and Hinton, 2009.) A model that can be trained so says how by a generator, ``stages(x)``: it yields what
is to be trained and its data, and goes on to the next layer, whose data the layer just trained has made, when asked.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from .fit import fit
from .history import History


class Layered(Protocol):
    """A model that is trained layer by layer."""

    def stages(self, x: Tensor) -> Iterable[tuple[nn.Module, Tensor]]:
        """Yields what is to be trained, and its data, one layer after the other."""


def pretrain(model: Layered, x: Tensor, **settings: Any) -> list[History]:
    """Trains a model layer by layer, in place: :class:`~pyro_dgm.models.DBN`, :class:`~pyro_dgm.models.DBM`.

    It is no more than ``[fit(layer, data, **settings) for layer, data in model.stages(x)]``: write the loop yourself
    where layers are to have settings of their own.

    Args:
        model: A model with ``stages``.
        x: Data, with shape ``(n,) + event_shape``.
        settings: Settings of :func:`fit`.

    Returns:
        The history of every layer.

    Raises:
        ValueError: If the model has no layers.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import DBM
        >>> x = torch.rand(64, 5).round()
        >>> len(pretrain(DBM(5, (4, 3)), x, max_epochs=2, seed=0, progress=False))
        2
    """
    if not hasattr(model, "stages"):
        raise ValueError(f"model: expected one with stages(x), such as DBN or DBM, got {type(model).__name__}; use fit")
    return [fit(layer, data, **settings) for layer, data in model.stages(x)]
