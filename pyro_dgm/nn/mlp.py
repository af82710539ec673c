r"""Multilayer perceptrons with a context, and parameters that may depend on one.

.. math::
    h_1 = W_1 x + V c + b_1, \qquad h_{l+1} = W_{l+1} \sigma(h_l) + b_{l+1}

with input :math:`x`, context :math:`c`, activation :math:`\sigma`. The last :math:`h` is the output.
Input and context are batched independently and broadcast.

Where several numbers are given per output feature, the last product is :math:`W h^\top`: memory then holds them number
by number, feature by feature, the data innermost, so that work on one number after another runs at full width.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._config import Configured
from .activation import in_place
from .precision import leave_autocast


def zero_(linear: nn.Linear) -> nn.Linear:
    """Sets a layer's weight and bias to zero in place, so that what it parametrises starts at its neutral."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Table(nn.Linear):
    """A linear map to several numbers per feature, whose rows run over numbers, then features.

    Args:
        in_features: Width of the input.
        features: Number of features.
        out_per_feature: Numbers per feature.
        bias: Whether there is a bias.
        gains: What each of a feature's numbers is multiplied by; nothing when ``None``.

    Example:
        >>> Table(8, 3, 2)(torch.zeros(5, 8)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        out_per_feature: int,
        bias: bool = True,
        gains: Sequence[float] | None = None,
    ) -> None:
        super().__init__(in_features, features * out_per_feature, bias)
        self.features = features
        self.register_buffer("gains", of_rows(gains, self))

    def forward(self, h: Tensor) -> Tensor:
        """Maps (*, in_features) to (*, features, out_per_feature)."""
        return table(h, *amplified(self), self.features)


def of_rows(gains: Sequence[float] | None, layer: nn.Linear) -> Tensor | None:
    """Returns the gain of every row of a layer that gives as many numbers for every feature, a column."""
    if gains is None:
        return None
    return layer.weight.detach().new_tensor(gains).repeat_interleave(layer.out_features // len(gains))[:, None]


def amplified(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Returns weight and bias of a layer, times its gains if it has any: cheaper than the outputs times these."""
    weight, bias, gains = layer.weight, layer.bias, getattr(layer, "gains", None)
    if gains is None:
        return weight, bias
    return gains * weight, None if bias is None else gains[:, 0] * bias


def table(h: Tensor, weight: Tensor, bias: Tensor | None, features: int) -> Tensor:
    """Applies the linear map of a :class:`Table` with this weight and bias."""
    if len(weight) <= 2 * features:  # for so few numbers the order in memory repays no further step
        out = F.linear(h, weight, bias)
        return out.view(*out.shape[:-1], -1, features).mT
    out = weight @ h.reshape(-1, h.shape[-1]).mT
    if bias is not None:
        out = out + bias.to(out.dtype)[:, None]  # addmm would first copy the bias, element by element
    return out.view(-1, features, *h.shape[:-1]).movedim((1, 0), (-2, -1))


class MLP(nn.Module):
    r"""A multilayer perceptron :math:`f(x, c)`.

    Args:
        in_features: Width of the input :math:`x`.
        out_features: Width of the output.
        hidden_features: Widths of the hidden layers; empty for a linear map.
        context: Width of the context :math:`c`, 0 for none.
        activation: Class of the activation, e.g. ``torch.nn.SiLU``.
        out_per_feature: Numbers per feature of the output, a last dimension; none when ``None``.
        zero: Whether the last layer starts at zero, so that the output does.
        gains: With ``out_per_feature``, what each of these numbers is multiplied by; nothing when ``None``.

    Example:
        >>> f = MLP(3, 2, hidden_features=(8,), context=5)
        >>> f(torch.zeros(10, 3), torch.zeros(4, 1, 5)).shape
        torch.Size([4, 10, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (64, 64),
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        *,
        out_per_feature: int | None = None,
        zero: bool = False,
        gains: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        last = nn.Linear if out_per_feature is None else partial(Table, out_per_feature=out_per_feature, gains=gains)
        kinds = [*[nn.Linear] * len(hidden_features), last]
        inputs, outputs = [in_features, *hidden_features], [*hidden_features, out_features]
        layers = [kind(n, m) for kind, n, m in zip(kinds, inputs, outputs, strict=True)]
        if zero:
            zero_(layers[-1])
        self.layers = nn.ModuleList(layers)
        self.context = kinds[0](context, outputs[0], bias=False) if context else None
        if zero and self.context is not None and len(layers) == 1:
            nn.init.zeros_(self.context.weight)
        self.activation = in_place(activation)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps ``x`` with shape (*, in_features) and ``context`` with shape (*, context) to (*, out_features)."""
        first, *others = self.layers
        h = first(x)
        if self.context is not None:
            h = h + self.context(context)
        sigma = self.activation
        for layer in others:
            h = layer(sigma(h))
        return h


class GatedMLP(Configured, nn.Module):
    r"""A multilayer perceptron of gated layers, :math:`h \leftarrow (A h + a) \odot \sigma(B h + b)`.

    (Tomczak and Welling, VAE with a VampPrior, 2017, arXiv:1705.07120.)

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        hidden_features: Widths of the gated layers; the last layer is linear.

    Example:
        >>> GatedMLP(784, 80)(torch.zeros(5, 784)).shape
        torch.Size([5, 80])
    """

    def __init__(self, in_features: int, out_features: int, hidden_features: Sequence[int] = (300, 300)) -> None:
        super().__init__()
        widths = [in_features, *hidden_features]
        layers: list[nn.Module] = []
        for n, m in pairwise(widths):
            layers += [nn.Linear(n, 2 * m), nn.GLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (*, in_features) to (*, out_features)."""
        return self.layers(x)


class Parameters(nn.Module):
    r"""A parameter vector that is free, or a function of the context: :math:`\theta` or :math:`\theta(c)`.

    Free parameters start at zero, and so does the network with ``zero``: give zero a neutral meaning.

    Args:
        size: Number of parameters.
        context: Width of the context, 0 for free parameters.
        hidden_features: Hidden widths of the network that reads the context.
        activation: Class of its activation.
        zero: Whether the network starts at zero, whatever the context.
    """

    def __init__(
        self,
        size: int,
        context: int = 0,
        hidden_features: Sequence[int] = (),
        activation: type[nn.Module] = nn.ReLU,
        *,
        zero: bool = True,
    ) -> None:
        super().__init__()
        if context:
            self.network = MLP(context, size, hidden_features, activation=activation, zero=zero)
        else:
            self.value = nn.Parameter(torch.zeros(size))

    def forward(self, context: Tensor | None = None) -> Tensor:
        """Returns the parameters, with shape (size,) when free, else ``context.shape[:-1] + (size,)``."""
        return leave_autocast(self.network(context)) if "network" in self._modules else self.value


class EventMLP(nn.Module):
    """A multilayer perceptron between events of any shape.

    Args:
        event_shape: Shape of an input.
        out_shape: Shape of an output.
        hidden_features: Hidden widths.
        context: Width of the context, 0 for none.
        activation: Class of the activation.
    """

    def __init__(
        self,
        event_shape: torch.Size,
        out_shape: torch.Size,
        hidden_features: Sequence[int],
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.network = MLP(event_shape.numel(), out_shape.numel(), hidden_features, context, activation)
        self.event_dim, self.out_shape = len(event_shape), out_shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps x with shape (*, *event_shape) and the context, shape (*, context), to (*, *out_shape)."""
        y = self.network(x.flatten(-self.event_dim) if self.event_dim else x.unsqueeze(-1), context)
        return y.reshape(y.shape[:-1] + self.out_shape)
