"""Training: ``fit`` learns a model, or minimises any loss module, and returns the history of doing so."""

from .fit import fit
from .history import History
from .loop import NonFiniteError
from .schedules import one_cycle

__all__ = ["History", "NonFiniteError", "fit", "one_cycle"]
