"""One file for a model: the arguments of its constructor as JSON, and its state.

``load`` builds the model again, parts and all (a VAE with a flow as prior), and fills in the state. The file is read
by torch's restricted unpickler (``weights_only=True``), and the JSON can only name classes that this package exports,
so nothing is ever executed from a file.
"""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from . import _archive, models, transforms
from . import nn as networks
from ._config import Configured
from ._version import __version__
from .distributions import heads
from .models.base import GenerativeModel

_FORMAT = "pyro_dgm.model.v1"
_ACTIVATIONS = {module.__name__: module for module in (nn.modules.activation, networks.activation)}
_CONSTRAINTS = {
    **{
        name: getattr(constraints, name)
        for name in ("real", "positive", "nonnegative", "unit_interval", "simplex", "boolean")
    },
    **{name: getattr(constraints, name) for name in ("interval", "greater_than", "greater_than_eq", "less_than")},
}
Module = TypeVar("Module", bound=nn.Module)


class _NotStorable(Exception):
    pass


def save(model: GenerativeModel, path: str | os.PathLike) -> None:
    """Saves a model to one file; an existing file is replaced only when the new one is whole.

    Args:
        model: A model of this package, whose parts are of this package too.
        path: The file.

    Raises:
        ValueError: If the model holds a module of your own, which cannot be built again from a file.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile, pyro_dgm
        >>> from pyro_dgm.models import NSF
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pyro_dgm.save(NSF(2), f"{folder}/flow.pt")
        ...     flow = pyro_dgm.load(f"{folder}/flow.pt")
    """
    try:
        description = json.dumps(_encode(model, type(model).__name__, {}))
        _compare(model, _build(description))
    except _NotStorable as error:
        raise ValueError(
            f"model: cannot be built again from a file, because {error}; save its weights with "
            "torch.save(model.state_dict(), path), construct the model in your code, and read them with "
            "pyro_dgm.load(path, into=model)"
        ) from None
    content = {"format": _FORMAT, "version": __version__, "model": description, "state": model.state_dict()}
    _archive.write(content, Path(path))


def load(
    path: str | os.PathLike, into: Module | None = None, device: torch.device | str = "cpu"
) -> GenerativeModel | Module:
    """Loads a model, or the weights of one.

    Args:
        path: A file written by :func:`save`; with ``into``, also one that holds a plain ``state_dict``.
        into: A model to fill, constructed by you; it is unchanged if the file does not fit.
        device: Where a newly built model goes.

    Returns:
        The model, in evaluation mode if built here.

    Raises:
        ValueError: If the file is no model, is damaged, or does not fit.
        FileNotFoundError: If there is no such file.
    """
    content = _read(Path(path), device)
    if into is not None:
        return _fill(into, content["state"] if content.get("format") == _FORMAT else content, path)
    if content.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: expected a file written by pyro_dgm.save (format {_FORMAT!r}), got "
            f"{content.get('format')!r}; to read a plain state_dict pass into=model"
        )
    try:
        model = _build(content["model"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: the description of the model (written by version {content.get('version')}) does not suit this "
            f"version {__version__}: {error}"
        ) from error
    if not isinstance(model, GenerativeModel):
        raise ValueError(f"{path}: expected a generative model, got {type(model).__name__}")
    return _fill(model, content["state"], path, assign=True).to(device).eval()  # bounds of a support are no state


def _build(description: str) -> Any:
    """Constructs what the JSON describes, without memory for its parameters and without random numbers."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _decode(json.loads(description), [])


def _compare(model: nn.Module, rebuilt: nn.Module) -> None:
    """Refuses a model that was changed after construction, so that its description does not describe it."""
    shapes, others = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, rebuilt))
    changed = sorted(k for k in shapes.keys() | others.keys() if shapes.get(k) != others.get(k))
    if changed:
        raise _NotStorable(f"it was changed after construction, at {', '.join(changed[:3])}")
    if len(list(model.parameters())) != len(list(rebuilt.parameters())):
        raise _NotStorable("some of its parameters are shared between parts")


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    content = _archive.read(path, device, "pyro_dgm.save")
    if content.get("format") == _FORMAT and not {"model", "state"} <= content.keys():
        raise ValueError(f"{path}: expected a file written by pyro_dgm.save, got one without a model or its state")
    return content


def _fill(model: Module, state: Any, path: str | os.PathLike, assign: bool = False) -> Module:
    own = model.state_dict()
    if not assign and any(t.is_meta for t in own.values()):
        raise ValueError(
            "into: expected a model with memory, got one on the device meta; model.to_empty(device='cpu') first"
        )
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path}: expected a state_dict of tensors, got {type(state).__name__}")
    wrong = [f"{key} missing" for key in own if key not in state] + [
        f"{key} unknown" for key in state if key not in own
    ]
    wrong += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        raise ValueError(
            f"{path}: the weights do not fit {type(model).__name__}: {'; '.join(wrong[:3])} ({len(wrong)} in all)"
        )
    model.load_state_dict(state, assign=assign)
    return model


def _public() -> dict[str, type]:
    found = {name: getattr(module, name) for module in (models, transforms) for name in module.__all__}
    found |= {f"heads.{name}": getattr(heads, name) for name in heads.__all__}
    found |= {f"nn.{name}": getattr(networks, name) for name in networks.__all__}
    abstract = (models.GenerativeModel, models.TractableModel, models.ApproximateModel, models.ImplicitModel)
    abstract += (transforms.Transform, transforms.Univariate, heads.Head)
    return {
        name: c for name, c in found.items() if isinstance(c, type) and issubclass(c, Configured) and c not in abstract
    }


def _encode(value: Any, where: str, known: dict[int, int]) -> Any:
    """Returns JSON for a constructor's argument; ``where`` names it in errors.

    A part that two others share is described once, and then by its number among the parts in the order of their making.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic) or (
        isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    ):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [_encode(v, f"{where}[{i}]", known) for i, v in enumerate(value)]
    if id(value) in known:
        return {"part": known[id(value)]}
    name = next((name for name, c in _public().items() if c is type(value)), None)
    if name is not None:
        arguments = {k: _encode(_current(value, k, v), f"{where}.{k}", known) for k, v in value.config.items()}
        known[id(value)] = len(known)
        return {"class": name, "arguments": arguments}
    if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ in _ACTIVATIONS:
        return {"activation": value.__name__}
    if isinstance(value, constraints.Constraint):
        return _encode_constraint(value, where)
    raise _NotStorable(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, not a public class of pyro_dgm"
    )


