"""What ``fit`` puts together before the first step.

A model becomes a loss (:func:`bind`), the loss a game of players that own parameters wherever those live
(:func:`make_game`), and the game a loop in which every player has an optimizer, a schedule and a way to step
(:func:`make_loop`), traced or not (:func:`make_tracing`). :func:`signature_of` says what a checkpoint has to fit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn
from torch.optim import LBFGS, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..models.base import GenerativeModel
from ..objectives import Objective, Player
from ..objectives.base import BoundObjective, unique_parameters
from ..objectives.estimators import Differentiable
from ..transforms.base import initialized_flags
from .compilation import FEWEST_STEPS, inductor, inductor_if_it_repays
from .data import Batch, Batches, Source
from .graph import buffers_of, undone
from .launch import Launch
from .loop import Loop
from .moves import Direct, Game, Hooked, Move, Tracing, replayed
from .python_state import changed, python_state

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler]
Compile = Literal["auto"] | bool


def bind(model: nn.Module, objective: Objective | None) -> nn.Module:
    """Returns the loss module: a generative model under its objective, or what is a loss already."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model: expected a generative model or a module from a batch to a loss, got {type(model).__name__}"
        )
    if isinstance(model, GenerativeModel):
        return (objective or model.objective())(model)
    if objective is not None:
        raise ValueError(
            f"objective: expected None for a {type(model).__name__}, which is taken as a loss already; "
            "bind an objective to a model yourself: objective(model)"
        )
    return Differentiable(model) if _lacks_a_loss(model) else model


def _lacks_a_loss(module: nn.Module) -> bool:
    return isinstance(module, ELBOModule) and not hasattr(module.elbo, "differentiable_loss")


def target_of(model: nn.Module) -> nn.Module:
    """Returns the generative model where there is one, else the loss module."""
    return model.model if isinstance(model, BoundObjective) and isinstance(model.model, nn.Module) else model


def device_of(module: nn.Module) -> torch.device:
    """Returns the device of the first parameter or buffer."""
    first = next((*module.parameters(), *module.buffers()).__iter__(), None)
    return torch.device("cpu") if first is None else first.device


def initialize(model: GenerativeModel, batch: Batch, module: nn.Module | None = None) -> None:
    """Fits what depends on data, once: parts that the model leaves as they are count as fitted too.

    Args:
        model: The model.
        batch: Data.
        module: The model with its objective, of which what is drawn from the model starts again.
    """
    flags = initialized_flags(model)
    if all(flags):
        return
    model.initialize(*batch)
    for flag in flags:
        flag.fill_(True)
    if isinstance(module, BoundObjective):
        module.objective.start(module.model)


def make_game(module: nn.Module, batch: Batch, optimizer: Any, held: Source | None) -> Game:
    """Returns the game that is to be trained, its players checked against the settings."""
    owners: list[nn.Module] = []
    stored: dict[str, nn.Parameter] = {}
    players = module.players if isinstance(module, BoundObjective) else []
    if not (isinstance(module, BoundObjective) and isinstance(module.model, GenerativeModel)):
        owners = [o for part in ("model", "guide") if isinstance(o := _owner(module, part), nn.Module)]
        stored, registered = _first_call(module, batch, [module, *owners])
        if len(players) < 2:
            players = [Player("loss", (*unique_parameters([module, *owners]), *stored.values()), module)]
        else:
            players[-1] = replace(players[-1], parameters=(*players[-1].parameters, *stored.values()))
        owners = [*owners, *registered]
    names = [player.name for player in players]
    if any(getattr(part, "sparse", False) is True for part in (*module.modules(), *owners)):
        raise ValueError("model: expected gradients that are not sparse, got an embedding with sparse=True")
    if not all(player.parameters for player in players):
        raise ValueError(f"model: expected trainable parameters, {type(module).__name__} has none for some player")
    if isinstance(optimizer, Mapping) and set(optimizer) != set(names):
        raise ValueError(f"optimizer: expected one for each of the players {names}, got {list(optimizer)}")
    if held is not None and len(players) > 1:
        raise ValueError(
            "validation: the losses of an adversarial game do not measure progress; expected None, and a callback "
            "that compares samples with held-out data (evaluation.c2st) instead"
        )
    if held is not None and isinstance(module, BoundObjective) and not module.objective.measures:
        raise ValueError(
            f"validation: the value of {type(module.objective).__name__} does not measure progress; expected None, and "
            "a callback, which may estimate log Z (model.estimate_log_partition) and score held-out data"
        )
    return Game(module, players, stored, owners)


