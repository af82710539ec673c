r"""Data with holes: what is missing is NaN, and a density is that of what was observed.

.. math::
    x = (x_{obs}, x_{mis}), \qquad \log p(x_{obs} | z) = \sum_{d\ \mathrm{observed}} \log p(x_d | z)

and where what is missing depends on the values, with :math:`s_d = 1` for observed entries and one draw of the others,

.. math::
    p(x_{obs}, s | z) = E_{p(x_{mis} | z)}\, p(x_{obs} | z)\, p(s | x_{obs}, x_{mis})

A NaN is replaced before anything is computed of it, so it reaches neither a network nor a gradient. (Mattei and
Frellsen, MIWAE, 2019, arXiv:1812.02633; Ipsen, Mattei and Frellsen, not-MIWAE, 2021, arXiv:2006.12871.)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints, transform_to

from .._shapes import broadcast_shapes
from ..nn import at_least_float32
from .heads import Head
from .marginal import draw
from .promise import Density


class PossiblyMissing(constraints.Constraint):
    """The numbers, or events, of another constraint, or NaN: an event with a NaN in it is missing as a whole.

    Args:
        base: Where one lives that is not missing.
    """

    def __init__(self, base: constraints.Constraint) -> None:
        self.base = base
        super().__init__()

    @property
    def is_discrete(self) -> bool:
        """As the numbers are."""
        return self.base.is_discrete

    @property
    def event_dim(self) -> int:
        """Number of dimensions of an event; 0 of numbers."""
        return self.base.event_dim

    def check(self, value: Tensor) -> Tensor:
        """Returns, for each number or event, whether it is missing or one of the constraint."""
        return has_missing(value, self.event_dim) | self.base.check(value)

    def __repr__(self) -> str:
        return f"PossiblyMissing({self.base})"


@biject_to.register(PossiblyMissing)
def _biject_to(constraint: PossiblyMissing) -> torch.distributions.Transform:
    """The reals are mapped to numbers that are not missing."""
    return biject_to(constraint.base)


@transform_to.register(PossiblyMissing)
def _transform_to(constraint: PossiblyMissing) -> torch.distributions.Transform:
    return transform_to(constraint.base)


def possibly_missing(support: constraints.Constraint) -> constraints.Constraint:
    """Returns the support of events any of whose numbers may be NaN, given the support of complete ones.

    Raises:
        ValueError: If the numbers of an event constrain each other.

    Example:
        >>> possibly_missing(constraints.independent(constraints.boolean, 1)).check(torch.tensor([1.0, float("nan")]))
        tensor(True)
    """
    if isinstance(support, constraints.independent):
        return constraints.independent(possibly_missing(support.base_constraint), support.reinterpreted_batch_ndims)
    if isinstance(support, constraints.stack):
        return constraints.stack([possibly_missing(c) for c in support.cseq], support.dim)
    if support.event_dim:
        raise ValueError(f"support: expected a constraint on single numbers, got {support}")
    return PossiblyMissing(support)


def has_missing(x: Tensor, event_dim: int) -> Tensor:
    """Returns which events of so many dimensions have a NaN in them."""
    return x.isnan().flatten(-event_dim).any(-1) if event_dim else x.isnan()


def standard(x: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (x - loc) / scale, zero where x is missing, and where that is."""
    missing = x.isnan()
    return (torch.where(missing, loc, x) - loc) / scale, missing


class Completion(NamedTuple):
    """Data whose missing numbers were filled in, given z.

    Attributes:
        samples: The data, drawn where missing.
        mean: The data, and where missing their mean given z; the draw, where no mean is known.
        log_prob: The log-density of what was observed, in nats.
    """

    samples: Tensor
    mean: Tensor
    log_prob: Tensor