def _current(owner: Configured, name: str, value: Any) -> Any:
    """Returns a setting as it is now: a number like ``num_particles`` may have been changed since construction."""
    now = getattr(owner, name, value)
    return now if type(now) is type(value) and isinstance(value, bool | int | float) else value


def _encode_constraint(value: constraints.Constraint, where: str) -> dict[str, Any]:
    if isinstance(value, constraints.independent):
        inner = _encode_constraint(value.base_constraint, where)
        return {"constraint": "independent", "of": inner, "dims": value.reinterpreted_batch_ndims}
    settings = {k: {"tensor": v.tolist()} if isinstance(v, Tensor) else v for k, v in vars(value).items()}
    bounds = [settings[k] for k in ("lower_bound", "upper_bound") if k in settings]
    for name, known in _CONSTRAINTS.items():
        if type(value) is type(known) and settings == vars(known):
            return {"constraint": name}
        if type(value) is known and all(isinstance(b, int | float | dict) for b in bounds):
            return {"constraint": name, "bounds": bounds}
    raise _NotStorable(f"{where} is the constraint {value}; those that can be stored are {', '.join(_CONSTRAINTS)}")


def _decode(value: Any, made: list[Any]) -> Any:
    """Returns what JSON describes; ``made`` collects the parts in the order of their making."""
    if isinstance(value, list):
        return [_decode(v, made) for v in value]
    if not isinstance(value, dict):
        return value
    if "class" in value:
        public = _public()
        if value["class"] not in public:
            raise ValueError(f"expected one of the classes of pyro_dgm, got {value['class']!r}")
        made.append(public[value["class"]](**{k: _decode(v, made) for k, v in value["arguments"].items()}))
        return made[-1]
    if "part" in value:
        if value["part"] not in range(len(made)):
            raise ValueError(f"expected the number of a part, below {len(made)}, got {value['part']!r}")
        return made[value["part"]]
    if "activation" in value:
        name = value["activation"]
        activation = next((found for m in _ACTIVATIONS.values() if (found := getattr(m, name, None))), None)
        if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
            raise ValueError(f"expected an activation of torch.nn or ShiftedReLU, got {value['activation']!r}")
        return activation
    return _decode_constraint(value)


def _decode_constraint(value: dict[str, Any]) -> constraints.Constraint:
    if value.get("constraint") == "independent":
        return constraints.independent(_decode_constraint(value["of"]), value["dims"])
    known = _CONSTRAINTS.get(value.get("constraint"))
    if known is None:
        raise ValueError(f"expected a known constraint, got {value.get('constraint')!r}")
    if not isinstance(known, type):
        return known
    return known(*(torch.tensor(b["tensor"], device="cpu") if isinstance(b, dict) else b for b in value["bounds"]))
