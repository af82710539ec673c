r"""Coupling: part of the features, unchanged, decides how the rest is transformed.

.. math::
    y_A = x_A, \qquad y_B = g\bigl(x_B; \theta(x_A, c)\bigr)

The Jacobian is triangular, its log-determinant the sum of the logs of :math:`\partial g / \partial x_b`, and the
inverse costs what the forward pass costs, one evaluation of the network :math:`\theta`. Which family
:math:`g` comes from is an argument; so is the split A | B, any mask.
(Dinh, Krueger and Bengio, NICE, 2014, arXiv:1410.8516; Dinh, Sohl-Dickstein and Bengio, Density
estimation using Real NVP, 2016, arXiv:1605.08803.)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import MLP, Parameters, ShiftedReLU, leave_autocast
from .base import Pass, Transform, check_width
from .circular import Harmonics
from .univariate import Affine, Univariate


class Partition(nn.Module):
    """A vector's features in two parts, taken apart and put together; by views where the two alternate or follow.

    The mask is part of the state: what is loaded from a partition into as many features goes by that one's mask.

    Args:
        mask: One truth value per feature: true for those of the first part.
    """

    def __init__(self, mask: Sequence[bool]) -> None:
        super().__init__()
        a = [i for i, first in enumerate(mask) if first]
        b = [i for i, first in enumerate(mask) if not first]
        self.sizes = (len(a), len(b))
        self.register_buffer("a", torch.tensor(a))
        self.register_buffer("b", torch.tensor(b))
        position = {feature: i for i, feature in enumerate(a + b)}
        self.register_buffer("order", torch.tensor([position[i] for i in range(len(mask))]))
        self.recognize(list(mask))
        self.register_load_state_dict_post_hook(_recognize_again)

    def recognize(self, mask: list[bool]) -> None:
        """Notes which views, if any, take the two parts of a mask."""
        self.a_first = mask[0]
        self.alternate = mask == [self.a_first, not self.a_first] * (len(mask) // 2)
        self.follow = mask == sorted(mask, reverse=self.a_first)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the two parts."""
        if not (self.alternate or self.follow):
            return x.index_select(-1, self.a), x.index_select(-1, self.b)
        if self.follow:
            first, second = x.split_with_sizes(self.sizes if self.a_first else self.sizes[::-1], -1)
        else:
            first, second = x.view(*x.shape[:-1], self.sizes[0], 2).unbind(-1)
        return (first, second) if self.a_first else (second, first)

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Puts the two parts together; the first may have fewer batch dimensions."""
        if x_a.shape[:-1] != x_b.shape[:-1]:
            x_a = x_a.expand(*x_b.shape[:-1], -1)
        parts = (x_a, x_b) if self.a_first else (x_b, x_a)
        if self.follow:
            return torch.cat(parts, -1)
        if self.alternate:
            return torch.stack(parts, -1).flatten(-2)
        return torch.cat([x_a, x_b], -1).index_select(-1, self.order)


def _recognize_again(partition: Partition, _: Any) -> None:
    if not partition.order.is_meta:
        partition.recognize([place < partition.sizes[0] for place in partition.order.tolist()])


def alternating(features: int) -> list[list[bool]]:
    """Returns two masks for couplings in turn: every other feature, from the first on, and the rest.

    Args:
        features: Number of features D.

    Example:
        >>> alternating(3)
        [[True, False, True], [False, True, False]]
    """
    return [[(i + k) % 2 == 0 for i in range(features)] for k in range(2)]


def random_masks(features: int, number: int, seed: int = 0) -> list[list[bool]]:
    """Returns random masks for couplings in turn: a half of the features, the rest, another half, its rest, ...

    Features that alternating masks keep on one side in every layer come to decide about each other directly. The global
    random state is neither read nor changed.

    Args:
        features: Number of features D.
        number: Number of masks; one per coupling, say.
        seed: Another one gives other masks.

    Raises:
        ValueError: If there is no mask.

    Example:
        >>> from pyro_dgm.models import RealNVP
        >>> flow = RealNVP(6, transforms=8, masks=random_masks(6, 8))
    """
    if number < 1:
        raise ValueError(f"number: expected at least 1 mask, got {number}")
    generator = torch.Generator(device="cpu").manual_seed(seed)
    pairs = [torch.randperm(features, generator=generator, device="cpu").tolist() for _ in range(0, number, 2)]
    return [[place % 2 == k % 2 for place in pairs[k // 2]] for k in range(number)]


class Coupling(Transform):
    r"""A coupling transform with an MLP conditioner.

    Args:
        mask: One truth value per feature: true for those that stay and condition (A), false for those that
            are transformed (B). It is saved with the weights.
        univariate: The family :math:`g`; :class:`Affine` when ``None``.
        hidden_features: Hidden widths of the conditioner.
        context: Width of the context, 0 for none.
        activation: Class of the conditioner's activation.
        transform_all: Whether the features A are transformed too, by functions :math:`g(x_A; \theta_A(c))` that do not
            look at the data; B is conditioned on A as it was.
        embed: How the conditioner sees a feature; as it is when ``None``, ``Harmonics()`` for angles.

    Raises:
        ValueError: If the mask leaves nothing to condition on or nothing to transform.

    Example:
        >>> t = Coupling([True, False, True], context=2)
        >>> y, ladj = t.forward_and_ladj(torch.zeros(10, 3), torch.zeros(10, 2))
    """

    def __init__(
        self,
        mask: Sequence[bool] | Tensor,
        univariate: Univariate | None = None,
        hidden_features: Sequence[int] = (64, 64),
        context: int = 0,
        activation: type[nn.Module] = ShiftedReLU,
        *,
        transform_all: bool = False,
        embed: Harmonics | None = None,
    ) -> None:
        super().__init__()
        stays = [bool(m) for m in (mask.tolist() if isinstance(mask, Tensor) else mask)]
        if all(stays) or not any(stays):
            raise ValueError(
                f"mask: expected at least one true and one false among {len(stays)} features, got {stays}; "
                "use an autoregressive transform, which for one feature acts element by element"
            )
        self.univariate = univariate or Affine()
        size, gains = self.univariate.size, self.univariate.gains
        self.partition = Partition(stays)
        a, b = self.partition.sizes
        self.embed = embed
        seen = a if embed is None else a * embed.size
        self.conditioner = MLP(
            seen, b, hidden_features, context, activation, out_per_feature=size, zero=True, gains=gains
        )
        self.own = Parameters(a * size, context) if transform_all else None

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Transforms the features B given the features A, and A too, in one call of the family."""
        (x_a, x_b), g = self._split(x), self.univariate
        theta = self._theta(x_a, context)
        if self.own is None:
            y_b, ladj = g.forward_and_ladj(x_b, theta)
            return self.partition.join(x_a, y_b), ladj.sum(-1)
        parts, thetas = self.partition, (self._own(context), theta)
        if parts.follow:  # runs of features as they stand
            y, ladj = g.forward_and_ladj(x, thetas if parts.a_first else thetas[::-1])
            return y, ladj.sum(-1)
        y, ladj = g.forward_and_ladj(torch.cat([x_a, x_b], -1), thetas)
        return parts.join(*y.split(parts.sizes, -1)), ladj.sum(-1)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Restores the features A if need be, then the features B given them."""
        (y_a, y_b), g = self._split(y), self.univariate
        if self.own is None:
            x_b, ladj = g.inverse_and_ladj(y_b, self._theta(y_a, context))
            return self.partition.join(y_a, x_b), ladj.sum(-1)
        x_a, ladj_a = g.inverse_and_ladj(y_a, self._own(context))
        x_b, ladj_b = g.inverse_and_ladj(y_b, self._theta(x_a, context))
        return self.partition.join(x_a, x_b), ladj_a.sum(-1) + ladj_b.sum(-1)

    def inverse_value(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Restores all features without their slopes."""
        (y_a, y_b), g = self._split(y), self.univariate
        x_a = y_a if self.own is None else g.inverse_value(y_a, self._own(context))
        return self.partition.join(x_a, g.inverse_value(y_b, self._theta(x_a, context)))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_width("Coupling", x, sum(self.partition.sizes))
        return self.partition.split(x)

    def _theta(self, y_a: Tensor, context: Tensor | None) -> Tensor:
        seen = y_a if self.embed is None else self.embed(y_a).flatten(-2)
        return leave_autocast(self.conditioner(seen, context))

    def _own(self, context: Tensor | None) -> Tensor:
        return self.own(context).unflatten(-1, (-1, self.univariate.size))
