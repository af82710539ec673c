r"""Heads of integers: coins, categories, and levels of a pixel.

.. math::
    p(x) = \sigma(\lambda)^x \sigma(-\lambda)^{1 - x}, \qquad
    p(x = k) = \frac{e^{\lambda_k}}{\sum_j e^{\lambda_j}}, \qquad
    p(x = k) = \sum_m \pi_m \left[\sigma\!\left(\frac{b_{k+1} - \mu_m}{s_m}\right)
                                 - \sigma\!\left(\frac{b_k - \mu_m}{s_m}\right)\right]

The last is the discretised mixture of logistic distributions (Salimans, Karpathy, Chen and Kingma, PixelCNN++, 2017,
arXiv:1701.05517): levels are places :math:`y_k = 2 k / (L - 1) - 1`, boundaries :math:`b_k` lie half-way between them,
and the outermost are :math:`\pm \infty`. Draws go by the inverse of the distribution function.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ..._shapes import broadcast_shapes
from ..grey import Advising
from .base import Head
from .continuous import choose, chosen_component, mixture_parameters

_MAX_LOG_SCALE = 16.0  # less than one part in a million is then between the outermost levels; e^89 overflows


class Bernoulli(Head):
    """Zero or one; the parameter is the logit.

    Example:
        >>> Bernoulli()(torch.zeros(3, 1)).mean
        tensor([0.5000, 0.5000, 0.5000])
    """

    size, levels, support = 1, 2, constraints.boolean

    def __call__(self, theta: Tensor) -> "Coins":
        """Returns the coins."""
        return Coins(logits=theta.squeeze(-1), validate_args=False)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns 1 where uniform noise is below the probability."""
        return (noise[..., 0] < theta[..., 0].sigmoid()).to(theta.dtype)


class Categorical(Head):
    """One of several classes, or of several levels whose order a network should see.

    Args:
        levels: Number L of classes 0..L-1.
        ordered: Whether a network sees the number itself, scaled to [-1, 1], and not its class one by one: for levels
            of pixels.

    Raises:
        ValueError: If there are fewer than two classes.

    Example:
        >>> Categorical(4).embed(torch.tensor([2.0]))
        tensor([[0., 0., 1., 0.]])
    """

    def __init__(self, levels: int, ordered: bool = False) -> None:
        _check_levels(levels)
        self.levels, self.ordered, self.size, self.size_in = levels, ordered, levels, 1 if ordered else levels

    @property
    def support(self) -> constraints.Constraint:
        """The integers 0..L-1."""
        return constraints.integer_interval(0, self.levels - 1)

    def __call__(self, theta: Tensor) -> "Classes":
        """Returns the categorical distributions."""
        return Classes(logits=theta, validate_args=False)

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Looks up the class."""
        shape = broadcast_shapes(x.shape, theta.shape[:-1])
        log_p = theta.log_softmax(-1).expand(*shape, -1)
        return log_p.gather(-1, x.long().expand(shape)[..., None])[..., 0]

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns the class in whose share of [0, 1] uniform noise falls."""
        return choose(theta, noise).to(theta.dtype)

    def mean(self, theta: Tensor) -> Tensor:
        """Returns the mean of the class's number, which means something where classes are levels."""
        return theta.softmax(-1) @ torch.arange(self.levels, dtype=theta.dtype, device=theta.device)

    def embed(self, x: Tensor) -> Tensor:
        """Returns the classes one by one, or the scaled number."""
        if self.ordered:
            return scaled(x, self.levels)[..., None]
        classes = torch.arange(self.levels, device=x.device)
        return (x[..., None] == classes).to(x.dtype if x.is_floating_point() else torch.get_default_dtype())