def _owner(module: nn.Module, part: str) -> Any:
    """The object whose method a Pyro program is (``vae.model``)."""
    return getattr(getattr(module, part, None), "__self__", None)


def _first_call(
    module: nn.Module, batch: Batch, owners: Sequence[nn.Module]
) -> tuple[dict[str, nn.Parameter], list[nn.Module]]:
    """Calls a loss once, which may create parameters and changes nothing else.

    Returns:
        The parameters in Pyro's store that no module owns, by name, and the modules that programs have registered.
    """
    buffers = [each for each in buffers_of(owners) if each[2] is not None]
    before = python_state(owners, identities=False)
    with (
        torch.enable_grad(), undone(buffers) as undo, _registered() as registered,
        poutine.trace(param_only=True) as capture,
    ):  # fmt: skip
        loss = module(*(t.clone() for t in batch))
        after = python_state(owners, identities=False)
        for state in (before, after):
            state.pop("0..elbo", None)  # which has learned how plates are nested
        undo.keep = changed(before, after) is not None  # a module is initialised now, and knows that it is
    _check_loss(loss, module)
    owned = {id(p) for owner in owners for p in owner.parameters()}
    store, found = pyro.get_param_store(), {}
    leaves = dict(store.named_parameters())
    for name in capture.trace.param_nodes:
        if name not in leaves or id(leaves[name]) in owned or not leaves[name].requires_grad:
            continue
        leaf = leaves[name]
        if not isinstance(leaf, nn.Parameter):  # a module can own it then; the store goes on holding the same numbers
            leaf = nn.Parameter(leaf.detach())
            store.set_state({"params": {name: leaf}, "constraints": {name: store.get_state()["constraints"][name]}})
        found[name] = leaf
    return found, registered


