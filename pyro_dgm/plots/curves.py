"""Learning curves: every quantity of a training run over its steps.

A history is what a training loop wrote down: rows of named numbers (a list of dicts, as from `fit`), or the
same as columns (a dict of arrays). One of its names is the clock, `step`, `epoch` or the like, drawn
horizontally; each other name becomes a curve. A quantity that is measured in some rows only, a validation
loss say, is joined over the gaps.

Losses of this library are in nats per datum, which is what the vertical axis says unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import COLORS, legend, new_axes, to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .style import Array

_CLOCKS = ("step", "iteration", "epoch", "seconds", "time")


def learning_curves(
    history: Sequence[Mapping[str, float]] | Mapping[str, Array],
    keys: Sequence[str] | None = None,
    *,
    ylabel: str = "loss (nats per datum)",
    ax: Axes | None = None,
) -> Figure:
    """Draw the numbers of a training run as curves.

    The first of `step`, `iteration`, `epoch`, `seconds`, `time` in the history is the horizontal axis, or
    the row number if there is none. Good for a few quantities of one unit; call it twice for two units.

    Args:
        history: rows, dicts of name -> number, which need not all have the same names; or columns, one dict
            of name -> array with shape `[rows]`.
        keys: the names to draw; default all but clocks.
        ylabel: label and unit of the vertical axis.
        ax: axes to draw into; default a new figure.

    Returns:
        The figure; one line for each key, labelled with it.

    Raises:
        ValueError: nothing to draw, an unknown key, or columns of different lengths.
    """
    columns = _columns(history)
    clock = next((name for name in _CLOCKS if name in columns), None)
    keys = [name for name in columns if name not in _CLOCKS] if keys is None else list(keys)
    missing = [key for key in keys if key not in columns]
    if missing or not keys:
        raise ValueError(f"keys: expected names out of {sorted(columns)}, got {missing or keys}.")
    figure, ax = new_axes(ax)
    for i, key in enumerate(keys):
        values = columns[key]
        ticks = np.arange(len(values)) if clock is None else columns[clock]
        known = np.isfinite(values) & np.isfinite(ticks)
        marker = "o" if known.sum() == 1 else None
        ax.plot(ticks[known], values[known], color=COLORS[i % len(COLORS)], lw=1.2, marker=marker, label=key)
    ax.set(xlabel=clock or "row", ylabel=ylabel)
    ax.margins(x=0.02)
    if len(keys) > 1:
        legend(ax)
    return figure


def _columns(history: Sequence[Mapping[str, float]] | Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Columns of equal length, NaN where a row does not have the name."""
    if isinstance(history, Mapping):
        columns = {name: to_numpy(values, name).astype(float) for name, values in history.items()}
    else:
        names = dict.fromkeys(name for row in history for name in row)
        columns = {name: np.array([float(row.get(name, np.nan)) for row in history]) for name in names}
    lengths = {name: column.shape for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or any(column.ndim != 1 for column in columns.values()):
        raise ValueError(f"history: expected columns of one dimension and equal length, got {lengths}.")
    return columns