class PartlyObserved(dist.TorchDistribution):
    r"""Independent numbers :math:`x_d = m_d + s_d u_d`, of which any may be missing (NaN).

    Its samples are complete.

    Args:
        head: The distribution of u.
        theta: Its parameters, with shape ``batch_shape + event_shape + (head.size,)``.
        loc: The units' origin m, with shape ``event_shape``; zero where x is not a real number.
        scale: The units' size s, with shape ``event_shape``; one where x is not a real number.
        mask: Maps complete u, with shape ``(*) + event_shape``, to the distribution of which of the numbers are seen:
            ones and zeros, with batch shape (*) and an event of as many numbers. Missing at random when ``None``.

    Attributes:
        density: ``"exact"``; with a mask ``"lower_bound"``, the logarithm of an unbiased estimate by one draw of what
            is missing.

    Example:
        >>> from pyro_dgm.distributions.heads import Normal
        >>> p = PartlyObserved(Normal(), torch.zeros(2, 2), torch.zeros(2), torch.ones(2))
        >>> p.log_prob(torch.tensor([0.0, float("nan")]))
        tensor(-0.9189)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        head: Head,
        theta: Tensor,
        loc: Tensor,
        scale: Tensor,
        mask: Callable[[Tensor], Distribution] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.head, self.theta, self.loc, self.scale, self.mask = head, theta, loc, scale, mask
        batch_shape = theta.shape[: theta.dim() - loc.dim() - 1]
        super().__init__(batch_shape, loc.shape, validate_args=validate_args)

    @property
    def density(self) -> Density:
        """What ``log_prob`` promises."""
        return "exact" if self.mask is None else "lower_bound"

    @property
    def has_rsample(self) -> bool:
        """Whether draws have gradients, as the head has it."""
        return self.head.has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where events live, as the head has it, and NaN."""
        return possibly_missing(self.head.support_of(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "PartlyObserved":
        """Returns the distribution with a larger batch shape."""
        theta = self.theta.expand(*batch_shape, *self.event_shape, self.head.size)
        return PartlyObserved(self.head, theta, self.loc, self.scale, self.mask, self.__dict__.get("_validate_args"))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws complete data, with gradients.

        Raises:
            NotImplementedError: If the head has none.
        """
        if not self.has_rsample:
            raise NotImplementedError(f"rsample: {type(self.head).__name__} is not reparameterised; use sample")
        return self.loc + self.scale * self._draw(self._extended_shape(torch.Size(sample_shape)))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws complete data."""
        with torch.no_grad():
            return self.loc + self.scale * self._draw(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density of what is observed, in nats, with shape ``sample_shape + batch_shape``."""
        u, missing = self._checked(value)
        return self._score(u if self.mask is None else self._filled(u, missing), missing)

    def complete(self, value: Tensor) -> Completion:
        """Fills in what is missing, and scores what is observed.

        With a mask it is the draws that were scored, so they are also what is given for the mean.
        """
        u, missing = self._checked(value)
        drawn = self._filled(u, missing)
        mean = drawn
        if self.mask is None:
            try:
                mean = torch.where(missing, self.head.mean(self.theta), u)
            except NotImplementedError:  # splines and discretised mixtures: the mean of the draws has to do
                mean = drawn
        samples, mean = (torch.where(missing, self.loc + self.scale * t, value) for t in (drawn, mean))
        return Completion(samples, mean, self._score(drawn if self.mask is not None else u, missing))

    def _checked(self, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._validate_args:
            self._validate_sample(value)
        return standard(value, self.loc, self.scale)

    def _draw(self, shape: Sequence[int]) -> Tensor:
        return self.head.draw(self.theta, self.head.noise(shape, self.theta))

    def _filled(self, u: Tensor, missing: Tensor) -> Tensor:
        """Returns u with what is missing drawn, for each z anew."""
        return torch.where(missing, self._draw(broadcast_shapes(u.shape, self.theta.shape[:-1])), u)

    def _score(self, u: Tensor, missing: Tensor) -> Tensor:
        """Returns log p(x_obs | z), and where there is a mask log p(x_obs | z) + log p(s | x)."""
        scores = at_least_float32(self.head.log_prob(u, self.theta)) - self.scale.log()
        scores = torch.where(missing, 0.0, scores).flatten(-self.event_dim).sum(-1)
        if self.mask is None:
            return scores
        p = self.mask(u)
        seen = (~missing).reshape(*missing.shape[: missing.dim() - self.event_dim], *p.event_shape)
        return scores + at_least_float32(p.log_prob(seen.to(u.dtype)))


class Informed(dist.TorchDistribution):
    """The posterior of z where something was observed, and the prior where nothing was, which there is the posterior.

    The draws of the prior carry no gradient, which is right where the likelihood is 1 and log p(z) - log q(z) is 0
    whatever z.

    Args:
        posterior: q(z | x_obs).
        prior: p(z).
        informed: Where something was observed, with a batch shape to which those of both broadcast.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, posterior: Distribution, prior: Distribution, informed: Tensor) -> None:
        shape = broadcast_shapes(posterior.batch_shape, prior.batch_shape, informed.shape)
        self.posterior, self.prior, self.informed = posterior.expand(shape), prior.expand(shape), informed.expand(shape)
        super().__init__(shape, posterior.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether draws of the posterior have gradients."""
        return self.posterior.has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The support of the prior."""
        return self.prior.support

    @property
    def mean(self) -> Tensor:
        """The mean of either."""
        return torch.where(self._of_events(), self.posterior.mean, self.prior.mean)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Informed":
        """Returns the distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        return Informed(self.posterior.expand(shape), self.prior.expand(shape), self.informed.expand(shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws z."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws z, without gradients."""
        with torch.no_grad():
            shape = torch.Size(sample_shape)
            return torch.where(self._of_events(), self.posterior.sample(shape), self.prior.sample(shape))

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Returns draws and their log-densities."""
        shape = torch.Size(sample_shape)
        z, log_q = draw(self.posterior, shape)
        other = self.prior.sample(shape).detach()
        log_q = torch.where(self.informed, sum(log_q.values()), self.prior.log_prob(other))
        return torch.where(self._of_events(), z, other), log_q

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``."""
        return torch.where(self.informed, self.posterior.log_prob(value), self.prior.log_prob(value))

    def _of_events(self) -> Tensor:
        return self.informed.reshape(*self.informed.shape, *[1] * self.event_dim)
