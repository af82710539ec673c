r"""Heads of real numbers: normal, grey level, mixtures of normal or logistic distributions, any monotone family.

.. math::
    p(x) = N(x; \mu, \sigma^2), \qquad
    p(x) = \sum_k \frac{\pi_k}{\sigma_k} f\!\left(\frac{x - \mu_k}{\sigma_k}\right), \qquad
    p(x) = N(g(x; \theta); 0, 1)\, \partial g / \partial x

Draws of a mixture take the component and then the number, and their gradient is the implicit one,
:math:`dx / d\theta = -\,(\partial F / \partial \theta) / p(x)` with F the distribution function (Figurnov, Mohamed and
Mnih, 2018, arXiv:1805.08498); it is a first derivative only. Mixtures as heads: Uria,
Murray and Larochelle, RNADE, 2013, arXiv:1306.0186.
"""

import math
from collections.abc import Callable, Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ..._shapes import broadcast_shapes
from ...transforms import Affine, Univariate
from ..continuous_bernoulli import ContinuousBernoulli as GreyLevel
from ..promise import Density
from ..unit_normal import normal_noise
from .base import Head


class Normal(Head):
    """A normal distribution; parameters are its mean and what softplus makes its deviation, 1 at zero.

    Args:
        min_scale: The least deviation, in [0, 1).
        scale: The deviation, where it is known; the mean is then the only parameter.

    Raises:
        ValueError: If the least deviation is another, or the known one is not positive.

    Example:
        >>> Normal()(torch.zeros(2)).scale, Normal(scale=0.1)(torch.zeros(1)).scale
        (tensor(1.0000), tensor(0.1000))
    """

    has_rsample = True

    def __init__(self, min_scale: float = 1e-3, scale: float | None = None) -> None:
        self.min_scale, self.scale = check_scale(min_scale), scale
        if scale is not None and not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a positive number, or None to learn it, got {scale}")
        self.dispersed = scale is None
        self.size = 2 if self.dispersed else 1

    def __call__(self, theta: Tensor) -> dist.Normal:
        """Returns the normal distributions."""
        loc, *raw = theta.unbind(-1)
        scale = positive(*raw, self.min_scale) if raw else torch.full_like(loc, self.scale)
        return dist.Normal(loc, scale, validate_args=False)

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns standard normal noise."""
        return normal_noise((*shape, 1), like)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns mean + deviation * noise."""
        p = self(theta)
        return p.loc + p.scale * noise[..., 0]


class ContinuousBernoulli(Head):
    """A grey level in [0, 1], leaning to one end; the parameter is the logit.

    It is what cross-entropy on grey levels is often taken for, with the constant that makes it a density (Loaiza-Ganem
    and Cunningham, 2019, arXiv:1907.06845).

    Example:
        >>> ContinuousBernoulli()(torch.zeros(3, 1)).log_prob(torch.tensor(0.7))
        tensor([0., 0., 0.])
    """

    size, has_rsample, support = 1, True, constraints.unit_interval

    def __call__(self, theta: Tensor) -> GreyLevel:
        """Returns the distributions."""
        return GreyLevel(theta.squeeze(-1), validate_args=False)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns the quantile at uniform noise."""
        return self(theta).icdf(noise[..., 0])


class _Mixture(Head):
    """A mixture of a family with location and scale."""

    noises, has_rsample = 2, True

    def __init__(self, components: int = 10, min_scale: float = 1e-3) -> None:
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}")
        self.components, self.min_scale, self.size = components, check_scale(min_scale), 3 * components

    def _family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        raise NotImplementedError(f"{type(self).__name__} lacks _family")

    def __call__(self, theta: Tensor) -> "RealMixture":
        """Returns the mixtures."""
        logits, loc, raw = mixture_parameters(theta, self.components, 1.0)
        parts = self._family(loc, positive(raw, self.min_scale))
        return RealMixture(dist.Categorical(logits=logits, validate_args=False), parts, validate_args=False)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Draws a component, then the number; the gradient is the implicit one."""
        p = self(theta)
        with torch.no_grad():
            loc, scale = chosen_component(p, noise)
            x = loc + scale * noise[..., 1]
        if not theta.requires_grad:
            return x
        below = p.cdf(x)
        return x - (below - below.detach()) / p.log_prob(x).exp().detach()


