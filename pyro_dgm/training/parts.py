"""Tensors of which every process holds a part, where the weights are sharded.

Parts are PyTorch's ``DTensor``, with which sums, products and copies of parts are written like those of any tensors.
Only what looks at a whole tensor, and what meets the whole tensors of a checkpoint, needs these functions. A checkpoint
holds nothing but whole tensors, so a run can go on from it on another number of processes, or with another strategy.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def full(tensor: Tensor) -> Tensor:
    """Returns the whole of a tensor, for which all processes have to ask."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def alike(tensor: Tensor, target: Tensor) -> Tensor:
    """Returns of a tensor what this process holds of another, so that the two can be computed with."""
    if hasattr(tensor, "full_tensor") or not hasattr(target, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    part: Any = target
    # every process has the whole of it, so none has to send anything
    return distribute_tensor(tensor.to(part.device), part.device_mesh, part.placements, src_data_rank=None)


@torch.no_grad()
def copy_(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Gives tensors the values of others, whole or in parts."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(alike(source, target))


def collect(value: Any, keep: bool) -> Any:
    """Returns nested dictionaries and lists with every tensor in them whole, for which all processes have to ask.

    Args:
        value: The dictionary, list, tuple, tensor or anything else.
        keep: Whether this process wants the answer; one that does not is spared the memory.
    """
    if isinstance(value, dict):
        return {key: collect(each, keep) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([collect(each, keep) for each in value])
    if not hasattr(value, "full_tensor"):
        return value
    whole = value.detach().full_tensor()  # one at a time on the device, all of them only on the host
    return whole.cpu() if keep else None
