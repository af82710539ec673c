r"""``fit``: learn a generative model, or minimise any module that maps a batch to a loss.

.. math::
    \theta \leftarrow \arg\min_\theta \frac{1}{n} \sum_i L(x_i, c_i; \theta)

by stochastic gradients over shuffled batches, on Lightning Fabric for device and precision. Data are checked before the
first step; training stops early by patience and then ends with the best weights; a loss that is not finite stops it
with an explanation.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..models.base import GenerativeModel
from ..objectives import Objective, Player
from ..objectives.base import BoundObjective, unique_parameters
from .data import Batches, as_source, check, dtype_of, split
from .history import History, Row
from .loop import Game, Loop, NonFiniteError

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler]
Callback = Callable[[History, nn.Module], bool | None]


def fit(
    model: nn.Module,
    x: Any,
    context: Any = None,
    *,
    validation: Any = None,
    objective: Objective | None = None,
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] | None = None,
    schedule: MakeSchedule | None = None,
    batch_size: int = 128,
    max_epochs: int = 100,
    gradient_clip: float | None = 5.0,
    patience: int | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    precision: str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    logger: Any = None,
) -> History:
    """Trains a model in place.

    Args:
        model: A generative model, an objective bound to one, or any module that maps a batch to a scalar loss
            (Pyro's ``Trace_ELBO()(model, guide)`` is one).
        x: Data: a tensor or numpy array with shape ``(n,) + event_shape``, a ``Dataset``, or a ``DataLoader``.
        context: Contexts, with shape (n, context), where the model has one.
        validation: Held-out data, x or (x, context), or a fraction of the training data to hold out. The model then
            ends with the weights of the epoch with the least validation loss.
        objective: The distance to minimise; the model's own when ``None``.
        optimizer: Maps parameters to an optimizer, e.g. ``partial(torch.optim.Adam, lr=3e-4)``; for a game also a
            mapping from player names to such. Fused Adam with learning rate 1e-3 when ``None``.
        schedule: Maps an optimizer and the total number of its steps to a learning-rate schedule, stepped after every
            step.
        batch_size: Data per batch.
        max_epochs: Passes over the data.
        gradient_clip: Largest norm of a gradient; ``None`` for no clipping.
        patience: Epochs without improvement of the validation loss before training stops.
        seed: Makes the run reproducible, leaving the global random state as it was; ``None`` draws from that state.
        device: Where to train, the model moving there; where the model is when ``None``.
        precision: Fabric's precision, e.g. ``"bf16-mixed"``; that of the parameters when ``None``.
        callbacks: Called after every epoch with the history and the model; one that returns true ends training.
        progress: Whether to show a progress bar.
        logger: A Fabric logger, or a callable that takes each epoch's row.

    Returns:
        The history: a table of losses per epoch, with ``.plot()``.

    Raises:
        ValueError: If the data or settings do not suit the model; nothing has been changed then.
        NonFiniteError: If a loss or gradient stops being finite; the model then holds its last finite weights, or with
            validation data the best.

    Example:
        >>> from pyro_dgm.models import RealNVP
        >>> history = fit(RealNVP(2), torch.randn(64, 2), max_epochs=2, seed=0, progress=False)
        >>> history.columns
        ['epoch', 'step', 'seconds', 'loss']
    """
    module = _bind(model, objective)
    target = _target(model)
    _check_settings(batch_size, max_epochs, patience, validation, gradient_clip)
    place = torch.device(device) if device is not None else _device_of(module)
    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=[place] if place.type == "cuda" else []))
            torch.manual_seed(seed)
        order = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))
        source = as_source(x, context, dtype_of(module), batch_size, order)
        held = None
        if isinstance(validation, Real):
            source, held = split(source, float(validation), order)
        elif validation is not None:
            pair = tuple(validation) if isinstance(validation, tuple | list) else (validation,)
            if len(pair) > 2:
                raise ValueError(f"validation: expected x, (x, context) or a fraction, got {len(pair)} parts")
            held = as_source(*(*pair, None)[:2], dtype_of(module), batch_size, None, "validation")
        train = Batches(source, batch_size, place, order)
        held = None if held is None else Batches(held, batch_size, place)
        head = train.head(10_000)
        check(head, target, "x")
        if held is not None:
            check(held.head(1), target, "validation")
        module.to(place)
        if not isinstance(module, BoundObjective):  # a module of others may create its parameters when first called
            with torch.no_grad():
                module(*(t[:batch_size] for t in head))
        players = _players(module, optimizer, held)
        fabric, steps = _fabric(place, precision, logger), len(train) * max_epochs
        loop = _loop(fabric, module, players, optimizer, schedule, gradient_clip, steps)
        if isinstance(target, GenerativeModel) and not _initialized(target):
            target.initialize(*head)
        return _run(loop, target, train, held, max_epochs, patience, callbacks, progress, logger)


def _run(
    loop: Loop,
    target: nn.Module,
    train: Batches,
    held: Batches | None,
    max_epochs: int,
    patience: int | None,
    callbacks: Sequence[Callback],
    progress: bool,
    logger: Any,
) -> History:
    """The epochs: train, validate, record, perhaps stop; at the end restore the best weights."""
    from tqdm.auto import tqdm

    history, module = History(), loop.game.module
    best, best_weights = math.inf, None
    modes, start = [(part, part.training) for part in target.modules()], time.perf_counter()
    bar = tqdm(total=len(train) * max_epochs, disable=not progress, desc=type(target).__name__, unit="step")
    try:
        for epoch in range(1, max_epochs + 1):
            module.train()
            losses = loop.epoch(train, bar.update)
            row: Row = {"epoch": epoch, "step": loop.step, "seconds": time.perf_counter() - start, **losses}
            if held is not None:
                row["validation"] = _validate(loop, held)
                if not math.isfinite(row["validation"]):
                    raise NonFiniteError(
                        f"the validation loss is {row['validation']} after epoch {epoch}; look for outliers in the "
                        "validation data, or lower the learning rate",
                        loop.step,
                        len(train),
                        "validation",
                    )
                if row["validation"] < best:
                    best, history.best_epoch = row["validation"], epoch
                    best_weights = {k: v.detach().clone() for k, v in module.state_dict().items()}
            history.rows.append(row)
            bar.set_postfix({c: f"{row[c]:.4g}" for c in history.losses}, refresh=False)
            _log(logger, loop.fabric, row)
            if any([callback(history, target) for callback in callbacks]):
                history.stopped = "callback"
                break
            if patience is not None and epoch - (history.best_epoch or 0) >= patience:
                history.stopped = "patience"
                break
        else:
            history.stopped = "max_epochs"
    finally:
        bar.close()
        if best_weights is not None:
            module.load_state_dict(best_weights)
        for part, mode in modes:
            part.training = mode
    return history


@torch.no_grad()
def _validate(loop: Loop, held: Batches) -> float:
    """Returns the mean loss on held-out data, with the same random numbers at every epoch."""
    loop.game.eval()
    device = loop.fabric.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        total, count = torch.zeros((), device=device), 0
        for batch in held:
            total += loop.loss(0, batch) * len(batch[0])
            count += len(batch[0])
    return float(total) / count


def _bind(model: nn.Module, objective: Objective | None) -> nn.Module:
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
    return model


def _target(model: nn.Module) -> nn.Module:
    """The generative model where there is one, else the loss module."""
    return model.model if isinstance(model, BoundObjective) and isinstance(model.model, nn.Module) else model


def _check_settings(
    batch_size: int, max_epochs: int, patience: int | None, validation: Any, clip: float | None
) -> None:
    for name, value in (("batch_size", batch_size), ("max_epochs", max_epochs), ("patience", patience)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if patience is not None and validation is None:
        raise ValueError(
            "patience: expected validation data to be patient about, got validation=None; try validation=0.1"
        )
    if clip is not None and clip <= 0:
        raise ValueError(f"gradient_clip: expected a positive norm or None, got {clip}")


def _device_of(module: nn.Module) -> torch.device:
    first = next((*module.parameters(), *module.buffers()).__iter__(), None)
    return torch.device("cpu") if first is None else first.device


def _initialized(model: GenerativeModel) -> bool:
    return all(bool(flag) for name, flag in model.named_buffers() if name.endswith("initialized"))


def _players(module: nn.Module, optimizer: Any, held: Batches | None) -> list[Player]:
    """The players of the game, checked against the settings."""
    if isinstance(module, BoundObjective):
        players = module.players
    else:
        players = [Player("loss", unique_parameters([module]), module)]
    names = [player.name for player in players]
    if not all(player.parameters for player in players):
        raise ValueError(f"model: expected trainable parameters, {type(module).__name__} has none for some player")
    if isinstance(optimizer, Mapping) and set(optimizer) != set(names):
        raise ValueError(f"optimizer: expected one for each of the players {names}, got {list(optimizer)}")
    if held is not None and len(players) > 1:
        raise ValueError(
            "validation: the losses of an adversarial game do not measure progress; expected None, and a callback "
            "that compares samples with held-out data (evaluation.c2st) instead"
        )
    return players


def _fabric(device: torch.device, precision: str | None, logger: Any) -> Any:
    from lightning_fabric import Fabric

    where = (
        {"accelerator": "cpu"} if device.type == "cpu" else {"accelerator": device.type, "devices": [device.index or 0]}
    )
    loggers = None if logger is None or not hasattr(logger, "log_metrics") else logger
    return Fabric(**where, precision=precision or "32-true", loggers=loggers)


def _log(logger: Any, fabric: Any, row: Row) -> None:
    if logger is None:
        return
    if hasattr(logger, "log_metrics"):
        fabric.log_dict(row, step=int(row["step"]))
    else:
        logger(dict(row))


def _loop(
    fabric: Any,
    module: nn.Module,
    players: Sequence[Player],
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] | None,
    schedule: MakeSchedule | None,
    gradient_clip: float | None,
    steps: int,
) -> Loop:
    optimizers = []
    for player in players:
        make = optimizer[player.name] if isinstance(optimizer, Mapping) else optimizer
        optimizers.append(make(player.parameters) if make else _adam(player))
    schedules = [
        schedule(o, max(1, steps // p.every)) if schedule else None for o, p in zip(optimizers, players, strict=True)
    ]
    fused = all(o.param_groups[0].get("fused") for o in optimizers)
    check_every = 50 if fabric.device.type != "cpu" and fused and fabric._precision.precision != "16-mixed" else 1
    return Loop(fabric, Game(module, players), optimizers, schedules, gradient_clip, check_every)


def _adam(player: Player) -> Optimizer:
    parameters: list[Tensor] = list(player.parameters)
    fusible = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return Adam(parameters, **{"lr": 1e-3, **player.adam}, fused=fusible)
