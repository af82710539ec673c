r"""Autoregressive models as distributions.

.. math::
    p(x | c) = \prod_{i=1}^D h\bigl(x_i; \theta_i(x_{<i}, c)\bigr)

with a conditioner :math:`\theta` (:mod:`pyro_dgm.nn.walk`), a head h (:mod:`pyro_dgm.distributions.heads`), and the D
numbers of an event in the conditioner's order. All :math:`\theta_i` of data take one pass, so the density is parallel.
A sample takes D steps, and there are three ways to take them:

=============== =====================================================================================================
``incremental`` the conditioner's own walk, which computes nothing twice: D steps that together cost about one pass
``naive``       the definition: the whole network, D times
``jacobi``      a fixed point: all numbers at once from those of the round before, until nothing changes; after k rounds
                at least the first k are final, and often many more (Song, Meng, Liao and Ermon, Accelerating
                Feedforward Computation via Parallel Nonlinear Equation Solving, 2021, arXiv:2002.03629)
=============== =====================================================================================================

All are exact, and draw the same sample from the same random state, up to the rounding of sums.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .._shapes import broadcast_shapes
from ..nn import Conditioner, NaiveWalk, leave_autocast, without_autocast
from .grey import Advising
from .heads import Head
from .heads.base import filled
from .promise import Density

Method = Literal["incremental", "naive", "jacobi"]
MAX_STATES = 2**14
"""The most states that are enumerated."""


class Autoregressive(Advising, dist.TorchDistribution):
    r"""The distribution of an event whose numbers come one after another.

    Args:
        conditioner: The network that gives the parameters.
        head: What they mean.
        context: The context c, with shape ``batch_shape + (context,)``.
        batch_shape: A batch shape that the context's broadcasts to.

    Attributes:
        density: ``"exact"``.

    Raises:
        ValueError: If a number of the event has another head than the conditioner can show.

    Example:
        >>> from pyro_dgm.distributions.heads import Bernoulli
        >>> from pyro_dgm.nn import MaskedMLP
        >>> p = Autoregressive(MaskedMLP(3, 1, (8,), context=2), Bernoulli(), torch.zeros(5, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(4, 1, 3)).exp()[0, 0]
        (torch.Size([5]), torch.Size([3]), tensor(0.1250, grad_fn=<SelectBackward0>))
    """

    density: Density = "exact"
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        conditioner: Conditioner,
        head: Head,
        context: Tensor | None = None,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        if head.size_in != conditioner.in_per_feature:
            raise ValueError(
                f"conditioner: expected one that sees a number as the head shows it (in_per_feature={head.size_in}), "
                f"got {conditioner.in_per_feature}"
            )
        self.conditioner, self.head, self.context = conditioner, head, context
        batch_shape = broadcast_shapes(batch_shape, () if context is None else context.shape[:-1])
        super().__init__(torch.Size(batch_shape), conditioner.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have gradients, as the head has it."""
        return self.head.has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where events live, as the head has it."""
        return self.head.support_of(self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Autoregressive":
        """Returns the distribution with a larger batch shape."""
        validate = self.__dict__.get("_validate_args")
        return Autoregressive(self.conditioner, self.head, self.context, batch_shape, validate)

    # --- density ---------------------------------------------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density in nats, with shape ``sample_shape + batch_shape``, in one pass."""
        return self.conditional_log_probs(value).flatten(-self.event_dim).sum(-1)

    def conditional_log_probs(self, value: Tensor) -> Tensor:
        """Returns log p(x_i | x_<i, c) of every number, with shape ``sample_shape + batch_shape + event_shape``.

        Numbers are where they are in the event; unlikely ones are where an anomaly is.
        """
        if self._validate_args:
            self._validate_sample(value)
        if not value.is_floating_point():
            value = value.to(self.conditioner.like().dtype)
        scores = self.head.log_prob(value, self.parameters_of(value))
        shape = broadcast_shapes(scores.shape, self.batch_shape + self.event_shape)
        return scores if scores.shape == shape else scores.expand(shape)

    def parameters_of(self, value: Tensor) -> Tensor:
        """Returns the head's parameters of every number, with shape ``(*) + event_shape + (head.size,)``."""
        return leave_autocast(self.conditioner(fold(self.head.embed(value), self.event_dim), self.context))

    # --- samples ---------------------------------------------------------------------------------------------------

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws samples."""
        return self.draw(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws reparameterised samples.

        Raises:
            NotImplementedError: If the head has none.
        """
        if not self.has_rsample:
            raise NotImplementedError(f"rsample: {type(self.head).__name__} is not reparameterised; use sample")
        return self._draw(self._extended_shape(torch.Size(sample_shape)))

    @torch.no_grad()
    def draw(
        self,
        sample_shape: Sequence[int] = (),
        *,
        given: Tensor | None = None,
        observed: Tensor | None = None,
        method: Method = "incremental",
        progress: bool = False,
    ) -> Tensor:
        r"""Draws samples, some of whose numbers may be given.

        Numbers that are not observed are drawn from :math:`p(x_i | x_{<i}, c)`. If the observed ones come first in the
        order (the upper half of an image) these are exact draws given them; otherwise they do not know of observed
        numbers that come later: see :func:`pyro_dgm.tasks.impute`.

        Args:
            sample_shape: Shape of the samples.
            given: Values of observed numbers, which broadcast to ``sample_shape + batch_shape + event_shape``.
            observed: Which numbers are observed, a mask that broadcasts to ``event_shape``.
            method: ``"incremental"``, ``"naive"`` or ``"jacobi"``; see the module.
            progress: Whether a bar shows the numbers drawn (for ``"jacobi"``, the rounds).

        Raises:
            ValueError: If the method is unknown, or only one of ``given`` and ``observed`` is there.
        """
        if (given is None) != (observed is None):
            raise ValueError("given, observed: expected both or none; observed says which numbers of given hold")
        if method not in ("incremental", "naive", "jacobi"):
            raise ValueError(f"method: expected 'incremental', 'naive' or 'jacobi', got {method!r}")
        shape = self._extended_shape(torch.Size(sample_shape))
        if observed is not None:
            given = given.to(self.conditioner.like().dtype).expand(shape)
            observed = observed.bool().expand(self.event_shape).flatten().tolist()
        if method == "jacobi":
            return self._jacobi(shape, given, observed, progress)
        return self._draw(shape, given, observed, method == "naive", progress)

    def _draw(
        self,
        shape: torch.Size,
        given: Tensor | None = None,
        observed: list[bool] | None = None,
        naive: bool = False,
        progress: bool = False,
        stop: int | None = None,
    ) -> Tensor:
        n, noise, context = self._begin(shape)
        noise = noise.flatten(1, -2).unbind(1)
        known = None if given is None else given.reshape(n, len(noise)).unbind(-1)
        columns = list(known or [noise[0].new_zeros(n)] * len(noise))
        with without_autocast(noise[0]):
            walk = NaiveWalk(self.conditioner, context, n) if naive else self.conditioner.walk(context, n)
            for i in bar(self.conditioner.sequence[:stop], progress):
                head = self.head.at(i)
                theta = walk.output()[..., : head.size]
                if known is None or not observed[i]:
                    columns[i] = head.draw(theta, noise[i][..., : head.noises])
                walk.see(self.seen(i, columns[i]))
        return torch.stack(columns, -1).reshape(shape)

    def _jacobi(self, shape: torch.Size, given: Tensor | None, observed: list[bool] | None, progress: bool) -> Tensor:
        _, noise, context = self._begin(shape)
        theta = noise.new_zeros(*noise.shape[:-1], self.head.size)
        fixed = None if observed is None else torch.tensor(observed, device=noise.device).reshape(self.event_shape)
        x = None
        with without_autocast(noise):
            for _ in bar(range(self.event_shape.numel() + 1), progress):
                before, x = x, self.head.draw(theta, noise)
                x = x if fixed is None else torch.where(fixed, given.reshape(x.shape), x)
                if before is not None and torch.equal(before, x):
                    break
                theta = self.conditioner(fold(self.head.embed(x), self.event_dim), context)
        return x.reshape(shape)

    def _begin(self, shape: torch.Size) -> tuple[int, Tensor, Tensor | None]:
        """Returns the number of events, their noise, and their contexts."""
        batch_shape = shape[: len(shape) - self.event_dim]
        n = batch_shape.numel()
        return n, self.head.noise((n, *self.event_shape), self.conditioner.like()), self.contexts(batch_shape)

    def contexts(self, batch_shape: torch.Size) -> Tensor | None:
        """Returns the contexts of a batch, with shape (n, context), or (1, context) where they are one for all."""
        if self.context is None:
            return None
        *own, width = self.context.shape
        if torch.Size(own).numel() > 1:
            return leave_autocast(self.context).expand(*batch_shape, width).reshape(batch_shape.numel(), width)
        return leave_autocast(self.context).reshape(1, width)

    def seen(self, i: int, x: Tensor) -> Tensor:
        """Returns what a walk sees of number i, shape (n,), with shape (in_per_feature, n)."""
        return filled(self.head.at(i).embed(x), self.head.size_in).mT

    # --- finite support --------------------------------------------------------------------------------------------

    def _levels(self) -> list[int | None]:
        return [self.head.at(i).levels for i in range(self.event_shape.numel())]

    @property
    def has_enumerate_support(self) -> bool:
        """Whether there are few enough states to enumerate, at most :data:`MAX_STATES`."""
        levels = self._levels()
        return None not in levels and math.prod(levels) <= MAX_STATES

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Returns all states, along a new first dimension.

        Raises:
            NotImplementedError: If there are too many, or infinitely many.
        """
        if not self.has_enumerate_support:
            raise NotImplementedError(f"enumerate_support: expected at most {MAX_STATES} states; sample this site")
        like = self.conditioner.like()
        states = torch.tensor([*itertools.product(*map(range, self._levels()))], dtype=like.dtype, device=like.device)
        states = states.reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return states.expand(-1, *self.batch_shape, *self.event_shape) if expand else states

    # --- in a Pyro program -----------------------------------------------------------------------------------------

    def as_sites(self, name: str, by: Literal["number", "row"] = "number") -> Tensor:
        """Samples an event as sequential sites of a Pyro program, so that any of its parts can be observed or set.

        Sites are called ``name_i``, i the place of the number in the flat event, or the row of the image. Each has the
        distribution given the values of those before it in the order, whether sampled, observed or intervened on; the
        sum of their log-densities is that of the event.

        Args:
            name: Their common name.
            by: ``"number"``: a site for each number. ``"row"``: a site for each row of an image, with shape (C, W).

        Returns:
            The event, with shape ``batch_shape + event_shape``, or larger if sites were broadcast by plates.

        Raises:
            ValueError: If rows are asked of something else than an image in raster order.
        """
        from .sites import by_number, by_row

        if by not in ("number", "row"):
            raise ValueError(f"by: expected 'number' or 'row', got {by!r}")
        return (by_number if by == "number" else by_row)(self, name)


def fold(seen: Tensor, event_dim: int) -> Tensor:
    """Folds the numbers that stand for a number, the last dimension, into the first dimension of the event."""
    if seen.shape[-1] == 1:
        return seen[..., 0]
    return seen.movedim(-1, -event_dim).flatten(-event_dim - 1, -event_dim)


def bar(items: Iterable[Any], progress: bool) -> Iterable[Any]:
    """Returns the items, with a progress bar if wanted."""
    if not progress:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc="sample")
