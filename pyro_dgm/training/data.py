"""From what a user has to batches on the model's device: checked before the first step, shuffled by a seed.

Tensors and numpy arrays are checked whole, once, and stay on the device, where a batch is one ``index_select`` by a
shuffled index; there are no workers to start and nothing is copied per step.

A ``Dataset`` or ``DataLoader`` yields x or (x, context), and its first 10,000 data are checked. A dataset's items are
taken in this process, in an order of ours; workers, another order or other batches are what a ``DataLoader`` is for.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset
from torch.utils.data.dataloader import default_collate

from ..distributions.grey import advice
from ..models.base import GenerativeModel

Batch = tuple[Tensor, ...]
Source = Batch | Dataset | DataLoader


def check(batch: Batch, model: nn.Module, name: str = "x") -> None:
    """Refuses data that the model cannot have generated; NaN in x only if the model takes it for what is missing.

    Args:
        batch: x and perhaps a context.
        model: The model; only a :class:`GenerativeModel` says what it expects.
        name: What to call x in errors.

    Raises:
        ValueError: With the argument, what was expected and what came.
    """
    for label, value in zip((name, f"{name}'s context"), batch, strict=False):
        if value.dim() == 0 or len(value) == 0:
            raise ValueError(f"{label}: expected at least one datum along dimension 0, got shape {tuple(value.shape)}")
        wrong = ~value.isfinite()
        if label == name and isinstance(model, GenerativeModel) and model.takes_missing(value):
            wrong &= ~value.isnan()
        if wrong.any():
            rows = wrong.reshape(len(value), -1).any(1).nonzero().flatten()
            raise ValueError(
                f"{label}: expected finite numbers, got NaN or infinity in {len(rows)} of {len(value)} rows, "
                f"the first at row {rows[0].item()}; drop or impute them, or train a model of data with NaN (MIWAE)"
            )
    if not isinstance(model, GenerativeModel):
        return
    x, *context = batch
    _check_event(x, model, name)
    label = "context" if name == "x" else f"{name}'s context"
    if bool(context) != bool(model.context) and (context or not model.context_optional):
        raise ValueError(
            f"{label}: the model was built with context={model.context}, got {'one' if context else 'none'}"
        )
    if context and context[0].dtype != dtype_of(model):
        raise ValueError(
            f"{label}: expected dtype {dtype_of(model)}, as the model's parameters, got {context[0].dtype}"
        )
    if context and context[0].shape != (len(x), model.context):
        raise ValueError(
            f"{label}: expected shape {(len(x), model.context)}, one row per datum, got {tuple(context[0].shape)}"
        )


def _check_event(x: Tensor, model: GenerativeModel, name: str) -> None:
    if x.shape[1:] != model.event_shape:
        raise ValueError(
            f"{name}: expected shape (n, {', '.join(map(str, model.event_shape))}), as the model's event_shape, "
            f"got {tuple(x.shape)}"
        )
    dtype = dtype_of(model)
    if x.dtype != dtype:
        raise ValueError(
            f"{name}: expected dtype {dtype}, as the model's parameters, got {x.dtype}; convert one of them"
        )
    known = x[~x.isnan()]
    outside = ~model.support.check(x).reshape(len(x), -1).all(1)
    if outside.any():
        raise ValueError(
            f"{name}: expected values in the model's support {model.support}, got {int(outside.sum())} of {len(x)} "
            f"rows outside, the first at row {outside.nonzero()[0].item()}, with values from {known.min():g} to "
            f"{known.max():g}{advice(model.support, x)}"
        )


def dtype_of(module: nn.Module) -> torch.dtype:
    """Returns the dtype of the first floating-point parameter or buffer, else the default dtype."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.get_default_dtype()


