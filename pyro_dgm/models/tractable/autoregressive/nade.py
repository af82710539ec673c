r"""NADE and its kin: neural autoregressive distribution estimators.

.. math::
    h_d = \sigma\bigl(c + U y + \textstyle\sum_{i < d} W_i x_i\bigr), \qquad \theta_d = b_d + V_d h_d, \qquad
    p(x | y) = \prod_d h(x_d; \theta_d)

with y the context (Larochelle and Murray, The Neural Autoregressive Distribution Estimator, 2011; for real numbers
Uria, Murray and Larochelle, RNADE, 2013, arXiv:1306.0186). EoNADE and ConvNADE train one network for all orders,

.. math::
    L = E_o\, E_k \Bigl[\frac{D}{D - k} \sum_{i > k} -\log p(x_{o_i} | x_{o_1 \dots o_k})\Bigr]
      = E_o[-\log p(x | o)], \qquad k \sim U\{0 \dots D - 1\}

at a network pass for each datum, and average p(x | o) over K orders (Uria, Murray and Larochelle, A Deep and Tractable
Density Estimator, 2014, arXiv:1310.1757; Uria, Cote, Gregor, Murray and Larochelle, 2016, arXiv:1605.02226).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....distributions import Autoregressive, heads
from ....distributions.autoregressive import fold
from ....nn import leave_autocast
from ....nn.nade import NADENetwork
from ....nn.orderless import Ordered, Orderless, OrderlessConvNet, OrderlessMLP
from .base import Head, ManyOrders, OneOrder, random_orders


class NADE(OneOrder):
    """Neural autoregressive distribution estimator: a hidden layer for every number, in O(D H) for density and sample.

    (Larochelle and Murray, 2011; Uria, Cote, Gregor, Murray and Larochelle, 2016, arXiv:1605.02226.)

    Args:
        features: Number of features D.
        context: Width of the context, 0 for none.
        hidden_features: Width H of the hidden layers.
        head: The distribution of a number; coins when ``None``.
        order: Place of every feature in the order, a permutation of 0..D-1; natural order when ``None``.
        activation: ``Sigmoid``, ``Tanh`` or ``ReLU`` of ``torch.nn``.
        standardize: Whether real numbers are standardised by the moments of the training data.

    Raises:
        ValueError: If the activation is another.

    Example:
        >>> NADE(4)().sample((3,)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        hidden_features: int = 500,
        head: Head | None = None,
        order: Sequence[int] | None = None,
        activation: type[nn.Module] = nn.Sigmoid,
        standardize: bool = True,
    ) -> None:
        head = head or heads.Bernoulli()
        conditioner = NADENetwork(
            features, head.size, hidden_features, order, context, activation, in_per_feature=head.size_in
        )
        super().__init__(conditioner, head, context, standardize)


