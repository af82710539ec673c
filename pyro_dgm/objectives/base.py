r"""The contract of an objective, in the idiom of Pyro's own ``ELBO``.

An objective holds settings. Called with a model, or with a model and a guide, it becomes a module

.. math::
    L(x, c) = \text{mean nats per datum of the batch}

whose parameters are the model's. An objective has *players*: each names its parameters and its loss, and the training
loop steps them in turn. Most objectives have one player; an adversarial game has two.

To write one, inherit from :class:`Objective` and implement ``loss_of``, and ``players`` for a game, ``prepare`` where
it keeps a state that is shaped as the model's data.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.infer.elbo import ELBO as PyroELBO
from torch import Tensor, nn

from ..models.base import GenerativeModel
from ..nn import penalties


@dataclass(frozen=True)
class Player:
    """One player of a training game.

    Attributes:
        name: Its name in histories and progress bars.
        parameters: The parameters it moves.
        loss: Maps a batch to the scalar it minimises.
        every: It moves at every ``every``-th batch.
        adam: Settings of its default optimizer that differ from Adam's.
        averaged: Whether the moving average of ``fit(ema=...)`` is of its parameters too. An opponent's are not: what a
            generator has to be judged by is the critic as it is.
        project: Called with its parameters after each of its steps, to put them back where they may be.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    loss: Callable[..., Tensor]
    every: int = 1
    adam: Mapping[str, Any] = field(default_factory=dict)
    averaged: bool = True
    project: Callable[[Sequence[Tensor]], None] | None = None


class Objective(PyroELBO):
    """Settings of a loss; subclasses implement ``loss_of``.

    As a subclass of Pyro's ``ELBO`` it is accepted by ``SVI(model, guide, optimizer, loss=...)``.

    Attributes:
        measures: Whether its value says how good the model is, so that training may stop by it.
    """

    measures: bool = True

    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the loss of a batch in mean nats per datum.

        Args:
            model: A generative model, or a Pyro program.
            guide: The guide of a Pyro program; ``None`` for a generative model, which has its own.
            batch: The arguments of the model, data first.
            settings: Further arguments of the model.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks loss_of")

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the players of the game on this model: a single one, unless an objective says otherwise.

        Parameters that only Pyro's store holds, which a program makes when first called, ``fit`` gives to the last one.
        """
        parameters = unique_parameters([model, guide])
        return [Player("loss", parameters, lambda *batch, **kw: self.loss_of(model, guide, *batch, **kw))]

    def prepare(self, model: Any) -> None:
        """Makes the modules of the objective whose shape depends on the model, such as chains; called when it is bound.

        Without a draw from a global generator: ``fit`` sets its seed later.
        """

    def start(self, model: Any) -> None:
        """Starts again what :meth:`prepare` made from the model, which has been initialised since."""

    def __call__(self, model: Any, guide: Any = None) -> "BoundObjective":
        """Binds a model, or a model and a guide."""
        own = copy.copy(self)  # so that what is made for one model is not another's
        own.prepare(model)
        return BoundObjective(own, model, guide)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss under the name by which Pyro asks for it."""
        return self.loss_of(model, guide, *args, **kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} computes its loss without handing out traces")

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, as ``SVI.evaluate_loss`` asks for it; schedules of the objective do not advance."""
        parts = [(part, part.training) for part in vars(self).values() if isinstance(part, nn.Module)]
        try:
            for part, _ in parts:
                part.eval()
            return self.loss_of(model, guide, *args, **kwargs).item()
        finally:
            for part, mode in parts:
                part.train(mode)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, its gradients left in the parameters, as ``SVI.step`` asks for it."""
        loss = self.loss_of(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()


class BoundObjective(nn.Module):
    """An objective on a model: a module from a batch to a scalar. Made by calling the objective.

    Attributes:
        objective: The settings.
        model: The generative model, or the Pyro program.
        guide: The guide, or ``None``.
    """

    def __init__(self, objective: Objective, model: Any, guide: Any = None) -> None:
        super().__init__()
        self.objective = objective
        self.model = model
        self.guide = guide
        for name, value in vars(objective).items():
            if isinstance(value, nn.Module):
                self.add_module(name, value)

    @property
    def players(self) -> list[Player]:
        """The players of the game."""
        return self.objective.players(self.model, self.guide)

    def forward(self, *batch: Any, **settings: Any) -> Tensor:
        """Returns the loss of the batch in mean nats per datum."""
        return self.objective.loss_of(self.model, self.guide, *batch, **settings)


class AdversarialGame(Objective):
    """An objective of several players, which ``SVI`` cannot take; subclasses implement ``players`` and ``loss_of``."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Raises: a game of several players has no single loss for ``SVI`` to descend.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"{type(self).__name__}: SVI has one loss and one optimizer, a game has several; train with pyro_dgm.fit"
        )


class OpposedGame(AdversarialGame):
    """A game in which no player's loss is the model's own; subclasses implement ``players``."""

    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the sum of the players' losses: to look at, not to minimise, since the players disagree."""
        return sum(player.loss(*batch) for player in self.players(model, guide))


def penalised(loss_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes a ``loss_of`` include the penalties that parts of the model add in training mode, means over the data."""

    @functools.wraps(loss_of)
    def loss(*args: Any, **settings: Any) -> Tensor:
        with penalties() as found:
            value = loss_of(*args, **settings)
        return sum(found, value)

    return loss


def unique_parameters(modules: Iterable[Any], but: Iterable[nn.Parameter] = ()) -> tuple[nn.Parameter, ...]:
    """Returns the trainable parameters of the modules among the arguments, each once, but for those that are given."""
    known = {id(p) for p in but}
    found = {id(p): p for m in modules if isinstance(m, nn.Module) for p in m.parameters() if p.requires_grad}
    return tuple(p for key, p in found.items() if key not in known)


def at_least_one(name: str, value: int) -> int:
    """Returns a count.

    Raises:
        ValueError: If it is below 1.
    """
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return int(value)


def generative_model(model: Any) -> GenerativeModel | None:
    """Returns the generative model that the argument is, or whose ``model`` it is (``vae.model``); else ``None``."""
    owner = getattr(model, "__self__", None) if getattr(model, "__name__", None) == "model" else model
    return owner if isinstance(owner, GenerativeModel) else None


def num_data(model: Any, x: Tensor) -> int:
    """Returns the number of data in a batch; a Pyro program's are counted along the first dimension."""
    event_shape = getattr(generative_model(model), "event_shape", x.shape[1:])
    return x.shape[: x.dim() - len(event_shape)].numel()
