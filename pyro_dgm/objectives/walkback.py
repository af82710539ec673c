r"""Walkback: a chain that starts at a datum learns to come back to it.

.. math::
    L(x) = \sum_{k=1}^K w_k\; E\bigl[-\log p(x \,|\, h_k)\bigr], \qquad
    h_k \sim p(h \,|\, h_{k-1}, x_{k-1}), \quad x_k \sim p(x \,|\, h_k), \quad x_0 = x, \qquad
    w_k \propto \gamma^{k-1}

With K = 1 this is denoising: restore x from one corruption of it. The samples of such a model are bad where its chain
goes and no corrupted datum ever was, at spurious modes; a longer walk finds these places, and learns the way back.
Draws :math:`x_k` pass no gradient, hidden units do, through all steps.

A walk of random length, that goes on with probability :math:`\gamma` (algorithm 1 of Bengio, Yao, Alain and Vincent,
Generalized Denoising Auto-Encoders as Generative Models, 2013, arXiv:1305.6663), has the same expected loss, but for
the K-th step on; a fixed number of equal steps, :math:`\gamma = 1`, trains the networks of Bengio, Thibodeau-Laufer,
Alain and Yosinski, Deep Generative Stochastic Networks Trainable by Backprop, 2013, arXiv:1306.1091.
"""

from typing import Any

from torch import Tensor

from ..nn import at_least_float32
from .base import Objective, generative_model, penalised


class Walkback(Objective):
    r"""The mean of -log p(x | h_k) over the data and the steps of a walk away from them, in nats.

    It is no negative log-likelihood, and models with different corruptions cannot be compared by it.

    Args:
        steps: Number K of steps, 1 for denoising; a network of L hidden layers needs L before x has reached all of
            them, and twice as many before the highest is felt in x again.
        decay: The weight :math:`\gamma` of a step relative to the one before it.

    Raises:
        ValueError: If there is no step, or the weight is none in (0, 1].

    Example:
        >>> import torch
        >>> from pyro_dgm.models import GSN
        >>> Walkback(3)(GSN(4, (5, 5)))(torch.zeros(8, 4)).shape
        torch.Size([])
    """

    def __init__(self, steps: int = 5, decay: float = 1.0) -> None:
        super().__init__()
        if steps < 1 or not 0 < decay <= 1:
            raise ValueError(f"steps, decay: expected at least 1 and a weight in (0, 1], got {steps} and {decay}")
        self.steps, self.decay = steps, decay

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Walks and scores.

        Raises:
            ValueError: If the model has no ``walk``.
        """
        owner = generative_model(model)
        if not hasattr(owner, "walk"):
            raise ValueError(
                f"model: expected one with a method walk, such as GSN, got {type(owner or model).__name__}; use the "
                "model's own objective()"
            )
        x, c = (*batch, None)[:2]
        weights = [self.decay**k for k in range(self.steps)]
        with owner._pyro_context:  # tells SVI of the parameters, as a call of the model does
            walk = owner.walk(x, c, self.steps)
            losses = [-w * at_least_float32(p.log_prob(x)).mean() for w, p in zip(weights, walk, strict=True)]
        return sum(losses[1:], losses[0]) / sum(weights)
