"""Training: ``fit`` learns a model, or minimises any loss module, and returns the history of doing so.

``trace`` makes one graph of a loss and its gradient; ``fit`` does that by itself.
"""

from .fit import fit
from .graph import UntraceableError
from .history import History
from .loop import NonFiniteError
from .pretrain import pretrain
from .schedules import one_cycle, warmup_constant, warmup_cosine
from .tracing import Traced, trace

__all__ = [
    "History",
    "NonFiniteError",
    "Traced",
    "UntraceableError",
    "fit",
    "one_cycle",
    "pretrain",
    "trace",
    "warmup_constant",
    "warmup_cosine",
]
