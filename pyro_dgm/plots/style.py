"""The common look of all plots: quiet axes, a few colours that every eye can tell apart, no global state.

Every plot function takes arrays and gives back a `matplotlib.figure.Figure`. They build the figure
directly, not through pyplot, so nothing is kept alive, no window opens, and no default of the user's
changes. Functions of one panel also draw into an axes of yours by `ax=`.

Colours follow Paul Tol's schemes ("Colour schemes", SRON technical note, 2021), distinguishable with the
common kinds of colour blindness: `COLORS` for categories, and a light-to-dark blue `density_map` for
magnitudes, whose lightness alone carries the value, so it also survives a grey printer.

Symbols: x data, z latent, p(x) density, log p(x) in nats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from numpy.typing import ArrayLike

    Array: TypeAlias = torch.Tensor | ArrayLike

COLORS = (
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#AA3377",
    "#8C8C8C",
    "#332288",
    "#999933",
    "#882255",
)
INK = "#333333"
FAINT = "#B8BCC2"


def to_numpy(values: Array, name: str = "values") -> np.ndarray:
    """Array of any origin (tensor with or without gradient, on any device, list) as a numpy array.

    Args:
        values: the array.
        name: what to call it in an error.

    Returns:
        A numpy array of numbers, any shape.

    Raises:
        ValueError: it does not hold numbers.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name}: expected an array of real numbers, got dtype {array.dtype}.")
    return array


def new_axes(ax: Axes | None = None, width: float = 4.8, height: float = 3.4) -> tuple[Figure, Axes]:
    """A quiet axes and its figure: `ax` if given, or a new figure of `width` by `height` inches."""
    if ax is None:
        figure = new_figure(width, height)
        ax = figure.add_subplot()
    quiet(ax)
    return ax.get_figure(root=True), ax


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` by `height` inches that no global list knows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def quiet(ax: Axes) -> None:
    """Thin grey axes on two sides, small ticks, dark grey text."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(color=FAINT, linewidth=0.8)
    ax.tick_params(color=FAINT, labelcolor=INK, labelsize=8, width=0.8, length=3)
    for label in (ax.xaxis.label, ax.yaxis.label, ax.title):
        label.set(color=INK, fontsize=9)


def legend(ax: Axes, **kwargs: Any) -> Legend:
    """A legend without a frame, in the colour of the text."""
    return ax.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.4, **kwargs)


def colorbar(ax: Axes, mappable: ScalarMappable, label: str) -> None:
    """A slim scale beside an axes, without a frame, and opaque even if what it explains is not."""
    bar = ax.get_figure(root=True).colorbar(mappable, ax=ax, shrink=0.8, aspect=28, pad=0.02)
    bar.solids.set_alpha(1.0)
    bar.outline.set_visible(False)
    quiet(bar.ax)
    bar.ax.spines[:].set_visible(False)
    bar.set_label(label, color=INK, fontsize=9)


def density_map() -> LinearSegmentedColormap:
    """Colours for magnitudes, from nearly white (zero) to deep blue, falling in lightness throughout."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "density", ["#FFFFFF", "#DCE8F2", "#A9C8E0", "#6A9FC8", "#38719F", "#1B3F66"]
    )