class Batches:
    """Batches of tensors, of a ``Dataset``'s items, or of whatever a loader gives, on a device.

    The order of tensors and datasets is global: a batch is shared out among the processes of a distributed run, so the
    same data make a step whatever their number. Tensors live on the device where they fit; where they do not, they stay
    in the host's memory and batches are copied from pinned memory while the device computes.

    Args:
        source: A tuple of tensors with one row per datum, a ``Dataset``, or a ``DataLoader``.
        batch_size: Data per batch, over all processes; a loader has its own.
        device: Where batches go.
        generator: The order's randomness; ``None`` for the order given.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if isinstance(source, tuple) and _fits(source, device):
            source = tuple(t.to(device) for t in source)
        self.source, self.batch_size, self.device, self.generator = source, batch_size, device, generator
        self.rank, self.world_size = rank, world_size
        sampler = getattr(source, "sampler", None)
        if world_size > 1 and isinstance(source, DataLoader) and not isinstance(sampler, DistributedSampler):
            raise ValueError(
                f"x: expected tensors, a Dataset, or a DataLoader with a DistributedSampler on {world_size} processes, "
                f"got a DataLoader with a {type(sampler).__name__}, which gives every process the same data"
            )

    def __len__(self) -> int:
        if isinstance(self.source, DataLoader):
            return len(self.source)
        return -(-self.rows // self.batch_size)

    @property
    def rows(self) -> int:
        """Number of data, those of a loader as its dataset counts them."""
        source = self.source.dataset if isinstance(self.source, DataLoader) else self.source
        return len(source[0]) if isinstance(source, tuple) else len(source)

    @property
    def share_size(self) -> int | None:
        """Data in this process's part of a full batch; ``None`` if only the loader knows."""
        if isinstance(self.source, DataLoader):
            return self.source.batch_size
        return -(-min(self.batch_size, self.rows) // self.world_size)

    @property
    def orders(self) -> list[torch.Generator]:
        """What the order is drawn from, beside torch's global generator."""
        if not isinstance(self.source, DataLoader):
            return [] if self.generator is None else [self.generator]
        loader = self.source
        parts = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
        found = [getattr(part, "generator", None) for part in parts]
        return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch()

    def epoch(self, number: int = 0, skip: int = 0, after_skip: Callable[[], None] | None = None) -> Iterator[Batch]:
        """Iterates over the data once.

        Args:
            number: The epoch, for the order of a ``DistributedSampler``.
            skip: Batches to leave out at the beginning, when a run goes on in the middle of an epoch.
            after_skip: Called when they have been left out.
        """
        if isinstance(self.source, DataLoader):
            yield from self._loaded(number, skip, after_skip)
            return
        if self.generator is None:
            order = torch.arange(self.rows, device="cpu")
        else:
            order = torch.randperm(self.rows, generator=self.generator, device="cpu")
        resident = isinstance(self.source, tuple) and self.source[0].device == self.device
        order = order.to(self.device) if resident else order
        if after_skip is not None:
            after_skip()
        for index in order.split(self.batch_size)[skip:]:
            share = self._share(index)
            if len(share):
                yield self._take(share)

    def _share(self, index: Tensor) -> Tensor:
        """This process's part of a batch; in training all get as many, the first data repeated to make that so."""
        if self.world_size == 1:
            return index
        if self.generator is None:
            return index[self.rank :: self.world_size]
        each = -(-len(index) // self.world_size)
        index = index.repeat(-(-each * self.world_size // len(index)))[: each * self.world_size]
        return index[self.rank :: self.world_size]

    def _take(self, index: Tensor) -> Batch:
        if not isinstance(self.source, tuple):
            items = as_tuple(default_collate([self.source[i] for i in index.tolist()]))
            return tuple(t.to(self.device) for t in items)
        batch = tuple(t.index_select(0, index) for t in self.source)
        if batch[0].device == self.device:
            return batch
        return tuple(t.pin_memory().to(self.device, non_blocking=True) for t in batch)

    def _loaded(self, number: int, skip: int, after_skip: Callable[[], None] | None = None) -> Iterator[Batch]:
        if isinstance(self.source.sampler, DistributedSampler):
            self.source.sampler.set_epoch(number)
        batches = iter(self.source)
        for _ in range(skip):
            next(batches)
        if after_skip is not None:
            after_skip()
        for batch in batches:
            yield tuple(t.to(self.device, non_blocking=True) for t in as_tuple(batch))

    def head(self, rows: int) -> Batch:
        """Returns all rows of tensors, or the first data of another source, at most as many rows.

        Raises:
            ValueError: If a loader gives no batch at all.
        """
        if isinstance(self.source, tuple):
            return self.source
        if not isinstance(self.source, DataLoader):
            return self._take(torch.arange(min(rows, self.rows), device="cpu"))
        found: list[Batch] = []
        for batch in self._loaded(0, 0):
            found.append(batch)
            if sum(len(b[0]) for b in found) >= rows:
                break
        if not found:
            raise ValueError(
                "x: expected a DataLoader with at least one batch, got none; is drop_last set on few data?"
            )
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _fits(tensors: Batch, device: torch.device) -> bool:
    """Whether tensors take at most half of the device's free memory."""
    if device.type != "cuda":
        return True
    needed = sum(t.numel() * t.element_size() for t in tensors if t.device != device)
    return needed <= torch.cuda.mem_get_info(device)[0] / 2


def as_tuple(batch: Any) -> Batch:
    """Returns a loader's batch as a tuple of tensors."""
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def as_source(x: Any, context: Any, dtype: torch.dtype, label: str = "x", *, integers: bool = True) -> Source:
    """Returns a tuple of tensors where the data are at hand, else the ``Dataset`` or loader that was given.

    Args:
        x: A tensor, numpy array, sequence of numbers, ``Dataset`` or ``DataLoader``.
        context: The same kind as x, or ``None``.
        dtype: What numpy's floating-point arrays become; tensors keep theirs.
        label: What to call x in errors.
        integers: Whether numpy's integers become that too, as suits a density of real numbers.

    Raises:
        ValueError: If x and the context do not match, or x is of another kind.
    """
    if isinstance(x, TensorDataset):
        if len(x.tensors) > 2 or (len(x.tensors) == 2 and context is not None):
            raise ValueError(f"x: expected a TensorDataset of x or (x, context), got {len(x.tensors)} tensors")
        x, context = (*x.tensors, context)[:2]
    if isinstance(x, IterableDataset) or isinstance(getattr(x, "dataset", None), IterableDataset):
        raise ValueError(
            "x: expected data with a known length, got an IterableDataset; gather it into a tensor or a Dataset"
        )
    if isinstance(x, DataLoader | Dataset):
        if context is not None:
            raise ValueError(
                "context: expected None beside a Dataset or DataLoader, which yields pairs (x, context) itself"
            )
        return x
    other = "context" if label == "x" else f"{label}'s context"
    tensors = tuple(_as_tensor(t, name, dtype, integers) for t, name in ((x, label), (context, other)) if t is not None)
    if len(tensors) == 2 and len(tensors[0]) != len(tensors[1]):
        raise ValueError(f"{other}: expected {len(tensors[0])} rows, one per datum, got {len(tensors[1])}")
    return tensors


def _as_tensor(value: Any, name: str, dtype: torch.dtype, integers: bool) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray | Sequence):
        array = np.asarray(value)
        if array.dtype.kind in "fiub":
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
            tensor = torch.as_tensor(array, device="cpu")
            return tensor.to(dtype) if array.dtype.kind == "f" or integers else tensor
    raise ValueError(
        f"{name}: expected a tensor, a numpy array of numbers, a Dataset or a DataLoader, got {type(value).__name__}"
    )


def split(source: Source, fraction: float, generator: torch.Generator) -> tuple[Batch, Batch]:
    """Splits tensors at random into a training and a validation part.

    Raises:
        ValueError: If the fraction leaves either part empty, or the data are a loader.
    """
    if not isinstance(source, tuple):
        raise ValueError("validation: a fraction needs tensors or arrays; pass a second DataLoader or Dataset instead")
    n = len(source[0])
    held_out = round(n * fraction)
    if not 0 < held_out < n:
        raise ValueError(f"validation: expected a fraction that leaves data on both sides, got {fraction} of {n} rows")
    order = torch.randperm(n, generator=generator, device="cpu")
    train, held = order[held_out:], order[:held_out]
    return tuple(t[train.to(t.device)] for t in source), tuple(t[held.to(t.device)] for t in source)
