r"""Energy-based models: a density that is known but for its normaliser, and a Markov chain that leaves it invariant.

.. math::
    p_\beta(x | c) = \frac{e^{-F_\beta(x, c)}}{Z_\beta(c)}, \qquad 0 \le \beta \le 1, \quad Z_0 = 1

The model is :math:`p_1`; :math:`p_0` is a distribution that can be sampled and is normalised. Objectives, annealed
importance sampling and kernels of :mod:`pyro_dgm.mcmc` know a model by three methods only:

=================================== ===============================================================================
``energy(x, context, beta)``         :math:`F_\beta(x, c)` in nats, differentiable
``transition(x, context, beta)``     one step of a chain that leaves :math:`p_\beta` invariant (a sweep of block Gibbs
                                     sampling, some steps of Langevin dynamics), without gradients
``initial(shape, context)``          exact draws of :math:`p_0`
=================================== ===============================================================================

:math:`Z_1` is enumerated where it can be, and else estimated once, after training, by
:meth:`EnergyBasedModel.estimate_log_partition`.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.utils.checkpoint import checkpoint

from ...distributions import Boltzmann
from ..base import ApproximateModel, GenerativeModel, OneSite

if TYPE_CHECKING:
    from ...mcmc import LogPartition
    from ...objectives import Objective

MAX_UNITS, CHUNK = 20, 2**14  # units whose states are enumerated, states at a time

_ESTIMATE = ("log_partition", "log_partition_error", "_estimated_at")  # buffers


class EnergyBasedModel(OneSite, ApproximateModel):
    """What models with an energy share; subclasses implement ``energy``, ``transition`` and ``initial``.

    Args:
        event_shape: Shape of one x.
        context: Width of the context, 0 for none.
        support: Where the data live.
        enumerable: Whether log Z is known exactly: ``exact_log_partition`` and ``exact_sample`` are implemented then.
        sweeps: Number of transitions behind a sample that cannot be exact: a chain that is carried from p_0 to the
            model, the temperatures evenly spaced, half of them at the last.

    Attributes:
        log_partition: The latest estimate of log Z in nats, infinite before the first; a buffer.
        log_partition_error: Its standard error; a buffer.
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context: int = 0,
        support: constraints.Constraint = constraints.real,
        *,
        enumerable: bool = False,
        sweeps: int = 1000,
    ) -> None:
        super().__init__(event_shape, context, support)
        if sweeps < 1:
            raise ValueError(f"sweeps: expected at least 1, got {sweeps}")
        self.enumerable, self.sweeps = enumerable, sweeps
        for name in _ESTIMATE:
            self.register_buffer(name, torch.full((), torch.inf))

    def energy(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        r"""Returns the energy :math:`F_\beta(x, c)` in nats, differentiable, in float32 at least.

        Args:
            x: Data, with shape ``(*) + event_shape``.
            context: Contexts, with shape ``(*, context)``.
            beta: The inverse temperature: a number, or a tensor that broadcasts against (*), in either direction.

        Returns:
            The energies, with the shape (*) of data, contexts and temperatures together.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks energy")

    def transition(self, x: Tensor, context: Tensor | None = None, beta: Tensor | float = 1.0) -> Tensor:
        r"""Returns the next states of chains at x, one for each of the batch; arguments as in :meth:`energy`.

        It leaves :math:`p_\beta` invariant, and has no gradients. The bound by a reverse chain needs it reversible, as
        a sweep of block Gibbs sampling is that draws the hidden units and then x.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks transition")

    def initial(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns exact draws of p_0, with shape ``shape + event_shape``; contexts broadcast to ``shape``."""
        raise NotImplementedError(f"{type(self).__name__} lacks initial")

    def exact_log_partition(self, context: Tensor | None = None) -> Tensor:
        """Returns log Z in nats by enumeration, with the batch shape of the context, differentiable.

        Raises:
            ValueError: If there are too many states.
        """
        raise ValueError(f"exact_log_partition: {type(self).__name__} has too many states; use estimate_log_partition")

    def exact_sample(self, shape: Sequence[int], context: Tensor | None = None) -> Tensor:
        """Returns independent exact draws, with shape ``shape + event_shape``, where log Z is exact.

        Raises:
            ValueError: If there are too many states.
        """
        raise ValueError(f"exact_sample: {type(self).__name__} has too many states; run chains instead")

    def estimate_log_partition(
        self, num_chains: int = 100, num_temperatures: int = 10_000, context: Tensor | None = None, **settings: Any
    ) -> "LogPartition":
        """Estimates log Z by annealed importance sampling, after which ``log_prob`` works until parameters change.

        With a context the estimate is returned only: there is one for each.

        Args:
            num_chains: Number of chains K.
            num_temperatures: Number T of temperatures; more of them help more than more chains.
            context: One context, with shape (context,).
            settings: Further arguments of :func:`pyro_dgm.mcmc.estimate_log_partition`, which says more.

        Returns:
            The estimate, its standard error, the effective sample size of its weights, and bounds from both sides.
        """
        from ...mcmc import estimate_log_partition

        found = estimate_log_partition(self, num_chains, num_temperatures, context, **settings)
        if context is None:
            with torch.no_grad():
                self.log_partition.fill_(found.value)
                self.log_partition_error.fill_(found.standard_error)
                self._estimated_at.copy_(self._fingerprint())
        return found

    def _distribution(self, context: Tensor | None) -> Boltzmann:
        drawn = as_drawn(self)
        return Boltzmann(
            drawn(lambda x: self.energy(x, context)),
            drawn(lambda: self._log_partition(context)),
            drawn(lambda shape: self._sample(shape, context)),
            self.event_shape,
            self.support,
            () if context is None else context.shape[:-1],
            "exact" if self.enumerable else "estimate",
        )

    def _log_partition(self, context: Tensor | None) -> Tensor:
        name = type(self).__name__
        if self.enumerable:
            return self.exact_log_partition(context)
        if context is not None:
            raise ValueError(
                f"log_prob: log Z of this {name} depends on the context and has too many states to be enumerated; use "
                "unnormalized_log_prob, or estimate_log_partition(context=...) for one context"
            )
        if bool(self.log_partition.isinf()):
            raise ValueError(
                f"log_prob: log Z of this {name} is not known; call its estimate_log_partition() after training, or "
                "use unnormalized_log_prob, which needs none"
            )
        if not torch.allclose(self._estimated_at, self._fingerprint(), rtol=1e-5, atol=1e-5):
            raise ValueError(
                f"log_prob: the parameters of this {name} have changed since log Z was estimated; call "
                "estimate_log_partition() again, or use unnormalized_log_prob"
            )
        return self.log_partition

    @torch.no_grad()
    def _fingerprint(self) -> Tensor:
        """A number that is another one for other parameters and data moments: their sum with random signs."""
        total: Any = 0.0
        buffers = (b for name, b in self.named_buffers() if b.is_floating_point() and name not in _ESTIMATE)
        for k, p in enumerate((*self.parameters(), *buffers)):
            t = torch.arange(p.numel(), dtype=torch.float64, device=p.device) + 31 * k
            total = total + p.detach().double().flatten() @ (12.9898 * t.square()).cos()
        return total.to(self._estimated_at.dtype)

    def _sample(self, shape: Sequence[int], context: Tensor | None) -> Tensor:
        if self.enumerable:
            return self.exact_sample(shape, context)
        x = self.initial(shape, context)
        for beta in torch.linspace(0, 2, self.sweeps + 1, device=x.device).clamp(max=1)[1:].unbind():
            x = self.transition(x, context, beta)
        return x

    def objective(self) -> "Objective":
        """Returns persistent contrastive divergence; for a model with a context, contrastive divergence."""
        from ...objectives import ContrastiveDivergence, PersistentContrastiveDivergence

        return ContrastiveDivergence() if self.context else PersistentContrastiveDivergence()


def as_drawn(model: GenerativeModel) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Returns what has a function see weights that have a prior as they are now drawn.

    It also tells a Pyro program of the parameters, which it would see too late, in ``log_prob``.
    """
    for name in (*model._parameters, *model._modules):
        getattr(model, name)
    weights = model._random_weights()

    def drawn(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def seeing(*args: Any) -> Tensor:
            with model._with_weights(weights) if weights else nullcontext():
                return function(*args)

        return seeing

    return drawn


def binary_states(first: int, last: int, units: int, like: Tensor) -> Tensor:
    """Returns states first, ..., last - 1 of the 2^units of binary units, with shape (last - first, units).

    Example:
        >>> binary_states(0, 4, 2, torch.zeros(()))
        tensor([[0., 0.],
                [1., 0.],
                [0., 1.],
                [1., 1.]])
    """
    index = torch.arange(first, last, device=like.device)
    return (index[:, None] >> torch.arange(units, device=like.device) & 1).to(like.dtype)


def behind(beta: Tensor | float, dims: int = 1) -> Tensor | float:
    """Returns an inverse temperature with so many dimensions more, which broadcasts against units."""
    return beta.reshape(beta.shape + (1,) * dims) if isinstance(beta, Tensor) else beta


def chosen(log_p: Tensor, shape: Sequence[int]) -> Tensor:
    """Draws rows of a table.

    Args:
        log_p: Unnormalised log-probabilities, with shape ``(rows,) + batch_shape``.
        shape: Shape of the draws, of samples and batch together.
    """
    log_p, shape = log_p.movedim(0, -1), torch.Size(shape)
    samples = len(shape) - (log_p.dim() - 1)
    return Categorical(logits=log_p.expand(*shape[samples:], -1)).sample(shape[:samples])


def exact_states(log_f: Callable[[Tensor], Tensor], units: int, like: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns independent exact draws of binary units, with shape ``shape + (units,)``; see `log_sum_over_states`."""
    states = binary_states(0, 2**units, units, like)
    return states[chosen(torch.cat([log_f(part) for part in states.split(CHUNK)]), shape)]


def log_sum_over_states(log_f: Callable[[Tensor], Tensor], units: int, like: Tensor, chunk: int = CHUNK) -> Tensor:
    r"""Returns :math:`\log \sum_s f(s)` over the states of binary units, in the memory of one chunk, differentiable.

    Args:
        log_f: Maps states (s, units) to log f, with shape ``(s,) + batch_shape``.
        units: Number of units.
        like: A tensor whose dtype and device the states have.
        chunk: Number of states at a time.

    Raises:
        ValueError: If there are more than 20 units.
    """
    if units > MAX_UNITS:
        raise ValueError(f"units: expected at most {MAX_UNITS} to enumerate 2^units states, got {units}")

    def part(first: int, last: int) -> Tensor:
        return log_f(binary_states(first, last, units, like)).logsumexp(0)

    if 2**units <= chunk:
        return part(0, 2**units)
    parts = []
    for first in range(0, 2**units, chunk):
        span = first, min(2**units, first + chunk)
        parts.append(checkpoint(part, *span, use_reentrant=False) if torch.is_grad_enabled() else part(*span))
    return torch.stack(parts).logsumexp(0)
