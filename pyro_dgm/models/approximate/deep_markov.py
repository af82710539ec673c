r"""The deep Markov model: a variational autoencoder of sequences, a Gaussian state-space model with networks in it.

.. math::
    z_t \sim p(z_t | z_{t-1}, c), \qquad x_t \sim p(x_t | z_t, c), \qquad
    q(z | x, c) = \prod_t q(z_t | z_{t-1}, x_{t:T}, c)

    \log p(x | c) \ge E_q \sum_t
    \Bigl[\log p(x_t | z_t, c) - \log \frac{q(z_t | z_{t-1}, x_{t:T}, c)}{p(z_t | z_{t-1}, c)}\Bigr]

with a first state :math:`z_0` that is learned. Given the state before, :math:`z_t` depends on no data but those to
come, so a posterior of this form leaves nothing out, and a recurrent network that reads the data from their end,
:math:`h_t = \mathrm{GRU}([x_t, c], h_{t+1})`, has seen all that matters. (Krishnan, Shalit and Sontag, Structured
Inference Networks for Nonlinear State Space Models, 2016, arXiv:1609.09869.)
"""

from collections.abc import Generator, Sequence
from functools import partial

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ..._shapes import broadcast_shapes
from ...distributions import Hierarchy
from ...distributions.hierarchy import concatenated, join
from ...distributions.missing import has_missing
from ...distributions.steps import Steps, steps_or_missing
from ...nn import leave_autocast
from ...nn.recurrent import BackwardGRU, Combiner, GatedTransition
from ..base import GenerativeModel
from ..parametric import DiagonalNormal
from .latent import LatentVariableModel, promise, promise_latent, shown, shown_features


