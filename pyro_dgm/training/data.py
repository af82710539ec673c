"""From what a user has to batches on the model's device: checked before the first step, shuffled by a seed.

Tensors and numpy arrays are checked whole, once, and stay on the device, where a batch is one ``index_select`` by a
shuffled index; there are no workers to start and nothing is copied per step.

A ``Dataset`` or ``DataLoader`` yields x or (x, context), and its first 10,000 data are checked.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torch.utils.data.dataloader import default_collate

from ..models.base import GenerativeModel

Batch = tuple[Tensor, ...]


def check(batch: Batch, model: nn.Module, name: str = "x") -> None:
    """Refuses data that the model cannot have generated.

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
        if value.is_floating_point() and not value.isfinite().all():
            rows = (~value.isfinite().reshape(len(value), -1).all(1)).nonzero().flatten()
            raise ValueError(
                f"{label}: expected finite numbers, got NaN or infinity in {len(rows)} of {len(value)} rows, "
                f"the first at row {rows[0].item()}; drop or impute them"
            )
    if not isinstance(model, GenerativeModel):
        return
    x, *context = batch
    _check_event(x, model, name)
    label = "context" if name == "x" else f"{name}'s context"
    if bool(context) != bool(model.context):
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
    outside = ~model.support.check(x).reshape(len(x), -1).all(1)
    if outside.any():
        raise ValueError(
            f"{name}: expected values in the model's support {model.support}, got {int(outside.sum())} of {len(x)} "
            f"rows outside, the first at row {outside.nonzero()[0].item()}, with values from {x.min():g} to {x.max():g}"
        )


def dtype_of(module: nn.Module) -> torch.dtype:
    """Returns the dtype of the first floating-point parameter or buffer, else the default dtype."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.get_default_dtype()


class Batches:
    """Batches of tensors, or of whatever a loader gives, on a device.

    Args:
        source: A tuple of tensors with one row per datum, or a ``DataLoader``.
        batch_size: Rows per batch of tensors; a loader has its own.
        device: Where batches go.
        generator: The order's randomness; ``None`` for the order given.
    """

    def __init__(
        self,
        source: Batch | DataLoader,
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> None:
        if isinstance(source, tuple):
            source = tuple(t.to(device) for t in source)
        self.source, self.batch_size, self.device, self.generator = source, batch_size, device, generator

    def __len__(self) -> int:
        if isinstance(self.source, tuple):
            return -(-len(self.source[0]) // self.batch_size)
        return len(self.source)

    def __iter__(self) -> Iterator[Batch]:
        if not isinstance(self.source, tuple):
            for batch in self.source:
                yield tuple(t.to(self.device, non_blocking=True) for t in as_tuple(batch))
            return
        n = len(self.source[0])
        if self.generator is None:
            for start in range(0, n, self.batch_size):
                yield tuple(t[start : start + self.batch_size] for t in self.source)
            return
        order = torch.randperm(n, generator=self.generator, device="cpu").to(self.device)
        for index in order.split(self.batch_size):
            yield tuple(t.index_select(0, index) for t in self.source)

    def head(self, rows: int) -> Batch:
        """Returns all rows of tensors, or the first batches of a loader until there are as many rows.

        Raises:
            ValueError: If a loader gives no batch at all.
        """
        if isinstance(self.source, tuple):
            return self.source
        found: list[Batch] = []
        for batch in self:
            found.append(batch)
            if sum(len(b[0]) for b in found) >= rows:
                break
        if not found:
            raise ValueError(
                "x: expected a DataLoader with at least one batch, got none; is drop_last set on few data?"
            )
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def as_tuple(batch: Any) -> Batch:
    """Returns a loader's batch as a tuple of tensors."""
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def as_source(
    x: Any, context: Any, dtype: torch.dtype, batch_size: int, generator: torch.Generator | None, label: str = "x"
) -> Batch | DataLoader:
    """Returns a tuple of tensors where the data are at hand, else a loader.

    Args:
        x: A tensor, numpy array, sequence of numbers, ``Dataset`` or ``DataLoader``.
        context: The same kind as x, or ``None``.
        dtype: What numpy's floating-point arrays become; tensors keep theirs.
        batch_size: For a ``Dataset``.
        generator: For shuffling a ``Dataset``; ``None`` keeps its order.
        label: What to call x in errors.

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
        if isinstance(x, DataLoader):
            return x
        return DataLoader(x, batch_size, shuffle=generator is not None, generator=generator, collate_fn=default_collate)
    other = "context" if label == "x" else f"{label}'s context"
    tensors = tuple(_as_tensor(t, name, dtype) for t, name in ((x, label), (context, other)) if t is not None)
    if len(tensors) == 2 and len(tensors[0]) != len(tensors[1]):
        raise ValueError(f"{other}: expected {len(tensors[0])} rows, one per datum, got {len(tensors[1])}")
    return tensors


def _as_tensor(value: Any, name: str, dtype: torch.dtype) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray | Sequence):
        array = np.asarray(value)
        if array.dtype.kind in "fiub":
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
            return torch.as_tensor(array, device="cpu").to(dtype)
    raise ValueError(
        f"{name}: expected a tensor, a numpy array of numbers, a Dataset or a DataLoader, got {type(value).__name__}"
    )


def split(source: Batch | DataLoader, fraction: float, generator: torch.Generator) -> tuple[Batch, Batch]:
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