class NormalMixture(_Mixture):
    """A mixture of normal distributions, spread out at the start.

    Args:
        components: Number K of components; parameters are K logits, K means and K raw deviations.
        min_scale: The least deviation, in [0, 1).

    Raises:
        ValueError: If there is no component, or the least deviation is another.

    Example:
        >>> NormalMixture(5)(torch.zeros(7, 15)).batch_shape
        torch.Size([7])
    """

    def _family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale, validate_args=False)

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns uniform noise for the component, and normal noise."""
        uniform = torch.rand(*shape, 1, dtype=like.dtype, device=like.device)
        return torch.cat([uniform, normal_noise((*shape, 1), like)], -1)


class LogisticMixture(_Mixture):
    """A mixture of logistic distributions, spread out at the start: heavier tails than normal ones.

    Args:
        components: Number K of components; parameters are K logits, K locations and K raw scales.
        min_scale: The least scale, in [0, 1).

    Raises:
        ValueError: If there is no component, or the least scale is another.

    Example:
        >>> LogisticMixture(5)(torch.zeros(7, 15)).batch_shape
        torch.Size([7])
    """

    def _family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Logistic(loc, scale, validate_args=False)

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns uniform noise for the component, and logistic noise."""
        u = torch.rand(*shape, 2, dtype=like.dtype, device=like.device)
        return torch.cat([u[..., :1], torch.special.logit(u[..., 1:], 1e-6)], -1)


class RealMixture(dist.MixtureSameFamily):
    """A mixture of distributions of real numbers, and so on the real line, which torch's does not say."""

    support = constraints.real


class Monotone(Head):
    """A standard normal number seen through a monotone family, a spline for instance.

    Args:
        univariate: The family g, from data to the normal number; :class:`~pyro_dgm.transforms.Affine` when ``None``.

    Example:
        >>> from pyro_dgm.transforms import Spline
        >>> Monotone(Spline(4))(torch.zeros(11)).log_prob(torch.tensor(0.0))
        tensor(-0.9189)
    """

    has_rsample = True

    def __init__(self, univariate: Univariate | None = None) -> None:
        self.univariate = univariate or Affine()
        self.size = self.univariate.size

    def __call__(self, theta: Tensor) -> "Seen":
        """Returns the distributions."""
        return Seen(self.univariate, theta)

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns standard normal noise."""
        return normal_noise((*shape, 1), like)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Returns the inverse of g at the noise."""
        return self.univariate.inverse_and_ladj(noise[..., 0], theta)[0]


class Seen(dist.TorchDistribution):
    """The distribution of x where g(x; theta) is standard normal; made by :class:`Monotone`.

    Args:
        univariate: The family g.
        theta: Its parameters, with shape ``batch_shape + (size,)``.
    """

    density: Density = "exact"
    has_rsample = True
    support = constraints.real
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, univariate: Univariate, theta: Tensor) -> None:
        self.univariate, self.theta = univariate, theta
        super().__init__(theta.shape[:-1], validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Seen":
        """Returns the distribution with a larger batch shape."""
        return Seen(self.univariate, self.theta.expand(*batch_shape, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        shape = broadcast_shapes(value.shape, self.batch_shape)
        z, ladj = _run(self.univariate.forward_and_ladj, value.expand(shape), self.theta)
        return ladj - 0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws reparameterised samples."""
        z = normal_noise(self._extended_shape(torch.Size(sample_shape)), self.theta)
        return _run(self.univariate.inverse_and_ladj, z, self.theta)[0]


def _run(direction: Callable[..., tuple[Tensor, Tensor]], x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Applies a monotone family, which wants one dimension of numbers at least."""
    if x.dim():
        return direction(x, theta)
    y, ladj = direction(x[None], theta[None])
    return y[0], ladj[0]


def mixture_parameters(theta: Tensor, components: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns logits, locations and raw scales of a mixture.

    Locations are offset by normal quantiles times ``spread``: components that start alike would stay alike.
    """
    logits, loc, raw = theta.unflatten(-1, (3, components)).unbind(-2)
    wide = torch.promote_types(theta.dtype, torch.float32)
    centres = (torch.arange(components, dtype=wide, device=theta.device) + 0.5) / components
    return logits, loc + (spread * torch.special.ndtri(centres)).to(theta.dtype), raw


def choose(logits: Tensor, noise: Tensor) -> Tensor:
    """Returns the class, shape (*), in whose share of [0, 1) uniform noise, shape (*, 1), falls.

    Shares are of their own sum, not of 1: where it is below 1 by rounding, the last class would get the rest, and a
    class of no probability could be drawn.
    """
    ends = logits.softmax(-1).cumsum(-1)
    return (ends[..., :-1] <= noise * ends[..., -1:]).sum(-1)


def chosen_component(p: dist.MixtureSameFamily, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Returns location and scale of the components that uniform noise, the first of the last dimension, chooses."""
    k = choose(p.mixture_distribution.logits, noise[..., :1])[..., None]
    parts, shape = p.component_distribution, k.shape[:-1]
    loc, scale = (t.expand(*shape, -1).gather(-1, k)[..., 0] for t in (parts.loc, parts.scale))
    return loc, scale


def positive(raw: Tensor, least: float) -> Tensor:
    """Returns a scale above ``least``, which is 1 where ``raw`` is 0."""
    return least + F.softplus(raw + math.log(math.expm1(1 - least)))


def check_scale(least: float) -> float:
    """Returns a least scale, if it is one.

    Raises:
        ValueError: If it is not in [0, 1).
    """
    if not 0 <= least < 1:
        raise ValueError(f"min_scale: expected a number in [0, 1), since scales are 1 at the start, got {least}")
    return least
