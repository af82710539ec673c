"""Deep generative models as first-class citizens of Pyro.

A model is a module that, called, returns a Pyro distribution: ``models`` holds them, ``fit`` learns them, ``save``
and ``load`` keep them, ``guides`` makes posteriors of them, and ``evaluation``, ``plots`` and ``datasets`` stand around
them. ``transforms``, ``distributions``, ``objectives`` and ``nn`` are the parts they are made of.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from . import distributions, models, nn, objectives, training, transforms
from ._version import __version__
from .io import load, save
from .training import fit

if TYPE_CHECKING:
    from . import datasets, evaluation, guides, plots

__all__ = [
    "__version__",
    "datasets",
    "distributions",
    "evaluation",
    "fit",
    "guides",
    "load",
    "models",
    "nn",
    "objectives",
    "plots",
    "save",
    "training",
    "transforms",
]


def __getattr__(name: str) -> ModuleType:
    """Imports what stands around the models when it is first asked for: importing them all is slow."""
    if name in ("datasets", "evaluation", "guides", "plots"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
