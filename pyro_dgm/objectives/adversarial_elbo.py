r"""The evidence lower bound of a posterior that can be drawn and not scored: a critic tells the divergence.

.. math::
    L = E_{q(z | x)} \bigl[T(z, x) - \log p(x | z)\bigr], \qquad
    L_T = E_{q(z | x)}\, \mathrm{softplus}(-T(z, x)) + E_{p(z)}\, \mathrm{softplus}(T(z, x))

The best critic is :math:`T^* = \log q(z | x) - \log p(z)`, at which L is the negative bound. Its gradient in the
posterior goes through the draws alone, since :math:`E_q\, \nabla \log q = 0`. (Mescheder, Nowozin and Geiger,
Adversarial Variational Bayes, 2017, arXiv:1701.04722.)

Posterior and prior may be so far apart that no critic tells how far. *Adaptive contrast* compares the posterior with a
normal distribution :math:`r` of the same means and deviations :math:`\mu, \sigma`, taken from other draws,

.. math::
    L = E_q \bigl[T(\tilde z, x) + \log r(z) - \log p(x, z)\bigr], \qquad \tilde z = (z - \mu) / \sigma, \qquad
    T^* = \log q(z | x) - \log r(z)

so that the critic's task is one of shapes, and whatever it is the prior counts as it is: a learned prior, or one that
depends on other latents, needs this.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from ..distributions import UnitNormal, density_of
from ..nn import at_least_float32
from ..nn.critics import scores
from ..transforms.support import elementwise
from .base import AdversarialGame, Player, generative_model, num_data, penalised, unique_parameters
from .games import NonSaturating

Sites = Mapping[str, dict[str, Any]]


class Moments(NamedTuple):
    """Means and deviations of a posterior, feature by feature, with shape (*, L)."""

    loc: Tensor
    scale: Tensor


class AdversarialELBO(AdversarialGame):
    r"""The negative bound with a critic's divergence, in mean nats per datum, for any program and an implicit guide.

    The guide is any Pyro program that samples latents from distributions without a density,
    :class:`~pyro_dgm.distributions.Pushforward`: noise through a network. The critic scores these latents together;
    latents that the guide samples from ordinary distributions count as in the ELBO. After training the guide samples,
    ``Predictive(model, guide=guide)``, and nothing scores; how good the draws are is for
    :func:`~pyro_dgm.evaluation.c2st`, or for the posterior predictive, to say.

    How tight the loss is as a bound hangs on the critic, and one that lags behind flatters it: it is an estimate. Train
    the critic at a higher rate or for more steps than the guide.

    Args:
        critic: A module from the latents, unconstrained and joined to a vector, (*, L) to scores (*, 1) or (*); called
            as T(z), or as T(z, d) with what ``data`` returns.
        data: Maps the arguments of the programs to what the critic sees of a datum, for latents of one datum each, in a
            plate: ``lambda x: x``. ``None`` for latents that all data share, of which there is one posterior.
        contrast: Draws of the guide from which mean and deviation are taken for adaptive contrast, say 100; for 0 the
            contrast is the prior's draws.
        num_particles: Draws of the latents per step, in a plate around both programs: hundreds for latents that all
            data share, since the critic has no other examples; one is enough for latents in a plate.
        max_plate_nesting: How deep the plates of the programs are nested; those of a model of this package are known.
        critic_steps: Steps of the critic for each step of the programs.

    Raises:
        ValueError: If numbers do not fit; later, if the guide has no implicit site, or several in different plates.

    Example:
        >>> from pyro import distributions as dist
        >>> from pyro_dgm import fit
        >>> from pyro_dgm.distributions import Pushforward
        >>> from pyro_dgm.nn import MLP
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(z[..., 0].square(), 0.5), obs=x)
        >>> class Guide(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = MLP(2, 1)
        ...     def forward(self, x):
        ...         noise = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        ...         pyro.sample("z", Pushforward(noise, self.network, (1,)))
        >>> objective = AdversarialELBO(MLP(1, 1), contrast=100, num_particles=100)
        >>> history = fit(objective(model, Guide()), torch.ones(3), max_epochs=2, progress=False)
        >>> history.columns
        ['epoch', 'step', 'seconds', 'critic', 'loss']
    """

    def __init__(
        self,
        critic: nn.Module,
        data: Callable[..., Tensor] | None = None,
        *,
        contrast: int = 0,
        num_particles: int = 1,
        max_plate_nesting: int = 1,
        critic_steps: int = 1,
    ) -> None:
        super().__init__()
        if contrast < 0 or contrast == 1:
            raise ValueError(f"contrast: expected 0, or at least 2 draws to have a deviation, got {contrast}")
        if min(num_particles, critic_steps) < 1 or max_plate_nesting < 0:
            raise ValueError(
                "num_particles, critic_steps, max_plate_nesting: expected at least 1, 1 and 0, got "
                f"{num_particles}, {critic_steps} and {max_plate_nesting}"
            )
        self.critic, self.data = critic, data
        self.contrast, self.num_particles = contrast, num_particles
        self.max_plate_nesting, self.critic_steps = max_plate_nesting, critic_steps
        self.game = NonSaturating()  # the game whose best critic is a log-ratio

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the critic, which moves at every batch, and the programs, at every ``critic_steps``-th."""
        critic = unique_parameters([self.critic])
        own = unique_parameters([getattr(program, "__self__", program) for program in (model, guide)], but=critic)
        return [
            Player("critic", critic, partial(self.critic_loss, model, guide), averaged=False),
            Player("loss", own, partial(self.loss_of, model, guide), self.critic_steps),
        ]

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the negative bound per datum, the critic being believed."""
        run = _Run(self, model, guide, batch, settings)
        with run.store():
            guide_trace = run.guide(self.num_particles)
            replayed = poutine.trace(poutine.replay(run.many(run.programs[0], self.num_particles), trace=guide_trace))
            model_trace = prune_subsample_sites(replayed.get_trace(*batch, **settings))
            guide_trace = prune_subsample_sites(guide_trace)
            sites, moments = implicit(guide_trace), run.moments(self.contrast)
            if pyro.settings.get("validate_infer"):
                pyro.util.check_model_guide_match(model_trace, guide_trace, run.max_plate_nesting + 1)
            model_trace.compute_log_prob(lambda name, _: self.contrast > 0 or name not in sites)
            guide_trace.compute_log_prob(lambda name, _: name not in sites)
            total = _sum(model_trace) - _sum(guide_trace)
            z, ladj = unconstrained(sites, {name: site["value"] for name, site in sites.items()})
            log_q = self.score(standardised(z, moments), batch)
            if moments is not None:
                density = UnitNormal(torch.zeros_like(z)).log_prob(standardised(z, moments)).sum(-1)
                log_q = log_q + density - moments.scale.log().sum(-1) - ladj
            site = next(iter(sites.values()))
            total = total - scale_and_mask(log_q, site["scale"], site["mask"]).sum()
        return -total / (run.num_data * self.num_particles)

    def critic_loss(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the critic's loss: the cross-entropy of telling draws of the guide from those of the contrast."""
        run = _Run(self, model, guide, batch, settings)
        with torch.no_grad(), run.store():
            sites = implicit(prune_subsample_sites(run.guide(self.num_particles)))
            z, _ = unconstrained(sites, {name: site["value"] for name, site in sites.items()})
            moments = run.moments(self.contrast)
            z = standardised(z, moments)
            if moments is not None:
                other = torch.randn_like(z)
            else:
                prior = poutine.trace(run.many(run.programs[0], self.num_particles)).get_trace(*batch, **settings)
                other, _ = unconstrained(sites, {name: prior.nodes[name]["value"] for name in sites})
        return self.game.critic(self.score(z, batch), self.score(other, batch))

    def score(self, z: Tensor, batch: Any) -> Tensor:
        """Returns T(z) or T(z, d), with shape (*), for unconstrained latents (*, L), standardised under contrast."""
        return scores(self.critic, z.dim() - 1, z, None if self.data is None else self.data(*batch))


class _Run:
    """The programs on one batch."""

    def __init__(self, objective: AdversarialELBO, model: Any, guide: Any, batch: Any, settings: Any) -> None:
        self.owner = owner = generative_model(model)
        if owner is None:
            self.programs = model, guide
            self.max_plate_nesting = objective.max_plate_nesting
        else:
            self.programs = owner.model, getattr(owner, "implicit_guide", owner.guide)
            self.max_plate_nesting = max(1, batch[0].dim() - len(owner.event_shape))
        self.batch, self.settings = batch, settings
        self.num_data = settings.get("data_size") or num_data(model, batch[0])

    def store(self) -> AbstractContextManager:
        """A context in which Pyro's store does not hear of parameters that belong to a model."""
        return nullcontext() if self.owner is None else pyro.get_param_store().scope()

    def many(self, program: Callable, num_particles: int) -> Callable:
        """Returns a program run so many times at once."""
        if num_particles == 1:
            return program
        plate = pyro.plate("num_particles_vectorized", num_particles, dim=-self.max_plate_nesting - 1)

        def vectorised(*args: Any, **kwargs: Any) -> Any:
            with plate:
                return program(*args, **kwargs)

        return vectorised

    def guide(self, num_particles: int) -> poutine.Trace:
        """Returns a trace of the guide."""
        program = self.many(self.programs[1], num_particles)
        return poutine.trace(program).get_trace(*self.batch, **self.settings)

    @torch.no_grad()
    def moments(self, draws: int) -> Moments | None:
        """Returns means and deviations of the implicit latents over draws of their own; ``None`` for no draws."""
        if not draws:
            return None
        sites = implicit(prune_subsample_sites(self.guide(draws)))
        z, _ = unconstrained(sites, {name: site["value"] for name, site in sites.items()})
        return Moments(z.mean(0), z.std(0) + 1e-6)


def implicit(guide_trace: poutine.Trace) -> Sites:
    """Returns the sites of a guide that have no density.

    Raises:
        ValueError: If there is none, or they are in different plates.
    """
    sites = {
        name: site
        for name, site in guide_trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and density_of(site["fn"]) == "implicit"
    }
    if not sites:
        raise ValueError(
            "guide: expected a site sampled from an implicit distribution such as Pushforward, got only sites with a "
            "density; train with ELBO()"
        )
    shapes = {name: tuple(site["fn"].batch_shape) for name, site in sites.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"guide: expected all implicit sites in the same plates, for one critic to score, got batch shapes {shapes}"
        )
    return sites


def unconstrained(sites: Sites, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | float]:
    """Returns latents as vectors of reals, with shape (*, L), and the log-determinants of the way back, shape (*)."""
    parts, total = [], 0.0
    for name, site in sites.items():
        value, event_dim = values[name], site["fn"].event_dim
        batch_dim = value.dim() - event_dim
        if elementwise(site["fn"].support) is not constraints.real:
            transform = biject_to(site["fn"].support)
            real = transform.inv(value)
            ladj = transform.log_abs_det_jacobian(real, value)
            total = total + sum_rightmost(ladj, ladj.dim() - batch_dim)
            value = real
        parts.append(value.flatten(batch_dim) if event_dim else value.unsqueeze(-1))
    return torch.cat(parts, -1), total


def standardised(z: Tensor, moments: Moments | None) -> Tensor:
    """Returns latents in units of their deviations from their means, or as they are."""
    if moments is None:
        return z
    loc, scale = (t.reshape(t.shape[-z.dim() :]) if t.dim() > z.dim() else t for t in moments)
    return (z - loc) / scale


def _sum(trace: poutine.Trace) -> Tensor | float:
    nodes = trace.nodes.values()
    return sum(at_least_float32(site["log_prob"]).sum() for site in nodes if "log_prob" in site)