@contextmanager
def _registered() -> Iterator[list[nn.Module]]:
    """Within, notes the modules that go through ``pyro.module``, which keeps their parameters and forgets the rest."""
    found, register = [], pyro.module

    def noting(name: str, nn_module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        found.append(nn_module)
        return register(name, nn_module, *args, **kwargs)

    pyro.module = noting
    try:
        yield found
    finally:
        pyro.module = register


def _check_loss(loss: Any, module: nn.Module) -> None:
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    if not isinstance(loss, Tensor) or loss.dim():
        raise ValueError(
            f"model: expected a loss that is one number, a tensor of shape (), from {type(module).__name__}, got "
            f"{got}; sum it or take its mean"
        )
    if not loss.requires_grad:
        raise ValueError(
            f"model: expected a loss that depends on trainable parameters, that of {type(module).__name__} has no "
            "gradient; was it computed under no_grad or from detached tensors?"
        )


def make_optimizer(
    player: Player, optimizer: Any, schedule: MakeSchedule | None, steps: int
) -> tuple[Optimizer, LRScheduler | None]:
    """Returns a player's optimizer and its schedule.

    Raises:
        ValueError: If there is none for the player, or one that needs more than a gradient.
    """
    make = optimizer[player.name] if isinstance(optimizer, Mapping) else optimizer
    if make is not None and (isinstance(make, Optimizer) or not callable(make)):
        raise ValueError(
            "optimizer: expected a function from parameters to a torch optimizer, such as partial(torch.optim.Adam, "
            f"lr=1e-3), got a {type(make).__name__}"
        )
    made = make(player.parameters) if make else _adam(player)
    if not isinstance(made, Optimizer) or isinstance(made, LBFGS):
        raise ValueError(
            f"optimizer: expected one of torch's that steps by a gradient alone, got a {type(made).__name__}; Pyro's "
            "are for SVI, and LBFGS evaluates the loss itself"
        )
    known = {id(p) for p in player.parameters}
    strangers = sum(id(p) not in known for group in made.param_groups for p in group["params"])
    if strangers:
        raise ValueError(
            f"optimizer: expected one of the parameters it is called with, got {strangers} others; does the function "
            "use its argument?"
        )
    plan = schedule(made, max(1, steps // player.every)) if schedule else None
    if isinstance(plan, ReduceLROnPlateau) or not (plan is None or isinstance(plan, LRScheduler)):
        raise ValueError(
            "schedule: expected a function from an optimizer and a number of steps to a schedule of torch's that is "
            f"stepped without a metric, got a {type(plan).__name__}"
        )
    return made, plan


def make_loop(
    launch: Launch,
    game: Game,
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] | None,
    schedule: MakeSchedule | None,
    clip: float | None,
    accumulate: int,
    steps: int,
    tracing: Tracing | None,
) -> Loop:
    """Returns the loop: an optimizer, a schedule and a way to step for every player."""
    moves: list[Move] = []
    hooked = launch.distributed or launch.scaler is not None
    for index, player in enumerate(game.players):
        wrapped = launch.wrap(game, player)
        optim, plan = make_optimizer(player, optimizer, schedule, steps)
        if hooked:
            replay = None
            if tracing is not None:
                game.losses[index], replay = replayed(game, index, launch.autocast, tracing)
            common = (player, optim, plan, clip, accumulate)
            moves.append(Hooked(*common, game, wrapped, launch.autocast, launch.scaler, replay, launch.mean))
        else:
            moves.append(Direct(player, optim, plan, clip, accumulate, [game], launch.autocast, tracing))
    fused = all(move.optimizer.param_groups[0].get("fused") for move in moves)
    check_every = 50 if launch.device.type != "cpu" and fused and launch.scaler is None else 1
    return Loop(game, moves, launch.device, launch.agree, check_every)


def make_tracing(compile: Compile, steps: int, train: Batches, accumulate: int) -> Tracing | None:
    """Returns what compiles traces, and batches of how many data; ``None`` if the run is too short to trace."""
    if compile is False or (compile == "auto" and steps < FEWEST_STEPS):
        return None
    rows = train.share_size
    rows = None if rows is None else -(-rows // accumulate)
    return (inductor if compile is True else partial(inductor_if_it_repays, steps)), rows


def signature_of(
    game: Game,
    train: Batches,
    held: Batches | None,
    optimizer: Any,
    schedule: MakeSchedule | None,
    steps: int,
    **settings: Any,
) -> dict[str, Any]:
    """Returns what a checkpoint has to agree on with the run that goes on from it.

    Raises:
        ValueError: If an optimizer or schedule cannot be made; each is made once for the purpose.
    """
    state = game.tensors()
    made = [make_optimizer(player, optimizer, schedule, steps) for player in game.players]
    return {
        "model": type(target_of(game.module)).__name__,
        "weights": {name: list(tensor.shape) for name, tensor in state.items()},
        "dtypes": sorted({str(tensor.dtype) for tensor in state.values()}),
        "players": [player.name for player in game.players],
        "optimizers": [type(optim).__name__ for optim, _ in made],
        "schedules": [type(plan).__name__ for _, plan in made],
        "steps of the schedule": steps if schedule else None,
        "training data": train.rows,
        "validation data": 0 if held is None else held.rows,
        "batches": len(train),
        **settings,
    }


def _adam(player: Player) -> Optimizer:
    parameters: list[Tensor] = list(player.parameters)
    fusible = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return Adam(parameters, **{"lr": 1e-3, **player.adam}, fused=fusible)
