r"""Fully visible belief networks, and masked autoencoders.

.. math::
    p(x | c) = \prod_i h\bigl(x_i; \theta_i(x_{<i}, c)\bigr), \qquad
    \theta_i = b_i + A_i x_{<i} + V_i\, g(x_{<i}, c)

The fully visible belief network has the linear part alone, logistic regressions for coins (Neal, Connectionist Learning
of Belief Networks, 1992; Frey, Hinton and Dayan, 1996). MADE has an MLP g whose masks let every output see the inputs
before it, and the linear part if ``direct`` (Germain, Gregor, Murray and Larochelle, MADE: Masked Autoencoder for
Distribution Estimation, 2015, arXiv:1502.03509).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....distributions import Autoregressive, heads
from ....nn import Conditioner, MaskedMLP
from ....nn.masked import Degrees, hidden_degrees
from ....nn.orderless import Remasked
from ....nn.walk import permutation
from .base import Head, ManyOrders, OneOrder


class FVBN(OneOrder):
    """Fully visible belief network: a linear regression of every number on those before it.

    (Neal, 1992; compared in Germain, Gregor, Murray and Larochelle, 2015, arXiv:1502.03509.)

    Args:
        features: Number of features D.
        context: Width of the context, 0 for none.
        head: The distribution of a number; coins when ``None``.
        order: Place of every feature in the order, a permutation of 0..D-1; natural order when ``None``.
        standardize: Whether real numbers are standardised by the moments of the training data.

    Example:
        >>> FVBN(4)().log_prob(torch.zeros(4)).exp().item()
        0.0625
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        head: Head | None = None,
        order: Sequence[int] | None = None,
        standardize: bool = True,
    ) -> None:
        head = head or heads.Bernoulli()
        conditioner = MaskedMLP(features, head.size, (), order, context, in_per_feature=head.size_in)
        super().__init__(conditioner, head, context, standardize)


class MADE(ManyOrders):
    r"""Masked autoencoder: density in one pass, samples in D steps that together cost one.

    With several masks the model is the mixture over them, and training takes one at a time: the K fixed ones in turn at
    random, or fresh ones for every batch (``fresh``, of which the K fixed ones are then a sample).

    Args:
        features: Number of features D.
        context: Width of the context, 0 for none.
        hidden_features: Hidden widths.
        head: The distribution of a number; coins when ``None``.
        order: Place of every feature in the order of the first mask; natural order when ``None``.
        masks: Number K of masks; each but the first has random connections.
        random_order: Whether each mask but the first has a random order too (order-agnostic training).
        fresh: Whether training draws new masks for every batch.
        direct: Whether outputs see the inputs before them by a linear map too. Needed for layers narrower than D - 1.
        residual: Whether hidden layers, of equal widths then, add to the one before.
        activation: Class of the activation.
        seed: Seed of the masks.
        standardize: Whether real numbers are standardised by the moments of the training data.

    Raises:
        ValueError: If a layer is too narrow, or there is no mask.

    Example:
        >>> p = MADE(4, hidden_features=(8,))()
        >>> p.log_prob(p.enumerate_support()).exp().sum().round()
        tensor(1., grad_fn=<RoundBackward0>)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        hidden_features: Sequence[int] = (500,),
        head: Head | None = None,
        order: Sequence[int] | None = None,
        masks: int = 1,
        random_order: bool = False,
        fresh: bool = False,
        direct: bool = True,
        residual: bool = False,
        activation: type[nn.Module] = nn.ReLU,
        seed: int = 0,
        standardize: bool = True,
    ) -> None:
        head = head or heads.Bernoulli()
        if masks < 1:
            raise ValueError(f"masks: expected at least 1, got {masks}")
        super().__init__((features,), head, context, standardize)
        self.network = MaskedMLP(
            features, head.size, hidden_features, order, context, activation,
            in_per_feature=head.size_in, direct=direct, residual=residual,
        )  # fmt: skip
        self.masks, self.random_order, self.fresh, self.residual = masks, random_order, fresh, residual
        self.all_orders = random_order and fresh
        self.widths = list(hidden_features)
        generator = torch.Generator("cpu").manual_seed(seed)
        lowest = self.network.lowest
        hidden = tuple(torch.tensor(hidden_degrees(features, width, lowest), device="cpu") for width in self.widths)
        members = [Degrees(torch.tensor(self.network.order, device="cpu") + 1, hidden)]
        members += [self._drawn(members[0].inputs, generator) for _ in range(masks - 1)]
        place = torch.get_default_device()
        self.register_buffer("orders", torch.stack([member.inputs for member in members]).to(place) - 1)
        joined = [torch.cat([member.inputs[:0], *member.hidden]) for member in members]
        self.register_buffer("degrees", torch.stack(joined).to(place))

    def _drawn(self, inputs: Tensor, generator: torch.Generator | None = None) -> Degrees:
        """Draws degrees, those of the inputs only if orders are random."""
        features, lowest, device = len(inputs), self.network.lowest, inputs.device
        if self.random_order:
            inputs = torch.randperm(features, generator=generator, device=device) + 1
        hidden: list[Tensor] = []
        for width in self.widths:  # residual layers are units of one kind, so they share their degrees
            shared = self.residual and hidden
            drawn = (lowest, max(features - 1, lowest) + 1, (width,))
            hidden.append(hidden[0] if shared else torch.randint(*drawn, generator=generator, device=device))
        return Degrees(inputs, tuple(hidden))

    def _degrees(self, k: int | Tensor) -> Degrees:
        orders, degrees = (t[k].flatten() for t in (self.orders, self.degrees))
        return Degrees(orders + 1, degrees.split(self.widths))

    def conditioner(self, k: int) -> Conditioner:
        """Returns the network with mask k."""
        return self.network if k == 0 else Remasked(self.network, self._degrees(k))

    def given_order(self, order: Sequence[int], context: Tensor | None = None) -> Autoregressive:
        """Returns p(x | o, c), with the connections of the first mask; trained for if orders are random."""
        self._check_context(context)
        inputs = torch.tensor(permutation(order, self.orders.shape[-1]), device=self.orders.device) + 1
        conditioner = Remasked(self.network, Degrees(inputs, self._degrees(0).hidden))
        return self._given(conditioner, context)

    def order_agnostic_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the mean of -log p(x | mask, c) over data, with a mask drawn for this batch."""
        if self.masks == 1 and not self.fresh:
            return -self(context).log_prob(x).mean()
        self._check_context(context)
        if self.fresh:
            degrees = self._drawn(self.orders[0] + 1)
        else:
            degrees = self._degrees(torch.randint(self.masks, (1,), device=self.orders.device))
        return -self._given(Remasked(self.network, degrees), context).log_prob(x).mean()
