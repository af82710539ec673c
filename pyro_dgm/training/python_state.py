"""What Python holds of a program: the numbers, lists, functions and identities that a trace reads and cannot watch.

A graph of tensor operations follows its tensors wherever they change in place. Everything else that the program looked
at while it was traced (``model.beta = 0.1``, an entry of a dictionary, a global number, which tensor an attribute
names) is part of the graph. :func:`python_state` writes those down, so that a change is noticed.
"""

from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEEPEST, LONGEST = 4, 1000

_PLAIN = (bool, int, str, bytes, type(None), torch.dtype, torch.device, type)


def python_state(modules: Iterable[nn.Module], *, identities: bool = True) -> dict[str, Any]:
    """Returns what modules hold, by name.

    Args:
        modules: The modules, with their submodules.
        identities: Whether to tell which tensors and objects they hold, beside numbers and the lengths of containers.
    """
    found: dict[str, Any] = {}
    for number, root in enumerate(modules):
        for name, module in root.named_modules():
            for key, value in vars(module).items():
                # buffers that are bound anew are followed by the graph itself
                if not key.startswith("_pyro_") and key not in ("_buffers", "_modules"):
                    found[f"{number}.{name}.{key}"] = _look(value, 0, identities)
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Returns the attribute that has changed, if one has."""
    for name in {**before, **after}:
        if name not in before or name not in after or before[name] != after[name]:
            return ".".join(part for part in name.split(".")[1:] if part)
    return None


def _look(value: Any, depth: int, identities: bool) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, float | complex | np.generic):
        return repr(value)  # NaN equals itself
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes() if value.size <= LONGEST else _identity(value, identities)
    if isinstance(value, Tensor):
        return _identity(value, identities)
    if depth >= DEEPEST or isinstance(value, nn.Module | ModuleType):
        return _identity(value, identities)
    look = _looker(depth + 1, identities)
    if isinstance(value, FunctionType):
        return _identity(value, identities), tuple(map(look, _reads(value)))
    if isinstance(value, MethodType):
        return look(value.__func__), look(value.__self__)
    if isinstance(value, list | tuple | dict | set | frozenset):
        if len(value) > LONGEST:
            return _identity(value, identities), len(value)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return type(value), len(value), tuple((look(k), look(v)) for k, v in items)
    return _identity(value, identities), look(dict(getattr(value, "__dict__", {})))


def _looker(depth: int, identities: bool) -> Callable[[Any], Any]:
    return lambda value: _look(value, depth, identities)


def _identity(value: Any, identities: bool) -> Any:
    return id(value) if identities else type(value)


def _reads(function: FunctionType) -> list[Any]:
    """What a function can read beside its arguments: its closure, its defaults, and the globals that it names."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not bound yet
            cells.append(None)
    names = function.__code__.co_names
    return [*cells, *(function.__defaults__ or ()), *(function.__globals__.get(name) for name in names)]
