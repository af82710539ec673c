"""Densities and samples of few dimensions: is the model where the data are?

A log-density is a callable log p that maps points `[m, D]` to nats `[m]` (pass `model().log_prob` or any
function), or its values on a regular grid. It is drawn as p(x) = exp(log p(x)), which has the unit 1 /
(unit of x)^D, with the data over it:

- `density_1d`, D = 1: the curve, and a histogram of the data normalised to area one, so the two may be
  compared.
- `density_2d`, D = 2: a map, with the contours that enclose 50 % and 90 % of the mass on the grid (regions
  of highest density), and the data as dots. About 10 % of the dots should lie outside the outer contour.
- `pair_plot`, any D: histograms of each feature and scatter of each pair, for data and samples side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from .style import COLORS, FAINT, INK, colorbar, density_map, legend, new_axes, new_figure, quiet, to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .style import Array

    LogDensity: TypeAlias = Callable[[torch.Tensor], Array] | Array

_MAX_DOTS = 2000  # more dots hide one another and swell the file


def density_1d(
    log_prob: LogDensity,
    data: Array | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    num_points: int = 500,
    label: str = "p(x)",
    ax: Axes | None = None,
) -> Figure:
    """Draw a density on the line, over a histogram of data.

    Args:
        log_prob: maps points `[num_points, 1]` to nats `[num_points]`; or its values on an even grid over
            `bounds`.
        data: data, with shape `[n]` or `[n, 1]`.
        bounds: ends of the line; default the range of the data and 10 % on either side.
        num_points: points at which a callable is evaluated.
        label: name of the curve in the legend.
        ax: axes to draw into; default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: neither data nor bounds, or a wrong shape.
    """
    columns = None if data is None else _columns(data, "data", 1)
    (low, high) = _limits(columns, bounds, "bounds")[0]
    grid = np.linspace(low, high, num_points)
    values = _evaluate(log_prob, grid[:, None]) if callable(log_prob) else to_numpy(log_prob, "log_prob")
    if values.ndim != 1:
        raise ValueError(f"log_prob: expected values with shape (points,), got {values.shape}.")
    figure, ax = new_axes(ax)
    if columns is not None:
        bins = np.histogram_bin_edges(columns[:, 0], bins="auto")
        ax.hist(columns[:, 0], bins=bins, density=True, color=FAINT, alpha=0.55, label="data")
    ax.plot(np.linspace(low, high, len(values)), np.exp(values), color=COLORS[0], lw=1.8, label=label)
    ax.set(xlabel="x", ylabel="p(x)", xlim=(low, high))
    ax.set_ylim(bottom=0)
    if columns is not None:
        legend(ax)
    return figure


def density_2d(
    log_prob: LogDensity,
    data: Array | None = None,
    *,
    bounds: Sequence[tuple[float, float]] | None = None,
    num_points: int = 200,
    ax: Axes | None = None,
) -> Figure:
    """Draw a density in the plane, with 50 % and 90 % contours and the data over it.

    Args:
        log_prob: maps points `[num_points^2, 2]` to nats `[num_points^2]`; or its values `[rows, columns]`
            on an even grid, rows along x_2 upwards and columns along x_1.
        data: data, with shape `[n, 2]`; at most about 2000 of them are drawn, evenly spaced.
        bounds: ((low, high) of x_1, (low, high) of x_2), or one pair for both; default the range of the
            data and 10 % on either side.
        num_points: points of the grid along each axis, if log_prob is a callable.
        ax: axes to draw into; default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: neither data nor bounds, or a wrong shape.
    """
    columns = None if data is None else _columns(data, "data", 2)
    (left, right), (bottom, top) = _limits(columns, bounds, "bounds", 2)
    if callable(log_prob):
        x1, x2 = np.meshgrid(np.linspace(left, right, num_points), np.linspace(bottom, top, num_points))
        values = _evaluate(log_prob, np.stack([x1, x2], axis=-1).reshape(-1, 2)).reshape(x1.shape)
    else:
        values = to_numpy(log_prob, "log_prob")
    if values.ndim != 2:
        raise ValueError(f"log_prob: expected values with shape (rows, columns), got {values.shape}.")
    p = np.exp(values.astype(float))
    grid1, grid2 = np.linspace(left, right, p.shape[1]), np.linspace(bottom, top, p.shape[0])
    height = 0.6 + 3.6 * min(max((top - bottom) / (right - left), 0.4), 1.6)
    figure, ax = new_axes(ax, width=4.6, height=height)
    image = ax.pcolormesh(grid1, grid2, p, cmap=density_map(), vmin=0.0, shading="nearest", rasterized=True)
    if columns is not None:
        ax.scatter(*_thin(columns).T, s=3.5, color=COLORS[1], alpha=0.55, linewidths=0, label="data")
    for mass, style in ((0.9, "dotted"), (0.5, "solid")):
        level = _mass_level(p, mass)
        if level < np.nanmax(p):
            ax.contour(grid1, grid2, p, levels=[level], colors=INK, linewidths=0.9, linestyles=style)
            ax.plot([], [], color=INK, lw=0.9, ls=style, label=f"{100 * mass:.0f} % of mass")
    if ax.get_legend_handles_labels()[0]:
        legend(ax, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.2, markerscale=2)
    colorbar(ax, image, "p(x)")
    ax.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(left, right), ylim=(bottom, top), aspect="equal")
    return figure


def pair_plot(samples: Mapping[str, Array], features: Sequence[str] | None = None) -> Figure:
    """Draw each feature's histogram and each pair's scatter, for several sets of samples in several colours.

    Marginals and pairs are all that is compared: sets that agree here may still differ in higher order
        (`c2st`
    tests that).

    Args:
        samples: name -> samples, with shape `[n, D]`, the same D for all; about 2000 dots of each are
            drawn, evenly spaced.
        features: names of the D features; default x_1, ..., x_D. Ten features already make 55 panels.

    Returns:
        The figure; a triangle of D (D + 1) / 2 axes.

    Raises:
        ValueError: no samples, different D, or a wrong number of names.
    """
    sets = {name: _columns(values, name) for name, values in samples.items()}
    sizes = {name: values.shape[1] for name, values in sets.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"samples: expected sets with the same number of features, got {sizes}.")
    count = next(iter(sizes.values()))
    features = [f"$x_{{{i + 1}}}$" for i in range(count)] if features is None else list(features)
    if len(features) != count:
        raise ValueError(f"features: expected {count} names, got {len(features)}.")
    side = max(3.2, 1.5 * count)
    figure = new_figure(side, side)
    axes = figure.subplots(count, count, squeeze=False, sharex="col")
    limits = _limits(np.concatenate(list(sets.values())), None, "samples", count)
    for row, column in product(range(count), repeat=2):
        ax = axes[row, column]
        if column > row:
            ax.remove()
            continue
        quiet(ax)
        ax.locator_params(nbins=3)
        ax.set_xlim(*limits[column])
        if row == column:
            _draw_histogram(ax, sets, row, limits[row])
        else:
            _draw_dots(ax, sets, row, column)
            ax.set_ylim(*limits[row])
        ax.set_xlabel(features[column] if row == count - 1 else "")
        ax.set_ylabel(features[row] if column == 0 and row > 0 else "")
        ax.tick_params(labelbottom=row == count - 1, labelleft=column == 0 and row > 0)
    names = legend(axes[0, 0], loc="lower left", bbox_to_anchor=(1.02, 0.0) if count > 1 else (0.0, 1.0))
    names.set_in_layout(count == 1)
    figure.align_ylabels(list(axes[1:, 0]))
    return figure


def _draw_histogram(ax: Axes, sets: Mapping[str, np.ndarray], feature: int, limits: tuple[float, float]) -> None:
    """Panel on the diagonal: a normalised histogram of one feature for each set, in common bins."""
    for (name, values), color in zip(sets.items(), cycle(COLORS), strict=False):
        look = {"bins": np.linspace(*limits, 31), "density": True, "histtype": "stepfilled"}
        ax.hist(values[:, feature], color=color, alpha=0.18, **look)
        ax.hist(values[:, feature], fill=False, lw=1.2, edgecolor=color, label=name, **look)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def _draw_dots(ax: Axes, sets: Mapping[str, np.ndarray], row: int, column: int) -> None:
    """Panel below the diagonal: dots of all sets, taking turns, so that none hides another."""
    thinned = [_thin(values) for values in sets.values()]
    turn = np.argsort(np.concatenate([np.linspace(0, 1, len(dots)) for dots in thinned]), kind="stable")
    owner = np.repeat(np.arange(len(thinned)), [len(dots) for dots in thinned])[turn]
    dots = np.concatenate(thinned)[turn]
    colors = np.array(COLORS)[owner % len(COLORS)]
    ax.scatter(dots[:, column], dots[:, row], s=3, c=colors, alpha=0.45, linewidths=0, rasterized=True)


def _columns(values: Array, name: str, count: int | None = None) -> np.ndarray:
    """Finite or not, as `[n, count]` floats; `[n]` is taken as one feature."""
    array = to_numpy(values, name).astype(float)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) == 0 or (count is not None and array.shape[1] != count):
        raise ValueError(f"{name}: expected shape (n, {count or 'D'}) with n >= 1, got {array.shape}.")
    return array


def _limits(
    columns: np.ndarray | None, bounds: Sequence | None, name: str, count: int = 1
) -> list[tuple[float, float]]:
    """(low, high) of `count` axes, from bounds or else from the finite data and 10 % on either side."""
    if bounds is not None:
        pairs = np.broadcast_to(np.asarray(bounds, dtype=float), (count, 2))
        if not (pairs[:, 0] < pairs[:, 1]).all():
            raise ValueError(f"{name}: expected low < high, got {bounds}.")
        return [(low, high) for low, high in pairs.tolist()]
    if columns is None:
        raise ValueError(f"{name}: expected it, or data to take it from, got neither; pass one.")
    finite = np.where(np.isfinite(columns), columns, np.nan)
    low, high = np.nanmin(finite, axis=0), np.nanmax(finite, axis=0)
    margin = np.where(high > low, 0.1 * (high - low), 0.5)
    return list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _evaluate(log_prob: Callable[[torch.Tensor], Array], points: np.ndarray) -> np.ndarray:
    """Values `[m]` in nats at points `[m, D]`, given to log_prob on the CPU in torch's default dtype."""
    at = torch.from_numpy(points).to(torch.get_default_dtype())
    try:  # of a distribution's method the support is known, and outside of it the density is 0
        inside = log_prob.__self__.support.check(at).reshape(-1).numpy()
    except (AttributeError, NotImplementedError):
        inside = np.ones(len(points), dtype=bool)
    with torch.no_grad():
        values = to_numpy(log_prob(at[inside]), "log_prob")
    if values.size != inside.sum():
        raise ValueError(f"log_prob: expected one value for each of {inside.sum()} points, got shape {values.shape}.")
    result = np.full(len(points), -np.inf)
    result[inside] = values.reshape(-1)
    return result


def _mass_level(p: np.ndarray, mass: float) -> float:
    """Height above which lies the given fraction of the mass on the grid."""
    heights = np.sort(p[np.isfinite(p)])[::-1]
    below = np.cumsum(heights)
    return float(heights[np.searchsorted(below, mass * below[-1])])


def _thin(values: np.ndarray) -> np.ndarray:
    return values[:: -(-len(values) // _MAX_DOTS)]
