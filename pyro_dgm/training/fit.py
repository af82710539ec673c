r"""``fit``: learn a generative model, or minimise any module that maps a batch to a loss.

.. math::
    \theta \leftarrow \arg\min_\theta \frac{1}{n} \sum_i L(x_i, c_i; \theta)

by stochastic gradients over shuffled batches, on Lightning Fabric for device, precision and processes. Data are checked
before the first step; a long run is traced and compiled; training stops early by patience and then ends with the best
weights; a loss that is not finite stops it with an explanation; a run that was killed goes on from its checkpoint as
if nothing had happened.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.base import GenerativeModel
from ..objectives import Objective
from . import randomness
from .assembly import (
    Compile,
    MakeOptimizer,
    MakeSchedule,
    bind,
    device_of,
    initialize,
    make_game,
    make_loop,
    make_tracing,
    signature_of,
    target_of,
)
from .average import Average
from .checkpoint import Checkpoint
from .data import Batches, Source, as_source, check, dtype_of, split
from .history import History
from .launch import Launch
from .run import Callback, Run


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
    accumulate: int = 1,
    ema: float | None = None,
    patience: int | None = None,
    seed: int | None = None,
    compile: Compile = "auto",
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    checkpoint_every: float = 60.0,
    device: torch.device | str | None = None,
    devices: int | str | None = None,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    logger: Any = None,
) -> History:
    """Trains a model in place.

    Args:
        model: A generative model, an objective bound to one, or any module that maps a batch to a scalar loss.
            Pyro's ``Trace_ELBO()(model, guide)`` is one, whether the programs are functions, methods or modules.
        x: Data: a tensor or numpy array with shape ``(n,) + event_shape``, a ``Dataset``, or a ``DataLoader``.
        context: Contexts, with shape (n, context), where the model has one.
        validation: Held-out data, x or (x, context), or a fraction of the training data to hold out. The model then
            ends with the weights of the epoch with the least validation loss.
        objective: The distance to minimise; the model's own when ``None``.
        optimizer: Maps parameters to an optimizer, e.g. ``partial(torch.optim.Adam, lr=3e-4)``; for a game also a
            mapping from player names to such. Fused Adam with learning rate 1e-3 when ``None``.
        schedule: Maps an optimizer and the total number of its steps to a learning-rate schedule, stepped after every
            step; :func:`~pyro_dgm.training.warmup_cosine`, for one.
        batch_size: Data per step, over all processes.
        max_epochs: Passes over the data.
        gradient_clip: Largest norm of the gradient of a player; ``None`` for no clipping.
        accumulate: Parts that a batch is split into, whose gradients are added up: the same step in less memory.
        ema: Decay of an exponential moving average of the weights, e.g. 0.999; of an adversarial game those of the
            generator. Validation and callbacks see the average, and the model ends with it.
        patience: Epochs without improvement of the validation loss before training stops.
        seed: Makes the run reproducible, leaving the global random states of Python, numpy and torch as they were;
            ``None`` draws from those.
        compile: Whether steps replay one traced and compiled graph: ``"auto"`` if the run is long enough to repay
            compiling. A loss that cannot be traced is run as it is, with a warning that says why.
        checkpoint: A file for the state of the run, written on the way, at the end, and when SIGTERM arrives.
        resume: Whether to go on from the checkpoint if it is there; the run then ends as one that was never stopped.
        checkpoint_every: Seconds between two checkpoints.
        device: Where to train, the model moving there; where the model is when ``None``.
        devices: Processes per machine, or ``"auto"``: as many as ``torchrun`` has started; ``None`` for this one alone.
        strategy: What processes share out: with ``"ddp"``, which ``"auto"`` means too, the data; with ``"fsdp"`` also
            weights, optimizer states, averages and best weights, of which each then keeps a part. Weights and gradients
            are whole while a step is computed, weights also for validation and callbacks; nothing is compiled.
        num_nodes: Machines.
        precision: Fabric's precision, e.g. ``"bf16-mixed"``; that of the parameters when ``None``. Log-densities and
            log-determinants stay in float32.
        callbacks: Called after every epoch with the history and the model; one that returns true ends training.
        progress: Whether to show a progress bar.
        logger: A Fabric logger, a callable that takes each epoch's row, or a sequence of them.

    Returns:
        The history: a table of losses per epoch, with ``.plot()``.

    Raises:
        ValueError: If the data, settings or checkpoint do not suit the model; nothing has been changed then.
        NonFiniteError: If a loss or gradient stops being finite; the model then holds its last finite weights, or with
            validation data the best.
        OSError: If a checkpoint cannot be written; the last one is untouched.
        SystemExit: With status 143 when SIGTERM arrived and the checkpoint is written.

    Example:
        >>> from pyro_dgm.models import RealNVP
        >>> history = fit(RealNVP(2), torch.randn(64, 2), max_epochs=2, seed=0, progress=False)
        >>> history.columns
        ['epoch', 'step', 'seconds', 'loss']
    """
    module, target = bind(model, objective), target_of(model)
    _check_settings(
        batch_size=batch_size, max_epochs=max_epochs, patience=patience, accumulate=accumulate, validation=validation,
        gradient_clip=gradient_clip, ema=ema, compile=compile, checkpoint=checkpoint, resume=resume,
        callbacks=callbacks,
    )  # fmt: skip
    place = torch.device(device) if device is not None else device_of(module)
    launch = Launch(place, devices, strategy, num_nodes, precision, logger)
    kept = None if checkpoint is None else Checkpoint(Path(checkpoint).absolute(), resume, checkpoint_every)
    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(randomness.unchanged(launch.device))
            randomness.seed_all(int(seed))
        order_seed = launch.agree(int(torch.randint(2**62, (), device="cpu")))
        saved = None if kept is None else kept.read()
        order_seed = order_seed if saved is None else saved["seed"]
        order = torch.Generator().manual_seed(order_seed)
        as_data = partial(as_source, dtype=dtype_of(module), integers=isinstance(target, GenerativeModel))
        train, held = _batches(_sources(x, context, validation, as_data, order), batch_size, launch, order)
        head = train.head(10_000)
        check(head, target, "x")
        if held is not None:
            check(held.head(1), target, "validation")
        module.to(launch.device)
        game = make_game(module, tuple(t[:batch_size] for t in head), optimizer, held)
        game.to(launch.device)
        steps = len(train) * max_epochs
        signature = signature_of(
            game, train, held, optimizer, schedule, steps, batch_size=batch_size, accumulate=accumulate, ema=ema,
            precision=precision, gradient_clip=gradient_clip,
        )  # fmt: skip
        if kept is not None and saved is not None:
            kept.compare(saved, signature)
        # nothing is refused from here on
        if launch.first and isinstance(target, GenerativeModel):
            initialize(target, head, module)
        stack.enter_context(launch.sharing(game))
        tracing = make_tracing(launch.compilable(compile), steps, train, accumulate)
        loop = make_loop(launch, game, optimizer, schedule, gradient_clip, accumulate, steps, tracing)
        loop.watched = bool(callbacks or held or launch.hearers or not isinstance(train.source, tuple))
        average = None
        if ema is not None:  # of the weights that the processes now share
            average = Average([p for each in game.players if each.averaged for p in each.parameters], ema)
            loop.after_update = average.update
        settings = (average, kept, signature, callbacks, progress, order_seed)
        run = Run(launch, loop, target, train, held, max_epochs, patience, *settings)
        if launch.distributed:
            torch.manual_seed(randomness.derived(order_seed, launch.rank))
        return run(saved)


def _sources(
    x: Any, context: Any, validation: Any, as_data: Callable[..., Source], order: torch.Generator
) -> tuple[Source, Any]:
    """Returns training and validation data."""
    source = as_data(x, context)
    if isinstance(validation, Real):
        return split(source, float(validation), order)
    if validation is None:
        return source, None
    pair = tuple(validation) if isinstance(validation, tuple | list) else (validation,)
    if len(pair) > 2:
        raise ValueError(f"validation: expected x, (x, context) or a fraction, got {len(pair)} parts")
    return source, as_data(*(*pair, None)[:2], label="validation")


def _batches(
    sources: tuple[Source, Source | None], batch_size: int, launch: Launch, order: torch.Generator
) -> tuple[Batches, Batches | None]:
    """Returns batches of training data, shuffled, and of validation data."""
    ranks = {"rank": launch.rank, "world_size": launch.world_size}
    train, held = sources
    train = Batches(train, batch_size, launch.device, order, **ranks)
    return train, None if held is None else Batches(held, batch_size, launch.device, **ranks)


def _check_settings(
    *,
    validation: Any,
    gradient_clip: float | None,
    ema: float | None,
    compile: Any,
    checkpoint: Any,
    resume: bool,
    callbacks: Any,
    **counts: int | None,
) -> None:
    for name, value in counts.items():
        if value is not None and (not isinstance(value, Integral) or value < 1):
            raise ValueError(f"{name}: expected a whole number, at least 1, got {value!r}")
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise ValueError(f"callbacks: expected a list of functions, got {callbacks!r}")
    if counts["patience"] is not None and validation is None:
        raise ValueError(
            "patience: expected validation data to be patient about, got validation=None; try validation=0.1"
        )
    if gradient_clip is not None and not gradient_clip > 0:
        raise ValueError(f"gradient_clip: expected a positive norm or None, got {gradient_clip}")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"ema: expected a decay between 0 and 1, e.g. 0.999, or None, got {ema}")
    if compile not in ("auto", True, False):
        raise ValueError(f"compile: expected 'auto', True or False, got {compile!r}")
    if resume and checkpoint is None:
        raise ValueError("resume: expected a checkpoint to go on from, got checkpoint=None; pass checkpoint='run.ckpt'")
