r"""Games with a second task: to tell the class of a datum, or the codes that a sample was made of.

.. math::
    L_D' = L_D - \lambda\, E \log q(c | x) - \lambda\, E \log q(c | G(z, c)), \qquad
    L_G' = L_G - \lambda\, E \log q(c | G(z, c))

With classes c given with the data, q is a head of the critic (AC-GAN: Odena, Olah and Shlens, Conditional Image
Synthesis With Auxiliary Classifier GANs, 2016, arXiv:1610.09585). With codes c that are part of the noise there is no
label of a datum, the critic has no second task, and

.. math::
    L_I = E_{c, z} \log q(c | G(c, z)) + H(c) \le I(c; G(c, z))

bounds their mutual information with the sample, which G and q raise together (InfoGAN: Chen, Duan, Houthooft,
Schulman, Sutskever and Abbeel, 2016, arXiv:1606.03657). L_D and L_G are those of any game.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from .adversarial import Adversarial, samples
from .base import OpposedGame, Player, unique_parameters


class _WithTask(OpposedGame):
    """A game and a second task.

    Args:
        adversarial: The game.
        weight: The weight lambda of the task.

    Raises:
        ValueError: If the weight is negative.
    """

    def __init__(self, adversarial: Adversarial | None = None, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight: expected at least 0, got {weight}")
        self.adversarial, self.weight = adversarial or Adversarial(), weight


class AuxiliaryClassifier(_WithTask):
    """A game in which critic and generator also have the classes be recognised.

    Args:
        adversarial: The game; :class:`Adversarial` as it is when ``None``.
        weight: The weight lambda of the cross-entropy.

    Raises:
        ValueError: If the weight is negative, or a model has no ``classify(x)`` that returns logits.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import ACGAN
        >>> game = AuxiliaryClassifier()(ACGAN(4, context=3))
        >>> game(torch.randn(3, 4), torch.eye(3)).shape
        torch.Size([])
    """

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the critic and the generator of the game, with their second task."""
        if not hasattr(model, "classify"):
            raise ValueError(f"model: expected one that classifies, such as ACGAN, got {type(model).__name__}")
        critic, generator = self.adversarial.players(model, guide)
        return [
            replace(critic, loss=partial(self.critic_loss, model)),
            replace(generator, loss=partial(self.generator_loss, model)),
        ]

    def critic_loss(self, model: Any, x: Tensor, context: Tensor) -> Tensor:
        """Returns the game's loss, and the cross-entropies of data and of samples."""
        fake = samples(model, x, context).detach()
        task = cross_entropy(model.classify(x), context) + cross_entropy(model.classify(fake), context)
        return self.adversarial.critic_loss(model, x, context) + self.weight * task

    def generator_loss(self, model: Any, x: Tensor, context: Tensor) -> Tensor:
        """Returns the game's loss, and the cross-entropy of samples."""
        task = cross_entropy(model.classify(samples(model, x, context)), context)
        return self.adversarial.generator_loss(model, x, context) + self.weight * task


class MutualInformation(_WithTask):
    """A game whose generator also raises a bound on the mutual information of codes and sample.

    Args:
        adversarial: The game; :class:`Adversarial` as it is when ``None``.
        weight: The weight lambda of the bound.

    Raises:
        ValueError: If the weight is negative, or a model has no codes.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import InfoGAN
        >>> game = MutualInformation()(InfoGAN(4, categories=(3,)))
        >>> [player.name for player in game.players], game(torch.randn(5, 4)).shape
        (['critic', 'generator'], torch.Size([]))
    """

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the critic, and the generator together with the posterior of the codes."""
        if not hasattr(model, "infer_codes"):
            raise ValueError(f"model: expected one with codes, such as InfoGAN, got {type(model).__name__}")
        critic, generator = self.adversarial.players(model, guide)
        moved = unique_parameters([model.generator, model.posterior])
        return [critic, replace(generator, parameters=moved, loss=partial(self.generator_loss, model))]

    def generator_loss(self, model: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the game's loss less the bound."""
        return self.adversarial.generator_loss(model, x, context) - self.weight * self.bound(model, x, context)

    def bound(self, model: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the bound on the mutual information in nats, from as many samples as there are data in x."""
        batch_shape = x.shape[: x.dim() - len(model.event_shape)]
        p = model(context)
        z = p.prior.sample(batch_shape[: len(batch_shape) - len(p.batch_shape)])
        q = model.infer_codes(p.generator(z))
        return q.log_prob(model.codes(z)).mean() + model.code_entropy


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Returns the mean of -log q(c | x) in nats, for logits (*, classes) and one-hot labels (*, classes)."""
    return -(label * logits.log_softmax(-1)).sum(-1).mean()
