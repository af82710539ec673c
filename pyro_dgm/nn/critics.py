r"""Critics of adversarial games made of other networks, and what a critic is asked for.

.. math::
    D(x_1, \dots, x_m) = C\bigl((x_1, \dots, x_m)\bigr), \qquad D(x) = -\frac{1}{d} \|x - A(x)\|_2^2

The first looks at m data at once: whether those are too much alike shows lost modes, which no datum shows alone. The
second is the negative energy of an autoencoder A of data with d numbers.
"""

from collections.abc import Callable

from torch import Tensor, nn

from .._config import Configured
from .precision import at_least_float32


def called(network: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Calls a network with those of its inputs that there are: a context may be ``None``."""
    return network(*(t for t in inputs if t is not None))


def scores(critic: Callable[..., Tensor], batch_dim: int, *inputs: Tensor | None) -> Tensor:
    """Returns scores with shape (*), of so many dimensions, of a critic that gives (*, 1) or (*), in full precision.

    Example:
        >>> import torch
        >>> scores(nn.Linear(3, 1), 2, torch.zeros(5, 7, 3), None).shape
        torch.Size([5, 7])
    """
    found = at_least_float32(called(critic, *inputs))
    return found.squeeze(-1) if found.dim() > batch_dim else found


class Packed(Configured, nn.Module):
    """A critic of packs of neighbours in the batch, which are put side by side along the first dimension of the event.

    Any game can be played with it; a batch of n data gives n // m scores, and the data left over have none. (Lin,
    Khetan, Fanti and Oh, PacGAN, 2017, arXiv:1712.04086.)

    Args:
        critic: The critic of packs, from (k, m * features) or (k, m * C, H, W) to scores (k, 1) or (k); where there is
            a context, called with (k, m * context) as well.
        size: Data m in a pack.
        event_dim: Number of event dimensions.

    Raises:
        ValueError: If the batch has fewer data than a pack, or other than one dimension.

    Example:
        >>> import torch
        >>> Packed(nn.Linear(3 * 2, 1), 3)(torch.zeros(10, 2)).shape
        torch.Size([3, 1])
    """

    def __init__(self, critic: nn.Module, size: int = 2, event_dim: int = 1) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size: expected at least 1, got {size}")
        self.critic, self.size, self.event_dim = critic, size, event_dim

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps a batch (n, *event), and its contexts, to scores of packs (n // m, 1) or (n // m)."""
        if x.dim() != self.event_dim + 1 or len(x) < self.size:
            raise ValueError(
                f"x: expected a batch (n, *event) of {self.event_dim} event dimensions and n at least {self.size}, "
                f"got {tuple(x.shape)}"
            )
        return called(self.critic, self._pack(x), None if context is None else self._pack(context.expand(len(x), -1)))

    def _pack(self, t: Tensor) -> Tensor:
        k = len(t) // self.size
        return t[: k * self.size].unflatten(0, (k, self.size)).flatten(1, 2)


class ReconstructionScore(Configured, nn.Module):
    """The score of an autoencoder: its negative mean square error, so at most zero.

    (Zhao, Mathieu and LeCun, Energy-based Generative Adversarial Network, 2016, arXiv:1609.03126.)

    Args:
        autoencoder: From data to data of the same shape; called as A(x) or A(x, c).
        event_dim: Number of event dimensions.

    Example:
        >>> import torch
        >>> ReconstructionScore(nn.Linear(3, 3))(torch.zeros(10, 3)).shape
        torch.Size([10])
    """

    def __init__(self, autoencoder: nn.Module, event_dim: int = 1) -> None:
        super().__init__()
        self.autoencoder, self.event_dim = autoencoder, event_dim

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps data (*, *event) to scores (*)."""
        return -at_least_float32(x - called(self.autoencoder, x, context)).square().flatten(-self.event_dim).mean(-1)
