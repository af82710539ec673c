"""What Python holds of a program: the numbers, lists, functions and identities that a trace reads and cannot watch.

A graph of tensor operations follows its tensors wherever they change in place. Everything else that the program looked
at while it was traced (``model.beta = 0.1``, an entry of a dictionary, a global number, which tensor an attribute
names) is part of the graph. :func:`python_state` writes those down, so that a change is noticed. It looks into
containers, objects, closures and the globals that functions name, as deep as :data:`DEEPEST` and as far as
:data:`MOST` things; what lies beyond, such as the place of a generator, belongs in a buffer.
"""

from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

DEEPEST, MOST = 8, 20_000

_PLAIN = (bool, int, str, bytes, type(None), torch.dtype, torch.device, type)
_OURS = ("torch", "pyro", "pyro_dgm", "builtins", "abc", "typing")


def python_state(modules: Iterable[nn.Module], *, identities: bool = True) -> dict[str, Any]:
    """Returns what modules hold, by name.

    Args:
        modules: The modules, with their submodules.
        identities: Whether to tell which tensors and objects they hold, beside numbers and the lengths of containers.
    """
    found: dict[str, Any] = {}
    roots = list(modules)
    known = {id(module) for root in roots for module in root.modules()}  # each is looked at under its own name
    for number, root in enumerate(roots):
        for name, module in root.named_modules():
            for key, value in _vars(module).items():
                found[f"{number}.{name}.{key}"] = _Look(identities, known)(value)
            found[f"{number}.{name}.class {type(module).__name__}"] = _Look(identities, known).kind(type(module))
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Returns the attribute that has changed, if one has."""
    for name in {**before, **after}:
        if name not in before or name not in after or before[name] != after[name]:
            return ".".join(part for part in name.split(".")[1:] if part)
    return None


class _Look:
    """Makes a comparable value of whatever an attribute holds, each object once."""

    def __init__(self, identities: bool, known: set[int]) -> None:
        self.identities, self.left = identities, MOST
        self.seen: dict[int, Any] = dict.fromkeys(known)  # held, so that no later object has the identity of one

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, float | complex | np.generic):
            return repr(value)  # NaN equals itself
        if isinstance(value, np.ndarray):
            return value.shape, value.tobytes() if value.size <= MOST else self._identity(value)
        if type(value).__module__ == "itertools":
            return repr(value)  # says where it is
        beyond = depth >= DEEPEST or self.left < 0 or id(value) in self.seen
        if beyond or isinstance(value, Tensor | ModuleType) or _is_theirs(value):
            return self._identity(value)
        self.seen[id(value)] = value
        if isinstance(value, list | tuple | dict | set | frozenset):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return type(value), len(value), tuple((self(k, depth + 1), self(v, depth + 1)) for k, v in items)
        if isinstance(value, FunctionType):
            return self._identity(value), tuple(self(each, depth + 1) for each in _reads(value))
        if isinstance(value, MethodType):
            return self(value.__func__, depth + 1), self(value.__self__, depth + 1)
        return self._identity(value), self(_vars(value), depth + 1)

    def kind(self, kind: type) -> Any:
        """Looks at a class of the user's: its attributes, and what its methods read."""
        classes = [c for c in kind.__mro__ if _is_users(c)]
        held = [(name, v) for c in classes for name, v in vars(c).items() if not name.startswith("__")]
        return tuple((name, self(v, 2)) for name, v in held if not isinstance(v, property | staticmethod | classmethod))

    def _identity(self, value: Any) -> Any:
        return id(value) if self.identities else type(value)


def _is_theirs(value: Any) -> bool:
    """Whether it is torch's or Pyro's object, which may fill caches of its own; an estimator's settings count."""
    package = type(value).__module__.partition(".")[0]
    return package in ("torch", "pyro") and not isinstance(value, ELBO | nn.Module)


def _is_users(thing: Any) -> bool:
    return (thing.__module__ or "").partition(".")[0] not in _OURS


def _vars(value: Any) -> dict[str, Any]:
    """The attributes of an object, but for those of a module that the graph follows or that Pyro keeps for itself."""
    try:
        found = dict(vars(value))
    except Exception:  # no attributes, or none that it shows
        found = {}
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__"):
                found[name] = getattr(value, name, None)
    if isinstance(value, nn.Module):
        found = {k: v for k, v in found.items() if not k.startswith("_pyro_") and k not in ("_buffers", "_modules")}
    return found


def _reads(function: FunctionType) -> list[Any]:
    """What a function can read beside its arguments: its closure, its defaults, and the globals that it names."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not bound yet
            cells.append(None)
    names = function.__code__.co_names if _is_users(function) else ()
    return [*cells, *(function.__defaults__ or ()), *(function.__globals__.get(name) for name in names)]
