r"""Adversarial games between a generator G and a critic D.

With scores :math:`r = D(x)` of data and :math:`f = D(G(z))` of samples,

================ ======================================= ============================
game             critic minimises                        generator minimises
================ ======================================= ============================
non-saturating   softplus(-r) + softplus(f)              softplus(-f)
least squares    ((r - 1)^2 + f^2) / 2                   (f - 1)^2 / 2
Wasserstein      f - r, with a gradient penalty          -f
================ ======================================= ============================

The gradient penalty is :math:`\lambda (\|\nabla_u D(u)\|_2 - 1)^2` at points :math:`u` on the segments between data
and samples, the norm over the whole event of each datum.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.base import ImplicitModel
from ..nn import at_least_float32, leave_autocast, without_autocast
from .base import Objective, Player, unique_parameters


class AdversarialLoss:
    """What the two players minimise, given scores; subclasses are the games of the table above."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the critic's loss, a scalar."""
        raise NotImplementedError

    def generator(self, fake: Tensor) -> Tensor:
        """Returns the generator's loss, a scalar."""
        raise NotImplementedError


class NonSaturating(AdversarialLoss):
    """The non-saturating game (Goodfellow et al., Generative Adversarial Nets, 2014, arXiv:1406.2661)."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """The cross-entropy of telling data from samples, in nats per pair."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """The cross-entropy of passing for data."""
        return F.softplus(-fake).mean()


class LeastSquares(AdversarialLoss):
    """The least-squares game (Mao, Li, Xie, Lau, Wang and Smolley, LSGAN, 2016, arXiv:1611.04076)."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scores should be 1 for data and 0 for samples."""
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())

    def generator(self, fake: Tensor) -> Tensor:
        """Scores of samples should be 1."""
        return 0.5 * (fake - 1).square().mean()


class Wasserstein(AdversarialLoss):
    """The Wasserstein game (Arjovsky, Chintala and Bottou, Wasserstein GAN, 2017, arXiv:1701.07875)."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """The negative dual estimate of the distance."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor) -> Tensor:
        """The generator raises the scores of its samples."""
        return -fake.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, event_dim: int) -> Tensor:
    r"""Returns the mean of :math:`(\|\nabla_u D(u)\| - 1)^2` at random points between data and samples.

    Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, Improved Training of Wasserstein GANs, 2017,
    arXiv:1704.00028. It is computed in float32 at least, the critic within it too (near norm 1, where training holds
    it, a bfloat16 critic puts the penalty's gradient wrong by a tenth), and can be differentiated.

    Args:
        critic: Maps (*, *event) to scores (*).
        real: Data, with shape batch + event.
        fake: Samples, with the same shape.
        event_dim: Number of event dimensions.
    """
    real, fake = leave_autocast(real), leave_autocast(fake)
    t = torch.rand(real.shape[: real.dim() - event_dim], dtype=real.dtype, device=real.device)
    t = t[(...,) + (None,) * event_dim]
    with torch.enable_grad(), without_autocast(real):
        u = (t * real + (1 - t) * fake).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(u).sum(), u, create_graph=True)
    gradient = at_least_float32(gradient.flatten(-event_dim))
    return ((gradient.square().sum(-1) + 1e-12).sqrt() - 1).square().mean()


class Adversarial(Objective):
    """A game of two named players, ``critic`` and ``generator``, stepped in turn.

    Wasserstein with gradient penalty is ``Adversarial(Wasserstein(), gradient_penalty=10.0, critic_steps=5)``. The
    losses do not measure how good the samples are: compare those with data by ``evaluation.c2st``.

    Args:
        loss: The game; :class:`NonSaturating` when ``None``.
        gradient_penalty: The weight of the critic's gradient penalty.
        critic_steps: Steps of the critic for each step of the generator.

    Example:
        >>> from pyro_dgm.models import GAN
        >>> game = Adversarial(LeastSquares())(GAN(4))
        >>> [player.name for player in game.players]
        ['critic', 'generator']
    """

    def __init__(
        self, loss: AdversarialLoss | None = None, gradient_penalty: float = 0.0, critic_steps: int = 1
    ) -> None:
        super().__init__()
        if critic_steps < 1 or gradient_penalty < 0:
            raise ValueError(
                "critic_steps, gradient_penalty: expected at least 1 and at least 0, "
                f"got {critic_steps} and {gradient_penalty}"
            )
        self.game = loss or NonSaturating()
        self.gradient_penalty, self.critic_steps = gradient_penalty, critic_steps

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the critic, which moves at every batch, and the generator, at every ``critic_steps``-th."""
        if not isinstance(model, ImplicitModel):
            raise ValueError(f"model: expected an ImplicitModel such as GAN, got {type(model).__name__}")
        # the settings of Radford, Metz and Chintala, DCGAN, 2015, arXiv:1511.06434
        adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
        critic, generator = unique_parameters([model.critic]), unique_parameters([model.generator])
        return [
            Player("critic", critic, partial(self.critic_loss, model), adam=adam),
            Player("generator", generator, partial(self.generator_loss, model), self.critic_steps, adam),
        ]

    def critic_loss(self, model: ImplicitModel, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's loss on a batch of data and as many samples."""
        with torch.no_grad():
            fake = self._samples(model, x, context)
        loss = self.game.critic(model.score(x, context), model.score(fake, context))
        if self.gradient_penalty:
            event_dim = len(model.event_shape)
            penalty = gradient_penalty(lambda u: model.score(u, context), x, fake, event_dim)
            loss = loss + self.gradient_penalty * penalty
        return loss

    def generator_loss(self, model: ImplicitModel, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the generator's loss on as many samples as the batch has data."""
        return self.game.generator(model.score(self._samples(model, x, context), context))

    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the sum of the players' losses: to look at, not to minimise, since the players disagree."""
        return sum(player.loss(*batch) for player in self.players(model, guide))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Raises: a game of two players has no single loss for ``SVI`` to descend.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "Adversarial: SVI has one loss and one optimizer, a game has two; train with pyro_dgm.fit"
        )

    @staticmethod
    def _samples(model: ImplicitModel, x: Tensor, context: Tensor | None) -> Tensor:
        batch_shape = x.shape[: x.dim() - len(model.event_shape)]
        p = model(context)
        sample_shape = batch_shape[: len(batch_shape) - len(p.batch_shape)]
        return p.rsample(sample_shape)
