r"""Heads: the distribution of one number given the parameters that a network computed for it.

.. math::
    p(x_i | x_{<i}) = h(x_i; \theta_i), \qquad \theta_i \in R^P

A head knows how many parameters it takes, which distribution they mean, how a number is drawn from given noise
(so that different samplers can draw the same one), and what a network sees of a number (its classes one by one, say).
At :math:`\theta = 0` a head is something neutral: fair coins, a standard normal distribution.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from ..._config import Configured


class Head(Configured):
    """A family of distributions of one number; subclasses say which.

    Attributes:
        size: Number P of parameters.
        size_in: Numbers by which a network sees the number.
        noises: Random numbers it takes to draw one.
        levels: Number of values 0..levels-1, where there are finitely many; ``None`` otherwise.
        has_rsample: Whether draws have gradients with respect to the parameters.
        dispersed: Whether the last parameter says how wide the distribution is, and the one before it where it is.
    """

    size: int
    size_in: int = 1
    noises: int = 1
    levels: int | None = None
    has_rsample: bool = False
    dispersed: bool = False

    @property
    def support(self) -> constraints.Constraint:
        """Where the number lives."""
        return constraints.real

    def __call__(self, theta: Tensor) -> dist.TorchDistribution:
        """Returns the distribution, with batch shape ``theta.shape[:-1]``.

        Args:
            theta: The parameters, with shape (*, P).
        """
        raise NotImplementedError(f"{type(self).__name__} lacks __call__")

    def checked(self, theta: Tensor) -> dist.TorchDistribution:
        """Returns the distribution, which checks data where validation is on, though parameters never are."""
        p = self(theta)
        p.__dict__.pop("_validate_args", None)
        return p

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns the number, shape (*), that noise, shape (*, noises), makes of the parameters, shape (*, P)."""
        raise NotImplementedError(f"{type(self).__name__} lacks draw")

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns noise for draws of this shape, (*shape, noises): uniform numbers, unless a head says otherwise."""
        return torch.rand(*shape, self.noises, dtype=like.dtype, device=like.device)

    def embed(self, x: Tensor) -> Tensor:
        """Returns what a network sees of numbers (*), with shape (*, size_in)."""
        return x[..., None]

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Returns log h(x; theta) in nats, with shape (*), of all numbers of an event at once."""
        return self(theta).log_prob(x)

    def mean(self, theta: Tensor) -> Tensor:
        """Returns the mean of the number, with shape (*).

        Raises:
            NotImplementedError: If it is not known.
        """
        return self(theta).mean

    def at(self, i: int) -> "Head":
        """Returns the head of number i of an event."""
        return self

    def support_of(self, event_shape: torch.Size) -> constraints.Constraint:
        """Returns where events live."""
        return constraints.independent(self.support, len(event_shape))


class _InUnits(Head):
    """Numbers x = loc + scale z, of which ``head`` is the head of z; subclasses say of which numbers."""

    loc: Tensor
    scale: Tensor

    def __init__(self, head: Head) -> None:
        self.head = head
        self.size, self.size_in, self.noises = head.size, head.size_in, head.noises
        self.has_rsample = head.has_rsample

    def __call__(self, theta: Tensor) -> dist.TorchDistribution:
        """Returns the distribution of x."""
        units = dist.transforms.AffineTransform(self.loc, self.scale)
        return dist.TransformedDistribution(self.head(theta), [units], validate_args=False)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Draws x."""
        return self.loc + self.scale * self.head.draw(theta, noise)

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns the noise of the head."""
        return self.head.noise(shape, like)

    def mean(self, theta: Tensor) -> Tensor:
        """Returns the mean of x."""
        return self.loc + self.scale * self.head.mean(theta)

    def embed(self, x: Tensor) -> Tensor:
        """Shows z."""
        return self.head.embed((x - self.loc) / self.scale)


class Standardized(_InUnits, nn.Module):
    r"""A head of numbers in units of their own, :math:`x_i = m_i + s_i z_i`, the head being that of z.

    Args:
        head: The head, of real numbers.
        features: Number of features.
    """

    def __init__(self, head: Head, features: int) -> None:
        nn.Module.__init__(self)
        _InUnits.__init__(self, head)
        self.register_buffer("loc", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("initialized", torch.tensor(False))

    def initialize(self, x: Tensor) -> None:
        """Fits the units to data, with shape (n, features); a constant feature keeps unit scale."""
        scale, loc = torch.std_mean(x.reshape(-1, x.shape[-1]).to(self.loc.dtype), 0, correction=0)
        self.loc.copy_(loc)
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))
        self.initialized.fill_(True)

    def at(self, i: int) -> "_Feature":
        """Returns the head of feature i."""
        return _Feature(self.head, self.loc[i], self.scale[i])


class _Feature(_InUnits):
    """The head of one feature, in its units."""

    def __init__(self, head: Head, loc: Tensor, scale: Tensor) -> None:
        super().__init__(head)
        self.loc, self.scale = loc, scale


def filled(t: Tensor, size: int) -> Tensor:
    """Returns numbers (*, n) filled up with zeros to (*, size)."""
    return t if t.shape[-1] == size else nn.functional.pad(t, (0, size - t.shape[-1]))
