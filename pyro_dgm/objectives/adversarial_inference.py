r"""Games that make encoders: over pairs of data and codes, over codes alone, and over reconstructions.

.. math::
    \text{BiGAN, ALI:} \quad & r = D(x, E(x)), \quad f = D(G(z), z), \quad z \sim p(z) \\
    \text{AAE:} \quad & r = D(z), \quad f = D(E(x)) \\
    \text{VAE-GAN:} \quad & r = D(x), \quad f = D(G(z)), \; D(G(z')), \quad z' \sim q(z | x)

What the players minimise of the scores r and f is any game of :mod:`pyro_dgm.objectives.games`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..distributions import Marginal
from ..distributions.hierarchy import join
from ..models.base import GenerativeModel
from ..nn import at_least_float32
from ..nn.critics import scores
from .aggregate import weight_of
from .base import AdversarialGame, OpposedGame, Player, at_least_one, generative_model, penalised, unique_parameters
from .critic_penalties import CriticPenalty, as_tuple
from .games import AdversarialLoss, NonSaturating, fooling


class Encoding(Protocol):
    """What :class:`AdversarialInference` needs of a model, :class:`~pyro_dgm.models.BiGAN` for one."""

    generator: nn.Module
    encoder: nn.Module
    critic: nn.Module

    def pairs(self, x: Tensor, context: Tensor | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Returns pairs (x, E(x)) and (G(z), z), one of each for every datum."""

    def score_pair(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's scores D(x, z, c)."""


class AdversarialInference(OpposedGame):
    r"""A game over pairs, that generator and encoder play together: ``critic`` against ``generator``.

    .. math::
        L_D = \ell_D(r, f), \qquad L_{G, E} = \ell_D(f, r), \qquad r = D(x, E(x)), \quad f = D(G(z), z)

    Generator and encoder minimise the critic's loss with the pairs exchanged, the "inverse" objective of the paper,
    which has the fixed points of its minimax game and no gradient that vanishes where the critic is sure. Where no
    critic can tell the pairs apart, E inverts G: exactly, or as :math:`q(z | x) = p(z | x)` where they are stochastic.
    (Donahue, Kraehenbuehl and Darrell, Adversarial Feature Learning, 2016, arXiv:1605.09782; Dumoulin, Belghazi, Poole,
    Mastropietro, Lamb, Arjovsky and Courville, Adversarially Learned Inference, 2016, arXiv:1606.00704.)

    Args:
        loss: The game, whose critic's loss is used for both players; :class:`NonSaturating` when ``None``.
        penalty: Penalties on the critic's slope, in data and codes joined to one vector.
        critic_steps: Steps of the critic for each step of generator and encoder.

    Raises:
        ValueError: If there are no steps; later, if the model has no encoder.

    Example:
        >>> from pyro_dgm.models import BiGAN
        >>> [player.name for player in AdversarialInference()(BiGAN(4, 2)).players]
        ['critic', 'generator']
    """

    def __init__(
        self,
        loss: AdversarialLoss | None = None,
        penalty: CriticPenalty | Sequence[CriticPenalty] = (),
        critic_steps: int = 1,
    ) -> None:
        super().__init__()
        self.game, self.critic_steps = loss or NonSaturating(), at_least_one("critic_steps", critic_steps)
        self.penalties = as_tuple(penalty)

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the critic, which moves at every batch, and generator and encoder, at every ``critic_steps``-th."""
        owner = generative_model(model)
        if not hasattr(owner, "pairs"):
            raise ValueError(f"model: expected one with an encoder such as BiGAN, got {type(owner or model).__name__}")
        critic, others = unique_parameters([owner.critic]), unique_parameters([owner.generator, owner.encoder])
        game = self.game
        return [
            Player("critic", critic, partial(self.critic_loss, owner), 1, game.critic_adam, averaged=False),
            Player("generator", others, partial(self.generator_loss, owner), self.critic_steps, game.generator_adam),
        ]

    def critic_loss(self, model: Encoding, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the critic's loss on as many pairs of either kind as the batch has data."""
        with torch.no_grad():
            real, fake = model.pairs(x, context)
        loss = self.game.critic(model.score_pair(*real, context), model.score_pair(*fake, context))
        if not self.penalties:
            return loss
        event_dim, size = len(model.event_shape), model.event_shape.numel()

        def score(u: Tensor) -> Tensor:
            return model.score_pair(u[..., :size].unflatten(-1, model.event_shape), u[..., size:], context)

        joined = [join(x, event_dim, z) for x, z in (real, fake)]
        return sum((penalty(score, *joined, 1) for penalty in self.penalties), loss)

    def generator_loss(self, model: Encoding, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the loss of generator and encoder: the critic's, the two kinds of pairs exchanged."""
        real, fake = model.pairs(x, context)
        return self.game.critic(model.score_pair(*fake, context), model.score_pair(*real, context))


class AdversarialReconstruction(AdversarialGame):
    r"""The reconstruction error in mean nats per datum, while a critic cannot tell codes from draws of the prior.

    .. math::
        L = -E \log p(x | z) + \lambda\, \ell_G(f, r), \qquad L_D = \ell_D(r, f), \qquad
        f = D(z), \; z \sim q(z | x), \qquad r = D(z'), \; z' \sim p(z)

    For models that encode and decode: :class:`~pyro_dgm.models.AdversarialAutoencoder`, a VAE, or an
    :class:`~pyro_dgm.models.Autoencoder`, whose codes are deterministic. The paper alternates between the two parts of
    L, which is here their sum. The prior does not move. (Makhzani et al., 2015, arXiv:1511.05644.)

    Args:
        critic: A module from latents, flattened, (*, L) to scores (*, 1) or (*), called as D(z), or as D(z, c) where
            there is a context.
        loss: The game; :class:`NonSaturating` when ``None``.
        weight: The weight :math:`\lambda`: a number, or a module without arguments such as
            :class:`~pyro_dgm.objectives.LinearWarmup`. A reconstruction of images is hundreds of nats.

    Example:
        >>> from pyro_dgm.models import Autoencoder, DiagonalNormal, StandardNormal
        >>> autoencoder = Autoencoder(StandardNormal(2), DiagonalNormal(5, context=2))
        >>> AdversarialReconstruction(nn.Linear(2, 1))(autoencoder)(torch.zeros(8, 5)).shape
        torch.Size([])
    """

    def __init__(self, critic: nn.Module, loss: AdversarialLoss | None = None, weight: float | nn.Module = 1.0) -> None:
        super().__init__()
        self.critic, self.game, self.weight = critic, loss or NonSaturating(), weight

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the critic and the autoencoder; both move at every batch."""
        critic = unique_parameters([self.critic])
        owner = _coding(model)
        encoder = owner.encoder if hasattr(owner, "encoder") else owner.posterior
        own = unique_parameters([encoder, owner.likelihood], but=[*critic, *unique_parameters([owner.prior])])
        return [
            Player("critic", critic, partial(self.critic_loss, owner), 1, self.game.critic_adam, averaged=False),
            Player("autoencoder", own, partial(self.loss_of, owner, guide)),
        ]

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the autoencoder's loss."""
        owner = _coding(model)
        z, prior = codes(owner, *batch)
        reconstruction = -at_least_float32(owner.decode(z, *batch[1:]).log_prob(batch[0])).mean()
        fake = self._score(owner, z, *batch[1:])
        fooled = fooling(self.game, fake, lambda: self._score(owner, prior.sample(), *batch[1:]))
        return reconstruction + weight_of(self.weight) * fooled

    def critic_loss(self, model: Any, *batch: Any) -> Tensor:
        """Returns the critic's loss on draws of the prior, the real ones, and codes."""
        with torch.no_grad():
            z, prior = codes(model, *batch)
            real = prior.sample()
        return self.game.critic(self._score(model, real, *batch[1:]), self._score(model, z, *batch[1:]))

    def _score(self, model: Any, z: Tensor, *context: Tensor) -> Tensor:
        return scores(self.critic, z.dim() - len(model.latent_shape), join(z, len(model.latent_shape)), *context)


def codes(model: GenerativeModel, x: Tensor, *context: Tensor) -> tuple[Tensor, Any]:
    """Returns one code per datum, drawn where the posterior is a distribution, and p(z | c) for every datum.

    Raises:
        ValueError: If the posterior draws without reparameterisation.
    """
    p = model(*context)
    if not isinstance(p, Marginal):
        z = model.encode(x, *context)
        return z, p.prior.expand(x.shape[: x.dim() - len(model.event_shape)])
    q = p.proposal(x)
    if not q.has_rsample or hasattr(q, "log_probs"):
        raise ValueError(
            f"posterior: expected one latent, drawn with reparameterisation, got {type(q).__name__}; train with ELBO()"
        )
    return q.rsample(), p.prior.expand(q.batch_shape)


def _coding(model: Any) -> Any:
    owner = generative_model(model)
    if not all(hasattr(owner, name) for name in ("encode", "decode", "likelihood", "prior", "latent_shape")):
        raise ValueError(
            f"model: expected one that encodes and decodes, such as AdversarialAutoencoder or Autoencoder, got "
            f"{type(owner or model).__name__}"
        )
    return owner


class LearnedSimilarity(OpposedGame):
    r"""Three players: an encoder and a generator that reconstruct what the critic sees of data, and the critic.

    .. math::
        S &= -E_{q(z | x)} \log N\bigl(h(x);\, h(G(z)), I\bigr) \\
        L_E &= \mathrm{KL}\bigl(q(z | x) \,\|\, p(z)\bigr) + S, \qquad
        L_G = \gamma\, S + \ell_G(f, r), \qquad L_D = \ell_D(r, f) \\
        r &= D(x), \qquad f = D(G(z)), \; D(G(z')), \quad z \sim p(z), \; z' \sim q(z | x)

    with the features h of one of the critic's layers, which learn from the game alone. Samples of prior and posterior
    count half each in f (the paper, whose game has a term for either, counts them as much as the data). S is a
    log-likelihood of features, in nats, and none of x: two images with the same features cost the same. (Larsen,
    Sonderby, Larochelle and Winther, Autoencoding beyond pixels using a learned similarity metric, 2015,
    arXiv:1512.09300.)

    Args:
        loss: The game; :class:`NonSaturating` when ``None``.
        gamma: The weight of the similarity for the generator; 1e-6 to 1e-2 is usual, since S is a sum over features
            and grows as they do.

    Raises:
        ValueError: If gamma is negative; later, if the model has no features.

    Example:
        >>> from pyro_dgm.models import VAEGAN
        >>> [player.name for player in LearnedSimilarity()(VAEGAN(4, 2)).players]
        ['critic', 'encoder', 'generator']
    """

    def __init__(self, loss: AdversarialLoss | None = None, gamma: float = 1e-2) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"gamma: expected at least 0, got {gamma}")
        self.game, self.gamma = loss or NonSaturating(), gamma

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns critic, encoder and generator, which all move at every batch."""
        owner = generative_model(model)
        if not (hasattr(owner, "similarity") and hasattr(owner, "posterior")):
            raise ValueError(f"model: expected a VAEGAN, got {type(owner or model).__name__}")
        critic, encoder, generator = (unique_parameters([p]) for p in (owner.critic, owner.posterior, owner.generator))
        game = self.game
        return [
            Player("critic", critic, partial(self.critic_loss, owner), 1, game.critic_adam, averaged=False),
            Player("encoder", encoder, partial(self.encoder_loss, owner)),
            Player("generator", generator, partial(self.generator_loss, owner), 1, game.generator_adam),
        ]

    def critic_loss(self, model: Any, x: Tensor, *context: Tensor) -> Tensor:
        """Returns the critic's loss on data, and on samples of prior and posterior."""
        with torch.no_grad():
            z = model.infer(x, *context).rsample()
            drawn, rebuilt = self._samples(model, z, *context)
        real = model.score(x, *context)
        return self.game.critic(_twice(real), self._fake(model, drawn, rebuilt, *context))

    def encoder_loss(self, model: Any, x: Tensor, *context: Tensor) -> Tensor:
        """Returns the divergence of the posterior and the loss of features, a negative bound on features."""
        q = model.infer(x, *context)
        z = q.rsample()
        divergence = at_least_float32(q.log_prob(z) - model(*context).prior.log_prob(z))
        return (divergence - model.similarity(x, model.generate(z, *context), *context)).mean()

    def generator_loss(self, model: Any, x: Tensor, *context: Tensor) -> Tensor:
        """Returns the loss of features, weighted, and of passing for data."""
        z = model.infer(x, *context).rsample().detach()
        drawn, rebuilt = self._samples(model, z, *context)
        fake = self._fake(model, drawn, rebuilt, *context)
        fooled = fooling(self.game, fake, lambda: _twice(model.score(x, *context)))
        return fooled - self.gamma * model.similarity(x, rebuilt, *context).mean()

    @staticmethod
    def _samples(model: Any, z: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        prior = model(*context).prior.expand(z.shape[:-1])
        return model.generate(prior.sample(), *context), model.generate(z, *context)

    @staticmethod
    def _fake(model: Any, drawn: Tensor, rebuilt: Tensor, *context: Tensor) -> Tensor:
        return torch.stack([model.score(drawn, *context), model.score(rebuilt, *context)])


def _twice(scores: Tensor) -> Tensor:
    return torch.stack([scores, scores])
