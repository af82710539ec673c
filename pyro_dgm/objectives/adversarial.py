r"""Adversarial learning: a generator G and a critic D, which move in turn.

.. math::
    x \sim p, \quad z \sim p(z); \qquad r = D(T(x)), \quad f = D(T(G(z))) \\
    L_D = \ell_D(r, f) + \textstyle\sum_k \lambda_k P_k(D), \qquad L_G = \ell_G(f, r)

The losses l are a *game* (:mod:`pyro_dgm.objectives.games`, :mod:`pyro_dgm.objectives.f_divergence`), the P *penalties*
on the critic's slope (:mod:`pyro_dgm.objectives.critic_penalties`), T an *augmentation* that both see
(:class:`pyro_dgm.nn.DiffAugment`); any goes with any other. What belongs to the networks is theirs: spectral
normalisation (:func:`pyro_dgm.nn.spectrally_normalized`), packs of data for the critic (:class:`pyro_dgm.nn.Packed`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..models.base import ImplicitModel
from ..nn import at_least_float32, leave_autocast, mixes_data
from ..nn.critics import called
from .base import OpposedGame, Player, at_least_one, unique_parameters
from .critic_penalties import CriticPenalty, as_tuple
from .games import AdversarialLoss, NonSaturating, fooling

Augmentation = Callable[[Tensor], Tensor]


class Contest(Protocol):
    """What a game needs of a model: an :class:`~pyro_dgm.models.ImplicitModel` with ``score``, or a program's."""

    generator: Any
    critic: nn.Module

    def score(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's scores."""


class Adversarial(OpposedGame):
    r"""A game of two named players, ``critic`` and ``generator``, stepped in turn.

    ``Adversarial(...)(model)`` plays it for an implicit model such as ``GAN``. ``Adversarial(...)(program, critic)``
    plays it for any Pyro program that draws one datum and returns it: the critic, called as D(x) or D(x, c), is to the
    program what a guide is to a program with a density. The program is called as ``program()`` or
    ``program(context)`` in a plate over the batch at dimension -1, as ``Predictive(parallel=True)`` would; its latent
    sites have to be reparametrised. Parameters may be in modules or in Pyro's store.

    The losses do not measure how good the samples are: compare those with data by ``evaluation.c2st``. ``fit(ema=...)``
    averages the generator alone; default optimizers are those of the game's paper.

    ============== ===================================================================================================
    DCGAN          ``Adversarial()``
    WGAN           ``Adversarial(Wasserstein(), critic_steps=5, weight_clip=0.01)``
    WGAN-GP        ``Adversarial(Wasserstein(), GradientPenalty(10.0), critic_steps=5)``
    DRAGAN         ``Adversarial(penalty=DRAGAN())``
    R3GAN          ``Adversarial(Relativistic(), penalty=[R1(0.1), R2(0.1)])``
    ============== ===================================================================================================

    Args:
        loss: The game; :class:`NonSaturating` when ``None``.
        penalty: A penalty on the critic's slope, or several.
        critic_steps: Steps of the critic for each step of the generator.
        augment: What data and samples go through before the critic scores them, differentiable, for either player
            (Zhao, Liu, Lin, Zhu and Han, Differentiable Augmentation, 2020, arXiv:2006.10738).
        weight_clip: Bound to which ``fit`` clips the critic's parameters after each of its steps (Arjovsky, Chintala
            and Bottou, 2017, arXiv:1701.07875); ``None`` for none.

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        >>> from pyro_dgm.models import GAN
        >>> from pyro_dgm.objectives import LeastSquares
        >>> game = Adversarial(LeastSquares())(GAN(4))
        >>> [player.name for player in game.players]
        ['critic', 'generator']
    """

    def __init__(
        self,
        loss: AdversarialLoss | None = None,
        penalty: CriticPenalty | Sequence[CriticPenalty] = (),
        critic_steps: int = 1,
        *,
        augment: Augmentation | None = None,
        weight_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.game = loss or NonSaturating()
        self.penalties, self.critic_steps = as_tuple(penalty), at_least_one("critic_steps", critic_steps)
        if weight_clip is not None and not weight_clip > 0:
            raise ValueError(f"weight_clip: expected a positive bound, e.g. 0.01, or None, got {weight_clip}")
        self.augment, self.weight_clip = augment, weight_clip

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the critic, which moves at every batch, and the generator, at every ``critic_steps``-th.

        Raises:
            ValueError: If there is a penalty, and a critic with batch normalisation.
        """
        contest = contest_of(model, guide)
        if self.penalties and isinstance(contest.critic, nn.Module) and mixes_data(contest.critic):
            raise ValueError(
                "penalty: expected a critic in which no datum depends on the others, since penalties are about the "
                "slope at each, got one with batch normalisation; leave that out, or use nn.LayerNorm or nn.GroupNorm"
            )
        critic, generator = unique_parameters([contest.critic]), unique_parameters([contest.generator])
        critic_adam, project = self.game.critic_adam, None
        if self.weight_clip is not None:
            # momentum is too slow for a critic at its bounds (Arjovsky et al.); without it Adam is RMSprop
            critic_adam = {"lr": 5e-5, "betas": (0.0, 0.99)}
            project = partial(clip, bound=self.weight_clip)
        generator_adam = self.game.generator_adam if project is None else critic_adam
        return [
            Player(
                "critic", critic, partial(self.critic_loss, contest), 1, critic_adam, averaged=False, project=project
            ),
            Player("generator", generator, partial(self.generator_loss, contest), self.critic_steps, generator_adam),
        ]

    def critic_loss(self, model: Contest, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's loss on a batch of data and as many samples."""
        with torch.no_grad():
            fake = samples(model, x, context)
        score = partial(self._score, model, context)
        loss = self.game.critic(score(x), score(fake))
        return sum((penalty(score, x, fake, event_dim(model, x)) for penalty in self.penalties), loss)

    def generator_loss(self, model: Contest, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the generator's loss on as many samples as the batch has data."""
        fake = self._score(model, context, samples(model, x, context))
        return fooling(self.game, fake, lambda: self._score(model, context, x))

    def _score(self, model: Contest, context: Tensor | None, x: Tensor) -> Tensor:
        return model.score(x if self.augment is None else self.augment(x), context)


class ProgramContest:
    """A Pyro program that draws one datum and returns it, and a critic, as a game needs them.

    Args:
        program: The program.
        critic: The critic, a module called as D(x) or D(x, c), from a batch to scores (n, 1) or (n).
    """

    def __init__(self, program: Callable[..., Tensor], critic: nn.Module) -> None:
        self.program, self.critic = program, critic
        self.generator = getattr(program, "__self__", program)  # who has the parameters, if they are in a module

    def draw(self, n: int, context: Tensor | None) -> Tensor:
        """Returns n data, one for each context where there is one.

        Raises:
            ValueError: If the program returns something else, or has a latent site without reparametrised draws.
        """
        with poutine.trace() as capture, pyro.plate("_batch", n, dim=-1):
            x = self.program(*(() if context is None else (context,)))
        for name, site in capture.trace.iter_stochastic_nodes():
            if not site_is_subsample(site) and not site["fn"].has_rsample:
                raise ValueError(
                    f"model: expected latent sites with reparametrised draws, got {site['fn']} at {name!r}, "
                    "through which no gradient reaches the generator; relax it, or use an objective with a density"
                )
        if not isinstance(x, Tensor) or x.shape[:1] != (n,):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"model: expected a program that returns x, with shape ({n}, ...) in a plate of {n}, got {got}"
            )
        return leave_autocast(x)

    def score(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's scores."""
        return at_least_float32(called(self.critic, x, context)).flatten()


def contest_of(model: Any, guide: Any) -> Contest:
    """Returns what a game needs of an implicit model, or of a program and a critic in the guide's place."""
    if guide is None and isinstance(model, ImplicitModel):
        return model
    if callable(model) and isinstance(guide, nn.Module) and not isinstance(model, ImplicitModel):
        return ProgramContest(model, guide)
    raise ValueError(
        "model: expected an ImplicitModel such as GAN, or a Pyro program that returns x and a critic, got "
        f"{type(model).__name__} and {type(guide).__name__}"
    )


def samples(model: Contest, x: Tensor, context: Tensor | None) -> Tensor:
    """Returns as many samples as there are data in x, through which gradients reach the generator."""
    if isinstance(model, ProgramContest):
        return model.draw(len(x), context)
    batch_shape = x.shape[: x.dim() - len(model.event_shape)]
    p = model(context)
    sample_shape = batch_shape[: len(batch_shape) - len(p.batch_shape)]
    return p.rsample(sample_shape)


def event_dim(model: Contest, x: Tensor) -> int:
    """Returns the number of dimensions of one datum; a program's data have one dimension for the batch."""
    return x.dim() - 1 if isinstance(model, ProgramContest) else len(model.event_shape)


@torch.no_grad()
def clip(parameters: Sequence[Tensor], bound: float) -> None:
    """Clips parameters to [-bound, bound] in place."""
    for p in parameters:
        p.clamp_(-bound, bound)
