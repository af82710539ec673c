r"""Objectives by importance weights: several draws of z per datum, each weighed by how well it explains the datum.

.. math::
    w_k = \frac{p(x | z_k)\, p(z_k)}{q(z_k | x)}, \quad z_k \sim q(z | x), \qquad
    L_K = E \log \frac{1}{K} \sum_{k=1}^K w_k \le \log p(x), \qquad
    \tilde w_k = \frac{w_k}{\sum_j w_j}

The bound rises with K to the log-likelihood. The objectives minimise :math:`-L_K`, weights taken datum by datum, and
differ in how they estimate its gradient. Towards decoder and prior :math:`p_\theta` all follow
:math:`\sum_k \tilde w_k \nabla_\theta \log w_k`; towards the posterior :math:`q_\phi`, with draws
:math:`z_k = z(\epsilon_k, \phi)` where there are such,

=============== ======================================================================================================
:class:`IWAE`   :math:`\sum_k \tilde w_k (\partial_z \log w_k \nabla_\phi z_k - \nabla_\phi \log q_\phi(z_k))`
:class:`STL`    :math:`\sum_k \tilde w_k\, \partial_z \log w_k \nabla_\phi z_k`, biased for K > 1
:class:`DReG`   :math:`\sum_k \tilde w_k^2\, \partial_z \log w_k \nabla_\phi z_k`
:class:`VIMCO`  :math:`\sum_k (\hat L - \hat L_{-k} - \tilde w_k) \nabla_\phi \log q_\phi(z_k)`
:class:`RWS`    :math:`\sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k)`, the gradient of another objective
=============== ======================================================================================================

What p and q share gets both gradients. All these need K draws of every datum at once (``fit(..., accumulate=...)``
splits batches), and a model with latents for each datum: on programs of your own use
``ELBO(RenyiELBO(alpha=0.0, num_particles=K))``.
"""

import math
from typing import Any

import torch
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Distribution

from ..distributions import Marginal, density_of
from ..distributions.marginal import draw, log_probs
from ..models.base import has_random_weights
from ..nn import leave_autocast
from .base import Objective, generative_model, penalised
from .reports import report


