r"""An autoregressive model of your own network.

.. math::
    p(x | c) = \prod_i h\bigl(x_i; \theta_i(x_{<i}, c)\bigr)

Any :class:`~pyro_dgm.nn.Conditioner` gives :math:`\theta`: a subclass with ``forward`` alone works, and samples by
running the network D times; one with a ``walk`` of its own samples as fast as it can.
"""

import torch
from torch import Tensor

from ....distributions.autoregressive import fold
from ....nn import Conditioner
from .base import Head, OneOrder


class Autoregressive(OneOrder):
    """An autoregressive model of a network that you bring.

    Args:
        conditioner: The network; it must not let a number see itself or a later one (:meth:`check` looks).
        head: The distribution of a number, which takes as many parameters as the network gives.
        context: Width of the context, 0 for none.
        standardize: Whether real numbers are standardised by the moments of the training data.

    Raises:
        ValueError: If the head shows a number by more or fewer numbers than the network sees, or takes more or fewer
            parameters than it gives.

    Example:
        >>> from pyro_dgm.distributions.heads import Normal
        >>> from pyro_dgm.nn import MaskedMLP
        >>> Autoregressive(MaskedMLP(3, 2, (8,)), Normal())().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(self, conditioner: Conditioner, head: Head, context: int = 0, standardize: bool = True) -> None:
        if head.size_in != conditioner.in_per_feature:
            raise ValueError(
                f"conditioner: expected one with in_per_feature={head.size_in}, by which the head shows a number, got "
                f"{conditioner.in_per_feature}"
            )
        given = getattr(conditioner, "out_per_feature", head.size)
        if given != head.size:
            raise ValueError(
                f"conditioner: expected one with out_per_feature={head.size}, the parameters of the head, got {given}"
            )
        super().__init__(conditioner, head, context, standardize)

    def check(self, x: Tensor, context: Tensor | None = None) -> None:
        """Looks for a number whose parameters depend on itself or on a later one, by gradients at a datum.

        Args:
            x: A datum, with shape ``event_shape``; ordinary ones are better than zeros.
            context: Its context, with shape (context,).

        Raises:
            ValueError: With the first such number.
        """
        self._check_context(context)
        network, sequence = self.conditioner, self.conditioner.sequence
        seen = fold(self.head.embed(x), len(self.event_shape)).detach().requires_grad_()
        theta = network(seen, context).flatten(0, -2)
        for step, i in enumerate(sequence):
            (slope,) = torch.autograd.grad(theta[i].sum(), seen, retain_graph=True)
            slope = slope.reshape(self.event_shape[0], network.in_per_feature, -1).abs().sum(1).flatten()
            if slope[sequence[step:]].any():
                raise ValueError(f"conditioner: the parameters of number {i} depend on itself or on a later one")
