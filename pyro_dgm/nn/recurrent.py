r"""Networks of sequence models: a recurrent summary of what is to come, and the two networks of a deep Markov model.

.. math::
    h_t = \mathrm{GRU}(x_t, h_{t+1}), \qquad
    [\mu_t, s_t] = f(z_{t-1}), \qquad
    [\hat\mu_t, \hat s_t] = g(z_{t-1}, h_t)

Means and raw deviations of :math:`z_t` come out of f and g, in that order. (Krishnan, Shalit and Sontag, Structured
Inference Networks for Nonlinear State Space Models, 2016, arXiv:1609.09869.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mlp import MLP


class BackwardGRU(nn.Module):
    r"""Gated recurrent units that read a sequence from its end: every :math:`h_t` summarises :math:`x_t, \dots, x_T`.

    .. math::
        r = \sigma(W_r x_t + U_r h_{t+1}), \quad u = \sigma(W_u x_t + U_u h_{t+1}), \quad
        n = \tanh(W_n x_t + r \odot U_n h_{t+1}), \quad h_t = (1 - u) \odot n + u \odot h_{t+1}

    with biases. Steps that are not observed are passed over, :math:`h_t = h_{t+1}`. (Cho et al., Learning Phrase
    Representations using RNN Encoder-Decoder, 2014, arXiv:1406.1078.)

    Args:
        in_features: Width of :math:`x_t`.
        features: Width of :math:`h_t`.

    Example:
        >>> BackwardGRU(3, 8)(torch.zeros(5, 10, 3)).shape
        torch.Size([5, 10, 8])
    """

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        self.input = nn.Linear(in_features, 3 * features)
        self.recurrent = nn.Linear(features, 3 * features)
        self.end = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Maps (*, T, in_features), and which steps are observed, (*, T), to (*, T, features)."""
        inputs = self.input(x)
        h = self.end.expand(*x.shape[:-2], -1)
        states = []
        for t in reversed(range(x.shape[-2])):
            r, u, n = inputs[..., t, :].chunk(3, -1)
            of_r, of_u, of_n = self.recurrent(h).chunk(3, -1)
            u = torch.sigmoid(u + of_u)
            n = torch.tanh(n + torch.sigmoid(r + of_r) * of_n)
            new = n + u * (h - n)
            h = new if observed is None else torch.where(observed[..., t, None], new, h)
            states.append(h)
        return torch.stack(states[::-1], -2)


class GatedTransition(nn.Module):
    r"""The parameters of :math:`p(z_t | z_{t-1})`, between a linear map and a network, as a gate says.

    .. math::
        g = \sigma(\mathrm{MLP}(z)), \quad h = \mathrm{MLP}(z), \quad
        \mu = (1 - g) \odot (W z + b) + g \odot h, \quad s = V \mathrm{relu}(h) + a

    W starts as the identity and b as zero: a random walk, as far as the gate leaves it.

    Args:
        latent: Width of z.
        context: Width of a context that follows z in the input, 0 for none; the linear map does not see it.
        hidden_features: Hidden widths of the networks.
        activation: Class of their activation.

    Example:
        >>> GatedTransition(4)(torch.zeros(5, 4)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        latent: int,
        context: int = 0,
        hidden_features: Sequence[int] = (64,),
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.latent = latent
        self.gate = MLP(latent + context, latent, hidden_features, activation=activation)
        self.proposed = MLP(latent + context, latent, hidden_features, activation=activation)
        self.linear = nn.Linear(latent, latent)
        self.scale = nn.Linear(latent, latent)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Maps [z, c], shape (*, latent + context), to means and raw deviations, shape (*, 2 latent)."""
        gate, proposed, linear = torch.sigmoid(self.gate(z)), self.proposed(z), self.linear(z[..., : self.latent])
        return torch.cat([linear + gate * (proposed - linear), self.scale(torch.relu(proposed))], -1)


class Combiner(nn.Module):
    r"""The parameters of :math:`q(z_t | z_{t-1}, x_{t:T})`, from the state before and a summary of the data to come.

    .. math::
        [\hat\mu, \hat s] = W\, \tfrac{1}{2} \bigl(\tanh(V z + b) + h\bigr) + a

    Args:
        latent: Width of z.
        features: Width of h.

    Example:
        >>> Combiner(4, 8)(torch.zeros(5, 12)).shape
        torch.Size([5, 8])
    """

    def __init__(self, latent: int, features: int) -> None:
        super().__init__()
        self.state = nn.Linear(latent, features)
        self.head = nn.Linear(features, 2 * latent)

    def forward(self, z_and_h: Tensor) -> Tensor:
        """Maps [z, h], shape (*, latent + features), to means and raw deviations, shape (*, 2 latent)."""
        z, h = z_and_h.split([self.state.in_features, self.state.out_features], -1)
        return self.head(0.5 * (torch.tanh(self.state(z)) + h))
