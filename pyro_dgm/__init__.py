"""Deep generative models as first-class citizens of Pyro.

A model is a module that, called, returns a Pyro distribution: ``models`` holds them, ``fit`` learns them, ``save``
and ``load`` keep them, ``guides`` makes posteriors of them, and ``evaluation``, ``plots`` and ``datasets`` stand around
them. ``transforms``, ``distributions``, ``objectives`` and ``nn`` are the parts they are made of.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import distributions, models, nn, transforms
from ._version import __version__
from .io import load, save

if TYPE_CHECKING:
    from . import datasets, evaluation, guides, objectives, plots, training
    from .training import fit

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


def __getattr__(name: str) -> Any:
    """Imports what stands around the models when it is first asked for: importing it all is slow."""
    if name == "fit":
        return importlib.import_module(f"{__name__}.training").fit
    if name in ("datasets", "evaluation", "guides", "objectives", "plots", "training"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
