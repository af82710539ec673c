r"""Several latents as one: a joint distribution of named vectors, each given those drawn before it.

.. math::
    p(z_1, \dots, z_L) = \prod_{l} p(z_l \,|\, \text{those before } z_l)

Which come first is the distribution's business: a prior goes from the top down, :math:`\prod_l p(z_l | z_{l+1})`, and
an inference network may go from the bottom up, :math:`\prod_l q(z_l | z_{l-1}, x)`. The event is always the
concatenation [z_1, ..., z_L], so that two such distributions, of whatever orders, speak of the same z.

The conditionals are a generator function that reads like the generative story: it yields the name and the
distribution of a latent, is sent its value, and goes on. Whoever runs it decides where values come from: from the
distributions (:meth:`Hierarchy.rsample`), from a given z (:meth:`Hierarchy.log_probs`), or from the sites of a Pyro
program (:meth:`Hierarchy.as_sites`), where data and interventions decide as well.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints

from .._shapes import broadcast_shapes
from ..nn import leave_autocast
from .flow import Flow, Proposal
from .promise import Density

Conditionals = Callable[[], Generator[tuple[str, Distribution], Tensor, None]]
Choice = Callable[[str, Distribution], Tensor]
Update = Callable[[str, Distribution], Distribution]


class Hierarchy(dist.TorchDistribution):
    r"""The joint distribution of several latent vectors.

    Args:
        sizes: Width of every latent by its name, in the order in which an event concatenates them.
        conditionals: A generator function: yields (name, distribution of that latent, with event shape (width,)), every
            latent once, and is sent a value with shape ``sample_shape + batch_shape + (width,)`` each time.
        batch_shape: The batch shape; that of every conditional broadcasts to it.
        has_rsample: Whether the conditionals are all reparameterised.
        support: Where events live.
        at_once: Maps z, with shape (*, D), to what :meth:`log_probs` returns, where that is quicker than one
            conditional after the other: the steps of a Markov chain, all given, can be scored in parallel.
        update: Maps the name and the distribution of a latent to the distribution that takes its place; see
            :meth:`updated`.

    Example:
        >>> def conditionals():
        ...     z_2 = yield "z_2", dist.Normal(torch.zeros(3), 1.0).to_event(1)
        ...     yield "z_1", dist.Normal(z_2[..., :2], 0.1).to_event(1)
        >>> p = Hierarchy({"z_1": 2, "z_2": 3}, conditionals)
        >>> z = p.sample((4,))
        >>> z.shape, {name: tuple(score.shape) for name, score in p.log_probs(z).items()}
        (torch.Size([4, 5]), {'z_2': (4,), 'z_1': (4,)})
    """

    density: Density = "exact"
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        sizes: Mapping[str, int],
        conditionals: Conditionals,
        batch_shape: Sequence[int] = (),
        has_rsample: bool = True,
        support: constraints.Constraint = constraints.real_vector,
        at_once: Callable[[Tensor], dict[str, Tensor]] | None = None,
        update: Update | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.sizes, self.conditionals, self.at_once, self.update = dict(sizes), conditionals, at_once, update
        self.has_rsample = has_rsample
        self._support = support
        event_shape = torch.Size([sum(self.sizes.values())])
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where events live."""
        return self._support

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Hierarchy":
        """Returns the distribution with a larger batch shape."""
        return Hierarchy(
            self.sizes,
            self.conditionals,
            batch_shape,
            self.has_rsample,
            self._support,
            self.at_once,
            self.update,
            validate_args=self._validate_args,
        )

    def updated(self, update: Update, batch_shape: Sequence[int], has_rsample: bool = True) -> "Hierarchy":
        """Returns a posterior that goes the way of this prior, each of whose conditionals it changes.

        Args:
            update: Maps the name and the prior's distribution of a latent, given those before it, to the posterior's.
            batch_shape: The batch shape of the posterior.
            has_rsample: Whether the posterior's conditionals are all reparameterised.
        """
        return Hierarchy(
            self.sizes, self.conditionals, batch_shape, has_rsample, update=update, validate_args=self._validate_args
        )

    def run(self, choose: Choice, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Runs the conditionals once, and returns the values, concatenated.

        Args:
            choose: Called with the name and the distribution of a latent, which has at least the batch shape
                ``sample_shape + batch_shape``, returns the value that the latents after it see.
            sample_shape: Shape of the draws per batch element.

        Raises:
            ValueError: If the conditionals are not one for each latent, of its width.
        """
        if self.update is None:
            return self._run(choose, sample_shape)
        return self._run(lambda name, p: choose(name, self.update(name, p)), sample_shape)

    def _run(self, choose: Choice, sample_shape: torch.Size | Sequence[int]) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        values: dict[str, Tensor] = {}
        conditionals = self.conditionals()
        part = _next(conditionals, None)
        while part is not None:
            name, p = part
            if name in values or p.event_shape != (self.sizes.get(name),):
                raise ValueError(
                    f"conditionals: expected each of {self.sizes} once, got {name!r} with event shape "
                    f"{tuple(p.event_shape)} after {list(values)}"
                )
            batch_shape = broadcast_shapes(p.batch_shape, shape)
            values[name] = choose(name, p if p.batch_shape == batch_shape else p.expand(batch_shape))
            part = _next(conditionals, values[name])
        if len(values) < len(self.sizes):
            raise ValueError(f"conditionals: expected each of {self.sizes} once, got {list(values)} only")
        return concatenated([values[name] for name in self.sizes])

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Returns the latents by name, z having the shape (*, D)."""
        return dict(zip(self.sizes, z.split(list(self.sizes.values()), -1), strict=True))

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws one latent after the other."""
        with torch.no_grad():
            return self.run(lambda _, p: leave_autocast(p.sample()), sample_shape)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws one latent after the other, with gradients."""
        return self.run(lambda _, p: leave_autocast(p.rsample()), sample_shape)

    def rsample_and_log_probs(self, sample_shape: torch.Size | Sequence[int] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns reparameterised samples, and their log-densities in nats by latent, in one run."""
        scores: dict[str, Tensor] = {}

        def choose(name: str, p: Distribution) -> Tensor:
            z, scores[name] = _draw(p)
            return z

        return self.run(choose, sample_shape), scores

    def is_update_of(self, prior: Distribution) -> bool:
        """Whether this is a posterior that was made from the conditionals of a prior, by :meth:`updated`."""
        return (
            self.update is not None
            and isinstance(prior, Hierarchy)
            and prior.update is None
            and _same(self.conditionals, prior.conditionals)
        )

    def rsample_and_both_log_probs(
        self, sample_shape: torch.Size | Sequence[int] = ()
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Returns samples of an updated prior, their log-densities by latent, and those that the prior gives them."""
        scores: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}

        def choose(name: str, p: Distribution) -> Tensor:
            z, scores[name] = _draw(self.update(name, p))
            before[name] = p.log_prob(z)
            return z

        return self._run(choose, sample_shape), scores, before

    def log_probs(self, value: Tensor) -> dict[str, Tensor]:
        """Returns each latent's log-density given those before it, in nats, shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        if self.at_once is not None:
            shape = broadcast_shapes(value.shape[:-1], self.batch_shape)
            return {name: score.expand(shape) for name, score in self.at_once(value).items()}
        values, scores = self.split(value), {}

        def choose(name: str, p: Distribution) -> Tensor:
            scores[name] = p.log_prob(values[name])
            return values[name]

        self.run(choose)
        return scores

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``."""
        return sum(self.log_probs(value).values())

    def as_sites(self, proposal: bool = False) -> Tensor:
        """Samples one site of a Pyro program for every latent, under its name, and returns them concatenated.

        A site's value may come from its distribution, from a guide, from data (``condition``) or from an intervention
        (``do``); the latents after it see that value.

        Args:
            proposal: Whether the program is a guide, whose draws are scored at once (see :class:`Proposal`).
        """
        return self.run(lambda name, p: _site(name, p, proposal))


def _draw(p: Distribution) -> tuple[Tensor, Tensor]:
    if hasattr(p, "rsample_and_log_prob"):
        return p.rsample_and_log_prob()
    z = leave_autocast(p.rsample())
    return z, p.log_prob(z)


def _same(one: Conditionals, other: Conditionals) -> bool:
    """Whether conditionals are the same function, or the same function of the very same arguments."""
    if not (isinstance(one, partial) and isinstance(other, partial)):
        return one is other
    arguments = [*zip(one.args, other.args, strict=False)]
    return one.func == other.func and len(one.args) == len(other.args) and all(a is b for a, b in arguments)


def sample_latent(p: Distribution, proposal: bool = False) -> Tensor:
    """Samples z in a Pyro program: the sites of a joint distribution of several latents, or one site ``"z"``."""
    return p.as_sites(proposal) if hasattr(p, "log_probs") else _site("z", p, proposal)


def _site(name: str, p: Distribution, proposal: bool) -> Tensor:
    return pyro.sample(name, Proposal(p) if proposal and hasattr(p, "rsample_and_log_prob") else p)


def center(p: Distribution) -> Tensor:
    """Returns a point in the middle of a distribution: a representation of whatever it is the posterior of.

    That is its mean; for a flow the image of its base's mean; and for several latents the middle of each given that
    the latents before it are in their middle.

    Raises:
        NotImplementedError: If a distribution has no mean.
    """
    if isinstance(p, Hierarchy):
        return p.run(lambda _, conditional: center(conditional))
    if isinstance(p, dist.MaskedMixture):
        return torch.where(p.mask[..., None], center(p.component1), center(p.component0))
    p = p.flow if isinstance(p, Proposal) else p
    if isinstance(p, Flow):
        return p.transforms[0](p.base_dist.mean)
    try:
        return p.mean
    except NotImplementedError as error:
        raise NotImplementedError(f"encode: {type(p).__name__} has no mean; ask for draws, num_samples=1") from error


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """Concatenates vectors, whose batch shapes broadcast."""
    shape = broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part if part.shape[:-1] == shape else part.expand(*shape, -1) for part in parts], -1)


def join(value: Tensor, event_dim: int, context: Tensor | None = None) -> Tensor:
    """Flattens the event of ``value`` and appends the context: [value, c]."""
    value = value.flatten(-event_dim) if event_dim else value.unsqueeze(-1)
    return value if context is None else concatenated([value, context])


def _next(
    conditionals: Generator[tuple[str, Distribution], Tensor, None], value: Tensor | None
) -> tuple[str, Distribution] | None:
    """Sends a value to the conditionals, and returns the next; ``None`` at their end."""
    try:
        return conditionals.send(value)
    except StopIteration:
        return None