class RNADE(OneOrder):
    """Real-valued NADE: every number is a mixture of normal distributions given those before it.

    The units are rectifiers, whose scale V takes up, so the paper's rescaling of activations has no use here. (Uria,
    Murray and Larochelle, 2013, arXiv:1306.0186.)

    Args:
        features: Number of features D.
        context: Width of the context, 0 for none.
        components: Number of components of each mixture.
        hidden_features: Width H of the hidden layers.
        head: Another distribution of a number, ``heads.LogisticMixture(10)`` say.
        order: Place of every feature in the order, a permutation of 0..D-1; natural order when ``None``.
        activation: ``Sigmoid``, ``Tanh`` or ``ReLU`` of ``torch.nn``.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> RNADE(4)().rsample((3,)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        components: int = 10,
        hidden_features: int = 50,
        head: Head | None = None,
        order: Sequence[int] | None = None,
        activation: type[nn.Module] = nn.ReLU,
        standardize: bool = True,
    ) -> None:
        head = head or heads.NormalMixture(components)
        conditioner = NADENetwork(
            features, head.size, hidden_features, order, context, activation, in_per_feature=head.size_in
        )
        super().__init__(conditioner, head, context, standardize)


class OrderlessModel(ManyOrders):
    """A model whose network restores unknown numbers, in any order; subclasses say which network.

    Args:
        network: The network.
        head: The distribution of a number.
        context: Width of the context, 0 for none.
        orders: Number K of orders that are averaged, of which the first is the natural one.
        seed: Seed of the orders.
        standardize: Whether real numbers are standardised by the moments of the training data.
    """

    def __init__(
        self, network: Orderless, head: Head, context: int, orders: int, seed: int, standardize: bool = True
    ) -> None:
        super().__init__(network.event_shape, head, context, standardize)
        if orders < 1:
            raise ValueError(f"orders: expected at least 1, got {orders}")
        self.network = network
        generator = torch.Generator("cpu").manual_seed(seed)
        self.register_buffer("orders", random_orders(self.event_shape.numel(), orders, generator))

    def conditioner(self, k: int) -> Ordered:
        """Returns the network in order k."""
        return Ordered(self.network, self.orders[k].tolist())

    def given_order(self, order: Sequence[int], context: Tensor | None = None) -> Autoregressive:
        """Returns p(x | o, c)."""
        self._check_context(context)
        return self._given(Ordered(self.network, order), context)

    def order_agnostic_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns, for random sets of k known numbers, the loss of the others times D / (D - k), mean over data.

        In each datum one number is unknown, and the others are known at a rate that is uniform on [0, 1]: k is then
        uniform on 0..D-1, and all sets of k are alike. (To sort random numbers would be slower by far.)
        """
        self._check_context(context)
        if torch.distributions.Distribution._validate_args:  # as a distribution's log_prob does
            self(context)._validate_sample(x)
        shape, size = self.event_shape, self.event_shape.numel()
        x = x if x.is_floating_point() else x.to(next(self.network.parameters()).dtype)
        batch_shape = x.shape[: x.dim() - len(shape)]
        noise = torch.rand(*batch_shape, size + 1, dtype=x.dtype, device=x.device)
        unknown = torch.randint(size, (*batch_shape, 1), device=x.device)
        rest = torch.arange(size, device=x.device) != unknown
        known = (rest & (noise[..., 1:] < noise[..., :1])).to(x.dtype)
        weight = size / (size - known.sum(-1))
        known = known.reshape(x.shape)
        theta = leave_autocast(self.network(fold(self.head.embed(x), len(shape)), known, context))
        scores = ((1 - known) * self.head.log_prob(x, theta)).flatten(-len(shape)).sum(-1)
        return -(weight * scores).mean()


class EoNADE(OrderlessModel):
    """Ensemble of NADEs in different orders, which share one network; with two or more hidden layers, DeepNADE.

    Any numbers can be imputed exactly, in an order that has the observed ones first. With one hidden layer the density
    costs O(D H) in each order; with more, D passes. (Uria, Murray and Larochelle, 2014, arXiv:1310.1757.)

    Args:
        features: Number of features D.
        context: Width of the context, 0 for none.
        hidden_features: Hidden widths.
        head: The distribution of a number; coins when ``None``.
        orders: Number K of orders that are averaged.
        activation: ``Sigmoid``, ``Tanh`` or ``ReLU`` of ``torch.nn``.
        seed: Seed of the orders.
        standardize: Whether real numbers are standardised by the moments of the training data.

    Example:
        >>> EoNADE(4, hidden_features=(8,), orders=2)().component_log_probs(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        hidden_features: Sequence[int] = (500,),
        head: Head | None = None,
        orders: int = 8,
        activation: type[nn.Module] = nn.ReLU,
        seed: int = 0,
        standardize: bool = True,
    ) -> None:
        head = head or heads.Bernoulli()
        network = OrderlessMLP(features, head.size, hidden_features, context, activation, in_per_feature=head.size_in)
        super().__init__(network, head, context, orders, seed, standardize)


class ConvNADE(OrderlessModel):
    """Convolutional NADE: a convolutional network that restores the unknown pixels of an image, in any order.

    Its density in an order costs as many passes as an image has numbers. (Uria, Cote, Gregor, Murray and Larochelle,
    2016, arXiv:1605.02226.)

    Args:
        event_shape: Shape of an image, (C, H, W).
        context: Width of the context, 0 for none.
        hidden_channels: Channels of the hidden layers.
        blocks: Number of residual blocks.
        head: The distribution of a number; coins when ``None``.
        orders: Number of orders that are averaged.
        activation: Class of the activation.
        seed: Seed of the orders.

    Example:
        >>> ConvNADE((1, 2, 2), hidden_channels=4, blocks=1)().sample().shape
        torch.Size([1, 2, 2])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context: int = 0,
        *,
        hidden_channels: int = 32,
        blocks: int = 2,
        head: Head | None = None,
        orders: int = 1,
        activation: type[nn.Module] = nn.ReLU,
        seed: int = 0,
    ) -> None:
        head = head or heads.Bernoulli()
        network = OrderlessConvNet(
            event_shape, head.size, hidden_channels, blocks, context, activation, in_per_feature=head.size_in
        )
        super().__init__(network, head, context, orders, seed)
