r"""What a generator could have made of which only a degraded observation is left: masked, blurred, noisy.

.. math::
    z \sim p(z | c), \qquad x = G(z, c), \qquad y \sim p(y | x); \qquad p(z | y) \propto p(y | G(z, c))\, p(z | c)

A trained generator is a prior over images, the way they are degraded a likelihood, and the rest is Bayesian inference
of z: :class:`InverseProblem` is the Pyro program, for ``SVI``, ``NUTS``, ``Predictive``; :func:`invert` anneals many
Markov chains from the prior to the posterior of many observations at once, which finds several modes where one chain
or a normal guide finds one. (Bora, Jalal, Price and Dimakis, Compressed Sensing using Generative Models, 2017,
arXiv:1703.03208, who look for the best z alone; for pictures: Yeh, Chen, Lim, Schwing, Hasegawa-Johnson and Do,
Semantic Image Inpainting with Deep Generative Models, 2016, arXiv:1607.07539.)

The generator stays as it is. A posterior over z knows only what G can make: whatever is not in its range is
explained as noise, and a small noise then makes the posterior sharp and hard to sample.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from ..distributions import Marginal, Pushforward
from ..evaluation.likelihood import evaluating
from ..mcmc import PosteriorAnnealing, Weights
from ..models.base import GenerativeModel

Observe = Callable[[Tensor], Distribution]


class Inversion(NamedTuple):
    """What was behind observations.

    Attributes:
        samples: Draws of x, with shape ``(num_samples, n) + event_shape``.
        z: Their latents, with shape ``(num_samples, n) + latent shape``.
        log_prob_observed: log p(y) in nats, with shape (n,): the logarithm of an unbiased estimate.
        effective_size: Effective number of the chains that the draws come from, with shape (n,). Where it is a few,
            take more chains or temperatures.
    """

    samples: Tensor
    z: Tensor
    log_prob_observed: Tensor
    effective_size: Tensor


class InverseProblem:
    """The Pyro program of degraded observations, with sites ``"z"``, ``"x"`` (deterministic) and ``"y"``.

    ``SVI(problem, AutoMultivariateNormal(problem), ...)``, ``NUTS(problem)``, ``Predictive(problem, draws)`` take it as
    any program. Observations with a batch dimension are in a plate ``"data"``; for ``NUTS`` pass one, without. The
    generator's parameters are no parameters of the program, and it is in evaluation mode.

    Args:
        model: A model of noise through a generator, ``GAN`` for one, or one of latents and a likelihood, ``VAE``, whose
            x is then the likelihood's mean.
        observe: Maps x, with shape ``(*) + event_shape``, to the distribution p(y | x), with batch shape (*):
            ``lambda x: Normal(x.flatten(-3)[..., seen], 0.1).to_event(1)`` for images of which some pixels are seen.
        context: A context c, with shape (context,), or one for each observation, with shape (n, context).

    Raises:
        ValueError: If the model has no latents of which x is a differentiable function, or ``observe`` does not return
            one distribution for each x.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyro.infer.autoguide import AutoMultivariateNormal
        >>> from pyro_dgm.models import GAN
        >>> problem = InverseProblem(GAN(4, 2), lambda x: Normal(x[..., :2], 0.1).to_event(1))
        >>> svi = SVI(problem, AutoMultivariateNormal(problem), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        >>> loss = svi.step(torch.zeros(2))
        >>> problem.generate(torch.zeros(7, 2)).shape
        torch.Size([7, 4])
    """

    def __init__(self, model: GenerativeModel, observe: Observe, context: Tensor | None = None) -> None:
        self.model, self.observe, self.context = model, observe, context
        with torch.no_grad(), evaluating(model):
            p = model(context)
            if not (isinstance(p, Marginal) or (isinstance(p, Pushforward) and p.has_rsample)):
                raise ValueError(
                    f"model: expected a generator or a latent variable model, such as GAN or VAE, got "
                    f"{type(model).__name__}, whose samples are no differentiable function of latents"
                )
            likelihood = observe(_generate(p, p.prior.sample()))
        self.event_shape = likelihood.event_shape
        if likelihood.batch_shape != p.batch_shape:
            raise ValueError(
                f"observe: expected a distribution with batch shape {tuple(p.batch_shape)}, one for each x, got "
                f"{tuple(likelihood.batch_shape)} and event shape {tuple(self.event_shape)}; does it lack .to_event(1)?"
            )

    @property
    def prior(self) -> Distribution:
        """p(z | c)."""
        with self._frozen() as p:
            return p.prior

    def generate(self, z: Tensor) -> Tensor:
        """Returns x = G(z, c), with shape ``(*) + event_shape``, for latents with shape ``(*) + latent shape``."""
        with self._frozen() as p:
            return _generate(p, z)

    def __call__(self, y: Tensor | None = None) -> Tensor:
        """Samples z and x, and observes y, with shape ``event_shape`` or ``(n,) + event_shape`` of the observation.

        Raises:
            ValueError: If y has another shape.
        """
        with self._frozen() as p:
            batch_shape = p.batch_shape
        if y is not None:
            batch_shape = self._batch_shape(y) or batch_shape
        with pyro.plate("data", batch_shape[0], dim=-1) if batch_shape else nullcontext():
            z = pyro.sample("z", p.prior)
            x = pyro.deterministic("x", self.generate(z), event_dim=len(self.model.event_shape))
            return pyro.sample("y", self.observe(x), obs=y)

    def evidence(self) -> Marginal:
        """Returns p(y | c), the distribution of observations, whose log_prob is a lower bound, and loose."""
        return Marginal(self.prior, lambda z: self.observe(self.generate(z)), None, self.event_shape)

    @contextmanager
    def _frozen(self) -> Iterator[Any]:
        """Within, p(x | c) is at hand, the model in evaluation mode, and Pyro does not hear of its parameters."""
        with poutine.block(), evaluating(self.model):
            yield self.model(self.context)

    def _batch_shape(self, y: Tensor) -> torch.Size:
        batch_dim = y.dim() - len(self.event_shape)
        if batch_dim not in (0, 1) or y.shape[batch_dim:] != self.event_shape:
            shape = ", ".join(map(str, self.event_shape))
            raise ValueError(f"y: expected shape ({shape}) or (n, {shape}), as observe says, got {tuple(y.shape)}")
        return y.shape[:batch_dim]


def _generate(p: Any, z: Tensor) -> Tensor:
    return p.likelihood(z).mean if isinstance(p, Marginal) else p.generator(z)


@torch.no_grad()
def invert(
    model: GenerativeModel,
    y: Tensor,
    observe: Observe,
    context: Tensor | None = None,
    *,
    num_samples: int = 1,
    num_chains: int = 64,
    num_temperatures: int = 200,
    leapfrog_steps: int = 10,
) -> Inversion:
    """Draws what a generator could have made, given degraded observations; see :class:`InverseProblem`.

    Chains of Hamiltonian Monte Carlo go from the prior to the posterior (:class:`~pyro_dgm.mcmc.PosteriorAnnealing`),
    and draws are chains in proportion to their weights: in the limit of many, draws of the posterior.

    Args:
        model: As of :class:`InverseProblem`, with one latent of real numbers.
        y: Observations, with shape (n, ...).
        observe: Maps x to p(y | x).
        context: Contexts, with shape (context,) or (n, context).
        num_samples: Draws for each observation.
        num_chains: Number of chains for each.
        num_temperatures: Steps along the path.
        leapfrog_steps: Gradients of the generator per step.

    Raises:
        ValueError: If model, observations or numbers do not fit.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyro_dgm.models import GAN
        >>> observe = lambda x: Normal(x[..., :2], 0.1).to_event(1)
        >>> found = invert(GAN(4, 2), torch.zeros(3, 2), observe, num_samples=5, num_temperatures=20)
        >>> found.samples.shape
        torch.Size([5, 3, 4])
    """
    problem = InverseProblem(model, observe, context)
    if y.dim() != len(problem.event_shape) + 1 or y.shape[1:] != problem.event_shape:
        raise ValueError(f"y: expected shape (n, {', '.join(map(str, problem.event_shape))}), got {tuple(y.shape)}")
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}")
    with pyro.validation_enabled(False):
        annealing = PosteriorAnnealing(problem.evidence(), y, num_chains, num_temperatures, leapfrog_steps)
        z, log_w = annealing.forward()
        weights = Weights().add(log_w)
        chosen = torch.multinomial(log_w.softmax(0).mT, num_samples, replacement=True).mT
        z = z[chosen, torch.arange(len(y), device=y.device)]
        return Inversion(problem.generate(z), z, weights.log_mean.to(log_w), weights.effective_size.to(log_w))
