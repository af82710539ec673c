r"""Spectral normalisation: layers whose slope is one.

.. math::
    \bar W = W / \sigma(W), \qquad \sigma(W) = \max_{\|h\|_2 = 1} \|W h\|_2 \approx \|W v\|_2, \qquad
    v \leftarrow \frac{W^\top u}{\|W^\top u\|_2}, \quad u \leftarrow \frac{W v}{\|W v\|_2}

one such iteration whenever a layer is used in training, which suffices since W moves slowly. Gradients go through W in
:math:`\|W v\|`, the vectors being constants. A convolution counts as the matrix (channels out, all others). A network
of such layers and of activations with slopes up to 1 is Lipschitz, which keeps a critic smooth. (Miyato, Kataoka,
Koyama and Yoshida, Spectral Normalization for Generative Adversarial Networks, 2018, arXiv:1802.05957.)

Torch's own parametrisation cannot be pickled; this one is a layer around a layer, with u as its only state.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._config import Configured
from .precision import without_autocast

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class SpectralNorm(Configured, nn.Module):
    """A layer used with its weight divided by its largest singular value.

    Args:
        layer: A linear layer or a convolution; its parameters go on being its own.
        start: Iterations at construction.

    Attributes:
        layer: The layer.
        u: The left singular vector as it is known, with shape (out,).

    Raises:
        ValueError: If the layer is neither.

    Example:
        >>> layer = SpectralNorm(nn.Linear(3, 2))
        >>> layer(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    u: Tensor

    def __init__(self, layer: nn.Module, start: int = 15) -> None:
        super().__init__()
        if not isinstance(layer, LAYERS):
            raise ValueError(f"layer: expected a linear layer or a convolution, got a {type(layer).__name__}")
        self.layer = layer
        self.transposed = getattr(layer, "transposed", False)  # its channels out come second
        with torch.no_grad():
            w = self._matrix(layer.weight)
            u = F.normalize(torch.randn_like(w[:, 0]), dim=0)
            for _ in range(start):
                u = F.normalize(w @ F.normalize(w.mT @ u, dim=0), dim=0)
        self.register_buffer("u", u)

    def weight(self) -> Tensor:
        """Returns the normalised weight; in training the vector u moves on."""
        w = self.layer.weight
        with without_autocast(w):
            matrix = self._matrix(w)
            with torch.no_grad():
                v = F.normalize(matrix.mT @ self.u, dim=0)
                if self.training:
                    self.u.copy_(F.normalize(matrix @ v, dim=0))
            sigma = torch.linalg.vector_norm(matrix @ v)
            return w / sigma.clamp_min(torch.finfo(w.dtype).tiny)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Calls the layer with the normalised weight."""
        return torch.func.functional_call(self.layer, {"weight": self.weight()}, inputs)

    def _matrix(self, w: Tensor) -> Tensor:
        return (w.transpose(0, 1) if self.transposed else w).flatten(1)


def spectrally_normalized(network: nn.Module) -> nn.Module:
    """Puts every linear layer and convolution of a network into a :class:`SpectralNorm`, in place, and returns it.

    Layers that a network does not call as modules, but whose weights it reads, have to be wrapped where they are used.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> critic = spectrally_normalized(MLP(3, 1, (8,)))
        >>> critic(torch.zeros(5, 3)).shape
        torch.Size([5, 1])
    """
    if isinstance(network, LAYERS):
        return SpectralNorm(network)
    done: dict[nn.Module, nn.Module] = {}
    for parent in [m for m in network.modules() if not isinstance(m, SpectralNorm)]:
        for name, child in parent.named_children():
            if isinstance(child, LAYERS):
                setattr(parent, name, done.setdefault(child, SpectralNorm(child)))
    return network
