"""Deep generative models as first-class citizens of Pyro.

A model is a module that, called, returns a Pyro distribution: ``models`` holds them, ``fit`` learns them, ``save``
and ``load`` keep them, ``guides`` makes posteriors of them, and ``evaluation``, ``plots`` and ``datasets`` stand around
them. ``transforms``, ``distributions``, ``objectives`` and ``nn`` are the parts they are made of.
"""

from . import datasets, distributions, evaluation, guides, models, nn, objectives, plots, training, transforms
from ._version import __version__
from .io import load, save
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
