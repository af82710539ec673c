r"""Masked autoregressive transforms: every feature is transformed given those before it.

.. math::
    y_i = g\bigl(x_i; \theta_i(x_{<i}, c)\bigr), \qquad \log|\det J| = \sum_i \log \partial y_i / \partial x_i

One masked network gives all :math:`\theta_i` in one pass, so ``forward_and_ladj`` is parallel; the inverse
fills in one feature after another, in D steps that together cost the products of one pass, since no hidden unit is
computed twice. A flow built from this transform samples in one pass
(IAF: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, 2016, arXiv:1606.04934); a flow built from
its ``.inv`` scores data in one pass (MAF: Papamakarios, Pavlakou and Murray, 2017, arXiv:1705.07057).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .._shapes import broadcast_shapes
from ..nn import MaskedMLP, ShiftedReLU, leave_autocast, without_autocast
from .base import Pass, Transform, check_width
from .circular import Harmonics
from .univariate import Affine, Univariate


class MaskedAutoregressive(Transform):
    r"""An autoregressive transform with a masked MLP as conditioner; for one feature, an element-wise one.

    Args:
        features: Number of features D.
        univariate: The family :math:`g`; :class:`Affine` when ``None``.
        order: Place of every feature in the ordering, a permutation of 0..D-1; natural order when ``None``.
        hidden_features: Hidden widths, each at least D.
        context: Width of the context, 0 for none.
        activation: Class of the conditioner's activation.
        embed: How the conditioner sees a feature; as it is when ``None``, ``Harmonics()`` for angles.

    Example:
        >>> t = MaskedAutoregressive(3, order=[2, 1, 0])
        >>> y, ladj = t.forward_and_ladj(torch.zeros(10, 3))
    """

    def __init__(
        self,
        features: int,
        univariate: Univariate | None = None,
        order: Sequence[int] | None = None,
        hidden_features: Sequence[int] = (64, 64),
        context: int = 0,
        activation: type[nn.Module] = ShiftedReLU,
        *,
        embed: Harmonics | None = None,
    ) -> None:
        super().__init__()
        self.univariate = univariate or Affine()
        self.embed = embed
        size, gains, size_in = self.univariate.size, self.univariate.gains, 1 if embed is None else embed.size
        self.conditioner = MaskedMLP(
            features, size, hidden_features, order, context, activation, in_per_feature=size_in, gains=gains
        )

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Transforms all features in one pass."""
        y, ladj = self.univariate.forward_and_ladj(x, self._theta(x, context))
        return y, ladj.sum(-1)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Restores the features one after another, each given those before it; hidden units are computed once."""
        ladjs = []

        def inverse(y: Tensor, theta: Tensor) -> Tensor:
            x, ladj = self.univariate.inverse_and_ladj(y, theta)
            ladjs.append(ladj)
            return x

        x = self._restore(y, context, inverse)
        return x, torch.stack(ladjs).sum(0).reshape(x.shape[:-1])

    def inverse_value(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Restores the features without their slopes."""
        return self._restore(y, context, self.univariate.inverse_value)

    def _restore(self, y: Tensor, context: Tensor | None, inverse: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        check_width("MaskedAutoregressive", y, self.conditioner.features)
        y = leave_autocast(y)
        batch_shape = broadcast_shapes(y.shape[:-1], () if context is None else context.shape[:-1])
        columns = y.expand(*batch_shape, -1).reshape(-1, y.shape[-1]).mT.contiguous().unbind(0)
        if context is not None:
            context = leave_autocast(context).expand(*batch_shape, -1).reshape(-1, context.shape[-1])
        x = list(columns)
        with without_autocast(y):
            walk = self.conditioner.walk(context, batch_shape.numel())
            for i in self.conditioner.sequence:
                x[i] = inverse(columns[i], walk.output())
                walk.see(x[i][None] if self.embed is None else self.embed(x[i]).mT)
        return torch.stack(x).mT.contiguous().view(*batch_shape, -1)

    def _theta(self, x: Tensor, context: Tensor | None) -> Tensor:
        seen = x if self.embed is None else self.embed(x).flatten(-2)
        return leave_autocast(self.conditioner(seen, context))