class DiscretizedLogisticMixture(Head):
    """A mixture of logistic distributions, each rounded to the nearest of L levels.

    Args:
        components: Number of components.
        levels: Number L of levels.
        min_log_scale: The least logarithm of a scale, in units in which the levels span [-1, 1].

    Raises:
        ValueError: If there are fewer than two levels, or no component.

    Example:
        >>> p = DiscretizedLogisticMixture(3, 5)(torch.zeros(9))
        >>> p.log_prob(torch.arange(5.0)).exp().sum()
        tensor(1.)
    """

    noises = 2

    def __init__(self, components: int = 10, levels: int = 256, min_log_scale: float = -7.0) -> None:
        _check_levels(levels)
        self.components, self.levels, self.min_log_scale = components, levels, min_log_scale
        self.size = 3 * components
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}")

    @property
    def support(self) -> constraints.Constraint:
        """The integers 0..L-1."""
        return constraints.integer_interval(0, self.levels - 1)

    def __call__(self, theta: Tensor) -> dist.MixtureSameFamily:
        """Returns the mixtures."""
        logits, loc, log_scale = mixture_parameters(theta, self.components, 0.5)
        scale = (log_scale - 1.5).clamp(self.min_log_scale, _MAX_LOG_SCALE).exp()
        parts = DiscretizedLogistic(loc, scale, self.levels)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits, validate_args=False), parts, validate_args=False)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Draws a component, then a logistic number, and rounds it."""
        p = self(theta)
        loc, scale = chosen_component(p, noise)
        return p.component_distribution.round(loc + scale * torch.special.logit(noise[..., 1], 1e-6))

    def embed(self, x: Tensor) -> Tensor:
        """Returns the number scaled to [-1, 1]."""
        return scaled(x, self.levels)[..., None]


class Coins(Advising, dist.Bernoulli):
    """Bernoulli's distribution, whose refusal of grey levels says what to do; made by :class:`Bernoulli`."""

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`x \lambda + \log \sigma(-\lambda)`, which compiles to less than a cross-entropy does."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits + F.logsigmoid(-self.logits)


class Classes(dist.Categorical):
    """The categorical distribution of floating numbers 0..L-1, and their mean; made by :class:`Categorical`."""

    @property
    def mean(self) -> Tensor:
        """The mean of the numbers, which means something where their order does."""
        return self.probs @ torch.arange(self._num_events, dtype=self.probs.dtype, device=self.probs.device)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws classes."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic distribution rounded to the nearest of L levels, whose places span [-1, 1].

    With :math:`a < b` the boundaries in units of the scale, :math:`\log(\sigma(b) - \sigma(a)) = \log \sigma(b) +
    \log \sigma(-a) + \log(1 - e^{a - b})`, which loses nothing in either tail.

    Args:
        loc: The location, where the levels span [-1, 1].
        scale: The scale.
        levels: Number of levels.

    Example:
        >>> DiscretizedLogistic(torch.tensor(0.0), torch.tensor(0.1), 3).log_prob(torch.arange(3.0)).exp()
        tensor([0.0067, 0.9866, 0.0067])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale, self.levels = *torch.broadcast_tensors(loc, scale), levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers 0..L-1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "DiscretizedLogistic":
        """Returns the distribution with a larger batch shape."""
        return DiscretizedLogistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.levels)

    @property
    def mean(self) -> Tensor:
        """The mean level, the sum of all tail probabilities."""
        total, half = torch.zeros_like(self.loc), 1 / (self.levels - 1)
        for k in range(1, self.levels):
            total = total + torch.sigmoid((self.loc - (scaled(k, self.levels) - half)) / self.scale)
        return total

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-probability of levels, in nats."""
        middle, half = scaled(value, self.levels), 1 / (self.levels - 1)
        a, b = (middle - half - self.loc) / self.scale, (middle + half - self.loc) / self.scale
        below = torch.where(value >= self.levels - 1, 0.0, F.logsigmoid(b))
        above = torch.where(value <= 0, 0.0, F.logsigmoid(-a))
        inner = (value > 0) & (value < self.levels - 1)
        return below + above + torch.where(inner, torch.log(-torch.expm1(-2 * half / self.scale)), 0.0)

    def round(self, y: Tensor) -> Tensor:
        """Returns the level nearest to a place."""
        return ((y + 1) * (0.5 * (self.levels - 1))).round().clamp(0, self.levels - 1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws levels, as floating numbers."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            return self.round(self.loc + self.scale * torch.special.logit(u, 1e-6))


def scaled(x: Tensor | int, levels: int) -> Tensor | float:
    """Returns levels 0..L-1 as places in [-1, 1]."""
    return x * (2 / (levels - 1)) - 1


def _check_levels(levels: int) -> None:
    if levels < 2:
        raise ValueError(f"levels: expected at least 2, got {levels}")