class DeepMarkovModel(LatentVariableModel):
    r"""A Markov chain of latent states that emits a sequence.

    Data are sequences (T, \*step), a step being an event of the likelihood. Sites are ``"z_1"``, ..., ``"z_T"``; z is
    their concatenation, ``z.unflatten(-1, (T, latent))`` the states.

    Shorter sequences and gaps: with ``missing=True`` a step that has NaN in it is not observed, and the model's density
    is that of the observed steps, the rest integrated out. So sequences of different lengths are padded with NaN, and
    padding counts nothing: where no datum is to come, the posterior is the transition itself, and the divergence zero.

    Args:
        steps: Number T of steps.
        latent: Width of a state.
        likelihood: Called with [z_t, c], shape (\*, latent + context), returns p(x_t | z_t, c).
        context: Width of the context c, 0 for none; it holds for the whole sequence.
        hidden_features: Hidden widths of the transition's networks.
        recurrent_features: Width of h_t.
        num_particles: Draws per datum in ``log_prob``.
        missing: Whether steps may be NaN; inference then costs an evaluation of the transition more at every step.
        transition: Called with [z_{t-1}, c], returns p(z_t | z_{t-1}, c), in place of a normal one with
            :class:`~pyro_dgm.nn.recurrent.GatedTransition`.
        posterior: Called with [z_{t-1}, h_t], returns q(z_t | z_{t-1}, x_{t:T}, c), in place of a normal one with
            :class:`~pyro_dgm.nn.recurrent.Combiner`: ``IAF(latent, latent + recurrent_features)``, say.
        encoder: Called with [x_t, c], shape (\*, T, D + context), and which steps are observed, shape (\*, T), or
            ``None`` for all, returns h_t, shape (\*, T, recurrent_features), in place of a
            :class:`~pyro_dgm.nn.recurrent.BackwardGRU`. Steps that are not observed are filled with zeros.

    Raises:
        ValueError: If there is no step, or a part does not fit.

    Example:
        >>> model = DeepMarkovModel(10, 2, DiagonalNormal(3, context=2), missing=True)
        >>> x = model().sample((4,))
        >>> x[0, 7:] = torch.nan  # a sequence of seven steps
        >>> model().log_prob(x).shape, model.forecast(x[1:], steps=5).shape
        (torch.Size([4]), torch.Size([3, 5, 3]))
    """

    def __init__(
        self,
        steps: int,
        latent: int,
        likelihood: nn.Module,
        context: int = 0,
        hidden_features: Sequence[int] = (64,),
        recurrent_features: int = 64,
        num_particles: int = 1,
        missing: bool = False,
        *,
        transition: nn.Module | None = None,
        posterior: nn.Module | None = None,
        encoder: nn.Module | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        step_shape, support = promise("likelihood", likelihood, latent + context)
        support = steps_or_missing(support, len(step_shape)) if missing else support
        super().__init__((steps, *step_shape), context, support)
        self.steps, self.latent, self.missing, self.num_particles = steps, latent, missing, num_particles
        self.likelihood = likelihood
        self.transition = transition or DiagonalNormal(
            latent, latent + context, network=GatedTransition(latent, context, hidden_features)
        )
        self.posterior = posterior or DiagonalNormal(
            latent, latent + recurrent_features, network=Combiner(latent, recurrent_features)
        )
        promise_latent("transition", self.transition, latent + context, latent)
        promise_latent("posterior", self.posterior, latent + recurrent_features, latent)
        self.encoder = encoder or BackwardGRU(shown_features(likelihood, step_shape) + context, recurrent_features)
        self.z_0 = nn.Parameter(torch.zeros(latent))

    def _prior(self, context: Tensor | None) -> Hierarchy:
        return self._chain(self.z_0, self.steps, context)

    def _chain(self, start: Tensor, steps: int, context: Tensor | None) -> Hierarchy:
        """Returns the distribution of so many states after ``start``."""
        sizes = {f"z_{t}": self.latent for t in range(1, steps + 1)}

        def at_once(z: Tensor) -> dict[str, Tensor]:
            states = z.unflatten(-1, (steps, self.latent))
            first = start.unsqueeze(-2)
            shape = broadcast_shapes(states.shape[:-2], first.shape[:-2])
            before = torch.cat([first.expand(*shape, 1, -1), states[..., :-1, :].expand(*shape, -1, -1)], -2)
            scores = self.transition(join(before, 1, _of_steps(context))).log_prob(states)
            return dict(zip(sizes, scores.unbind(-1), strict=True))

        batch_shape = broadcast_shapes(start.shape[:-1], () if context is None else context.shape[:-1])
        return Hierarchy(sizes, partial(self._forwards, start, steps, context), batch_shape, at_once=at_once)

    def _forwards(
        self, start: Tensor, steps: int, context: Tensor | None
    ) -> Generator[tuple[str, Distribution], Tensor, None]:
        z = start
        for t in range(1, steps + 1):
            z = yield f"z_{t}", self.transition(join(z, 1, context))

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | z, c) for z with shape (*, T latent), of as many steps as z has states."""
        p = self.likelihood(join(z.unflatten(-1, (-1, self.latent)), 1, _of_steps(context)))
        return Steps(p) if self.missing else dist.Independent(p, 1)

    def infer(self, x: Tensor, context: Tensor | None = None) -> Hierarchy:
        """Returns q(z_1, ..., z_T | x, c) for x with shape (*, T, *step)."""
        event_dim = len(self.event_shape) - 1
        observed, to_come = None, None
        if self.missing:
            observed = ~has_missing(x, event_dim)
            to_come = observed.flip(-1).cummax(-1).values.flip(-1)
            x = torch.where(observed.reshape(*observed.shape, *[1] * event_dim), x, 0.0)
        h = leave_autocast(
            self.encoder(join(shown(x, self.likelihood, event_dim), event_dim, _of_steps(context)), observed)
        )

        def conditionals() -> Generator[tuple[str, Distribution], Tensor, None]:
            z = self.z_0
            for t in range(self.steps):
                q = self.posterior(concatenated([z, h[..., t, :]]))
                if to_come is not None:
                    q = _chosen(to_come[..., t], q, self.transition(join(z, 1, context)))
                z = yield f"z_{t + 1}", q

        sizes = {f"z_{t}": self.latent for t in range(1, self.steps + 1)}
        return Hierarchy(sizes, conditionals, h.shape[:-2])

    @torch.no_grad()
    def forecast(
        self, x: Tensor, context: Tensor | None = None, steps: int = 1, sample_shape: Sequence[int] = ()
    ) -> Tensor:
        """Draws continuations of sequences: the last state from the posterior, then states and data after it.

        Args:
            x: Sequences, with shape (*, T, *step).
            context: Their contexts.
            steps: Number of steps after the T-th.
            sample_shape: Shape of the draws per sequence.

        Returns:
            Continuations, with shape ``sample_shape + (*, steps, *step)``.
        """
        z = self.infer(x, context).sample(sample_shape)[..., -self.latent :]
        return self.decode(self._chain(z, steps, context).sample(), context).sample()

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the standardisation of a flow as likelihood to the observed steps."""
        if isinstance(self.likelihood, GenerativeModel):
            states = self.encode(x, context).unflatten(-1, (self.steps, self.latent))
            seen = ~has_missing(x, len(self.event_shape) - 1)
            self.likelihood.initialize(x[seen], join(states, 1, _of_steps(context))[seen])


def _of_steps(context: Tensor | None) -> Tensor | None:
    """Returns a context with a dimension for the steps, all of which it is given to."""
    return None if context is None else context.unsqueeze(-2)


def _chosen(mask: Tensor, q: Distribution, p: Distribution) -> Distribution:
    """Returns q where the mask says so, p elsewhere; normal ones stay normal, with closed-form divergences."""
    if all(isinstance(d, dist.Independent) and isinstance(d.base_dist, dist.Normal) for d in (q, p)):
        loc, scale = (torch.where(mask[..., None], a, b) for a, b in ((q.mean, p.mean), (q.stddev, p.stddev)))
        return dist.Normal(loc, scale).to_event(1)
    return dist.MaskedMixture(mask, p, q)
