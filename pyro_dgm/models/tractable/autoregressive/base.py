r"""What all autoregressive models share: a conditioner and a head.

.. math::
    p(x | c) = \prod_i h\bigl(x_i; \theta_i(x_{<i}, c)\bigr)

Models whose network serves many orders (EoNADE, MADE with several masks) are the mixture of them,

.. math::
    p(x | c) = \frac{1}{K} \sum_{k=1}^K p(x | o_k, c)

and are trained by :class:`~pyro_dgm.objectives.OrderAgnostic`, on an order or a mask at a time.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ....distributions import Autoregressive, Mixture, heads
from ....nn import Conditioner, Walk
from ...base import TractableModel

if TYPE_CHECKING:
    from ....objectives import Objective

Head = heads.Head


class AutoregressiveModel(TractableModel):
    """A model with a head; its two kinds below say how they get at a conditioner.

    Args:
        event_shape: Shape of an event.
        head: The distribution of a number.
        context: Width of the context, 0 for none.
        standardize: Whether real numbers are standardised by the moments of the training data.
    """

    def __init__(self, event_shape: Sequence[int], head: Head, context: int = 0, standardize: bool = True) -> None:
        super().__init__(event_shape, context, head.support_of(torch.Size(event_shape)))
        self.head = in_data_units(head, self.event_shape, standardize)

    def _given(self, conditioner: Conditioner, context: Tensor | None) -> Autoregressive:
        return Autoregressive(realized(self, conditioner), self.head, context)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the units of real numbers to training data."""
        if isinstance(self.head, heads.Standardized):
            self.head.initialize(x)


class OneOrder(AutoregressiveModel):
    """A model of one order; subclasses say which network.

    Args:
        conditioner: The network.
        head: The distribution of a number.
        context: Width of the context, 0 for none.
        standardize: Whether real numbers are standardised by the moments of the training data.
    """

    def __init__(self, conditioner: Conditioner, head: Head, context: int = 0, standardize: bool = True) -> None:
        super().__init__(conditioner.event_shape, head, context, standardize)
        self.conditioner = conditioner

    def _distribution(self, context: Tensor | None) -> Autoregressive:
        return self._given(self.conditioner, context)


class ManyOrders(AutoregressiveModel):
    """A model of many orders; subclasses define ``orders``, a buffer (K, D), and the three methods below.

    The arguments are those of :class:`AutoregressiveModel`.
    """

    orders: Tensor
    all_orders = True
    """Whether it was trained for every order, so that ``given_order`` may be asked for any."""

    def conditioner(self, k: int) -> Conditioner:
        """Returns the network as the conditioner of member k."""
        raise NotImplementedError(f"{type(self).__name__} lacks conditioner")

    def given_order(self, order: Sequence[int], context: Tensor | None = None) -> Autoregressive:
        """Returns p(x | o, c), the distribution in one order.

        Args:
            order: Place of every number in the order, a permutation of 0..D-1.
            context: The context, with shape ``batch_shape + (context,)``.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks given_order")

    def order_agnostic_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns a random number whose mean is the mean of -log p(x | o, c) over data and orders, in nats."""
        raise NotImplementedError(f"{type(self).__name__} lacks order_agnostic_loss")

    def _distribution(self, context: Tensor | None) -> Autoregressive | Mixture:
        members = [self._given(self.conditioner(k), context) for k in range(len(self.orders))]
        return members[0] if len(members) == 1 else Mixture(members, self.orders.new_zeros(len(members)).float())

    def objective(self) -> "Objective":
        """Returns the expectation of -log p(x | o, c) over orders."""
        from ....objectives import OrderAgnostic

        return OrderAgnostic()


def in_data_units(head: Head, event_shape: torch.Size, standardize: bool) -> Head:
    """Returns the head in units that ``initialize`` finds, where all numbers are real and data are vectors."""
    real = head.support is constraints.real and not isinstance(head, heads.Columns) and len(event_shape) == 1
    return heads.Standardized(head, *event_shape) if standardize and real else head


def random_orders(features: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Returns orders, each the places of the numbers, with shape (count, D): the first is the natural one."""
    drawn = [torch.arange(features, device="cpu")]
    drawn += [torch.randperm(features, generator=generator, device="cpu") for _ in range(count - 1)]
    return torch.stack(drawn).to(torch.get_default_device())


def realized(model: TractableModel, conditioner: Conditioner) -> Conditioner:
    """Returns the conditioner with the weights drawn when the model was called, where weights have priors."""
    weights = model._random_weights()
    if not weights:
        return conditioner
    return _Realized(conditioner, partial(model._with_weights, weights), next(iter(weights.values())))


class _Realized(Conditioner):
    """A conditioner whose random weights are those drawn when the model was called, whenever it is evaluated."""

    def __init__(self, conditioner: Conditioner, drawn: Callable[[], AbstractContextManager], like: Tensor) -> None:
        nn.Module.__init__(self)
        self.inner, self.drawn = conditioner, drawn
        self.event_shape, self.in_per_feature = conditioner.event_shape, conditioner.in_per_feature
        self.order, self.sequence = conditioner.order, conditioner.sequence
        self.register_buffer("some_weight", like.detach())

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        with self.drawn():
            return self.inner(x, context)

    def walk(self, context: Tensor | None, size: int) -> Walk:
        with self.drawn():
            return _RealizedWalk(self, self.inner.walk(context, size))


class _RealizedWalk(Walk):
    """The walk through such a conditioner: it too sees those weights, whenever it looks."""

    def __init__(self, conditioner: _Realized, inner: Walk) -> None:
        self.conditioner, self.inner = conditioner, inner

    def output(self) -> Tensor:
        with self.conditioner.drawn():
            return self.inner.output()

    def see(self, x: Tensor) -> None:
        with self.conditioner.drawn():
            self.inner.see(x)

    def select(self, index: Tensor) -> None:
        self.inner.select(index)