class ImportanceWeighted(Objective):
    """What these objectives share; subclasses say how the weights of a batch become a loss.

    Args:
        num_particles: Number K of draws of z per datum.

    Attributes:
        least: The fewest draws that the estimator can do with.
    """

    least = 1

    def __init__(self, num_particles: int) -> None:
        super().__init__()
        if num_particles < self.least:
            raise ValueError(f"num_particles: expected at least {self.least}, got {num_particles}")
        self.num_particles = num_particles

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the negative bound in mean nats per datum; where nothing is latent, the exact one.

        Raises:
            ValueError: If the model is not one with latents for each datum.
            NotImplementedError: If draws have to be reparameterised and are not.
        """
        owner = self._owner(model)
        with owner._pyro_context:  # tells SVI of the parameters, as a call of the model does
            x, p = batch[0], owner(*batch[1:])
            if isinstance(p, Marginal):
                loss, log_w = self._loss(p, p.proposal(x), x)
                report("ess", effective_sample_size(log_w))
                return loss.mean()
            if density_of(p) != "exact":
                raise ValueError(
                    f"model: expected a latent variable model such as VAE, got {type(owner).__name__}; "
                    "use NegativeLogLikelihood"
                )
            return -p.log_prob(x).mean()

    @torch.no_grad()
    def log_weights(self, model: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns log w_k of fresh draws, with shape ``(num_particles,) + batch``: to look at, without gradient."""
        p = self._owner(model)(context)
        if not isinstance(p, Marginal):
            raise ValueError(f"model: expected a latent variable model such as VAE, got {type(model).__name__}")
        return _total(*p.terms(x, p.proposal(x), (self.num_particles,)))

    def _loss(self, p: Marginal, q: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of each datum, whose gradient is the estimator, and the log-weights."""
        raise NotImplementedError(f"{type(self).__name__} lacks _loss")

    def _owner(self, model: Any) -> Any:
        owner = generative_model(model)
        if owner is None or has_random_weights(owner):
            what = type(model).__name__ if owner is None else f"{type(owner).__name__} with random weights"
            raise ValueError(
                f"model: {type(self).__name__} weighs the draws of every datum by themselves, so it expects a latent "
                f"variable model such as VAE, got {what}; for Pyro programs use "
                f"ELBO(RenyiELBO(alpha=0.0, num_particles={max(2, self.num_particles)}))"
            )
        return owner


class IWAE(ImportanceWeighted):
    r"""The importance-weighted bound by its plain gradient.

    For one draw it is the ELBO. As K grows, the signal-to-noise ratio of its gradient towards the posterior falls like
    :math:`1 / \sqrt K` (Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018,
    arXiv:1802.04537): prefer :class:`DReG`. (Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2015,
    arXiv:1509.00519.)

    Args:
        num_particles: Number K of draws of z per datum.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> x = torch.zeros(8, 5)
        >>> IWAE(10)(vae)(x).shape, effective_sample_size(IWAE(10).log_weights(vae, x)).shape
        (torch.Size([]), torch.Size([8]))
    """

    def _loss(self, p: Marginal, q: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
        log_w = _total(*p.terms(x, q, (self.num_particles,)))
        return -_log_mean(log_w), log_w


class STL(ImportanceWeighted):
    r"""Sticking the landing: the gradient along the paths of the draws alone, without the score of q.

    With one draw its gradient is one of the ELBO, unbiased, whose variance vanishes where q is the posterior. With
    several it is biased for :math:`L_K`: it is unbiased for the sum of the gradient of :math:`L_K` and the wake
    direction :math:`\sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k)` of :class:`RWS`, which both vanish at the
    posterior. A flow as posterior has to be inverted, as for :class:`DReG`. (Roeder, Wu and Duvenaud, Sticking the
    Landing, 2017, arXiv:1703.09194.)

    Args:
        num_particles: Number K of draws of z per datum.
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)

    def _loss(self, p: Marginal, q: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
        _, log_w = _along_paths(p, q, x, self.num_particles)
        return -_log_mean(log_w), log_w


class DReG(ImportanceWeighted):
    r"""The importance-weighted bound by doubly reparameterised gradients: squared weights along the paths of draws.

    Unbiased for :math:`L_K`, with a signal-to-noise ratio towards the posterior that does not fall as K grows. The
    density of the draws is asked for again, under parameters that stand still: cheap for a normal distribution, one
    inverse pass for a flow (as many as latents for an ``IAF``). (Tucker, Lawson, Gu and Maddison, Doubly
    Reparameterized Gradient Estimators for Monte Carlo Objectives, 2018, arXiv:1810.04152.)

    Args:
        num_particles: Number K of draws of z per datum.
    """

    def _loss(self, p: Marginal, q: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_w = _along_paths(p, q, x, self.num_particles)
        weights = log_w.detach().softmax(0)  # the bound brings one, a draw on its way back to phi the other
        if z.requires_grad:
            z.register_hook(lambda slope: slope * weights[(...,) + (None,) * (slope.dim() - weights.dim())].to(slope))
        return -_log_mean(log_w), log_w


class VIMCO(ImportanceWeighted):
    r"""The importance-weighted bound for discrete latents, or any that can be sampled and scored.

    .. math::
        \hat L_{-k} = \log \frac{1}{K} \Bigl(\sum_{j \ne k} w_j + \exp \frac{1}{K - 1} \sum_{j \ne k} \log w_j\Bigr)

    stands for :math:`\hat L` without the k-th draw, so that each draw is praised for what it adds to the others.
    Unbiased for :math:`L_K`. (Mnih and Rezende, Variational Inference for Monte Carlo Objectives, 2016,
    arXiv:1602.06725.)

    Args:
        num_particles: Number K of draws of z per datum, at least 2.

    Example:
        >>> from pyro_dgm.models import VAE, IndependentBernoulli
        >>> vae = VAE(IndependentBernoulli(3), IndependentBernoulli(5, context=3), IndependentBernoulli(3, context=5))
        >>> VIMCO(5)(vae)(torch.zeros(8, 5)).requires_grad
        True
    """

    least = 2

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def _loss(self, p: Marginal, q: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_q = _given(q, self.num_particles)
        log_w = _total(*p.terms_at(x, z, log_q))
        bound, signals = _log_mean(log_w), learning_signals(log_w.detach())
        return -bound - (signals * _score(log_q)).sum(0), log_w


class RWS(ImportanceWeighted):
    r"""Reweighted wake-sleep with a wake phase of the posterior.

    The model climbs :math:`L_K`; the posterior climbs :math:`\sum_k \tilde w_k \log q_\phi(z_k | x)`, which estimates
    :math:`-\mathrm{KL}(p(z | x) \,\|\, q)` up to a constant. Latents may be of any kind; the direction is biased for
    few draws. Pyro's ``ReweightedWakeSleep`` weighs a batch as a whole and not its data, so that in a large one a
    single draw has all the weight. The loss reported is :math:`-L_K`. (Bornschein and Bengio, Reweighted
    Wake-Sleep, 2014, arXiv:1406.2751; Le, Kosiorek, Siddharth, Teh and Wood, 2018, arXiv:1805.10469.)

    Args:
        num_particles: Number K of draws of z per datum, at least 2.
    """

    least = 2

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def _loss(self, p: Marginal, q: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_q = _given(q, self.num_particles)
        log_w = _total(*p.terms_at(x, z, {site: each.detach() for site, each in log_q.items()}))
        return -_log_mean(log_w) - (log_w.detach().softmax(0) * _score(log_q)).sum(0), log_w


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""Returns :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, from 1, one draw outweighs all others, to K, all weigh the same.

    Args:
        log_w: Log-weights, with shape ``(K,) + batch``.

    Example:
        >>> effective_sample_size(torch.zeros(5))
        tensor(5.)
    """
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


def learning_signals(log_w: Tensor) -> Tensor:
    r"""Returns :math:`\hat L - \hat L_{-k}` of :class:`VIMCO` for every draw.

    Args:
        log_w: Log-weights, with shape ``(K,) + batch``, as those returned.
    """
    k = len(log_w)
    own = torch.eye(k, dtype=torch.bool, device=log_w.device)[(...,) + (None,) * (log_w.dim() - 1)]
    others = torch.where(own, 0.0, log_w).sum(1) / (k - 1)
    without = torch.where(own, others.unsqueeze(1), log_w).logsumexp(1) - math.log(k)
    return _log_mean(log_w) - without


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def _total(log_likelihood: Tensor, log_ratios: dict[str, Tensor]) -> Tensor:
    return sum(log_ratios.values(), log_likelihood)


def _score(log_q: dict[str, Tensor]) -> Tensor:
    """Zero, with the gradient of log q: a factor of it moves log q and leaves the loss's value alone."""
    total = sum(log_q.values())
    return total - total.detach()


def _given(q: Distribution, num_particles: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns draws that are not differentiated, and their log-densities by site."""
    z = leave_autocast(q.sample((num_particles,))).detach()
    return z, log_probs(q, z)


def _along_paths(p: Marginal, q: Distribution, x: Tensor, num_particles: int) -> tuple[Tensor, Tensor]:
    r"""Returns draws and log-weights in which the parameters of q stand still, moved by z alone.

    By the chain rule :math:`d \log q_\phi(z(\phi))` is a slope along z and a score. The slope is all that is kept:

    .. math::
        \log q + \langle \partial_z \log q,\; z - \mathrm{stop}(z) \rangle

    which has the value of log q, needs no copy of the network, and holds for whatever q is made of.
    """
    z, log_q = draw(q, (num_particles,))
    if z.requires_grad:
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            total = sum(log_probs(q, at).values())
            (slope,) = torch.autograd.grad(total.sum(), at, materialize_grads=True)
        move = sum_rightmost(slope * (z - z.detach()), z.dim() - total.dim())
        log_q = {"z": total.detach() + move}
    return z, _total(*p.terms_at(x, z, log_q))
