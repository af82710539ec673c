"""Pictures of pictures: samples, reconstructions and walks through latent space as one mosaic.

An image x has shape `[C, H, W]` with C = 1 (grey) or 3 (red, green, blue), or `[H, W]`; values in
`value_range`, by default [0, 1], or 0 to 255 for 8-bit integers, and what lies outside is clipped. The
scale is the same for all images of a figure, so that a dark sample looks dark.

All images of a figure are one array, tiled with thin transparent gaps and drawn pixel by pixel, without
smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import INK, new_axes, to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .style import Array

    Range = tuple[float, float] | None


def image_grid(
    images: Array, columns: int | None = None, *, value_range: Range = None, ax: Axes | None = None
) -> Figure:
    """Draw images side by side, row after row.

    Args:
        images: shape `[n, C, H, W]` or `[n, H, W]`.
        columns: images in a row; default about a square.
        value_range: values of black and white; default (0, 1), or (0, 255) for 8-bit integers.
        ax: axes to draw into; default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: a shape that is not of images, or columns less than 1.
    """
    pixels = _pixels(images, "images", value_range)
    columns = math.ceil(math.sqrt(len(pixels))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}.")
    return _draw(pixels, min(columns, len(pixels)), ax)


def reconstructions(
    x: Array, x_hat: Array, columns: int | None = None, *, value_range: Range = None, ax: Axes | None = None
) -> Figure:
    """Draw images above what a model made of them, one column for each, in pairs of rows.

    Args:
        x: originals, with shape `[n, C, H, W]` or `[n, H, W]`.
        x_hat: reconstructions, with the same shape.
        columns: images in a row; default all of them, so that there is one pair of rows.
        value_range: values of black and white; default (0, 1), or (0, 255) for 8-bit integers.
        ax: axes to draw into; default a new figure.

    Returns:
        The figure; upper row x, lower row x_hat.

    Raises:
        ValueError: different shapes, or a shape that is not of images, or columns less than 1.
    """
    above, below = _pixels(x, "x", value_range), _pixels(x_hat, "x_hat", value_range)
    if above.shape != below.shape:
        raise ValueError(f"x_hat: expected the shape of x, {above.shape}, got {below.shape}.")
    columns = len(above) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}.")
    columns = min(columns, len(above))
    starts = range(0, len(above), columns)
    missing = np.zeros((-len(above) % columns, *above.shape[1:]))
    rows = [np.concatenate([side, missing])[i : i + columns] for i in starts for side in (above, below)]
    return _draw(np.concatenate(rows), columns, ax, row_labels=["$x$", r"$\hat{x}$"] * len(starts))


def interpolation(
    images: Array,
    x_from: Array | None = None,
    x_to: Array | None = None,
    *,
    value_range: Range = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw what a decoder makes of latents between those of two data, a row for each pair of data.

    Args:
        images: decoded images, with shape `[rows, steps, C, H, W]` or `[rows, steps, H, W]`, as from
            `tasks.interpolate`.
        x_from: the first data of the pairs, with shape `[rows, C, H, W]` or `[rows, H, W]`, drawn on the left.
        x_to: the last data of the pairs, drawn on the right.
        value_range: values of black and white; default (0, 1), or (0, 255) for 8-bit integers.
        ax: axes to draw into; default a new figure.

    Returns:
        The figure; below the columns the place t on the way, from 0 to 1.

    Raises:
        ValueError: a shape that is not of rows of images, or data that do not fit.
    """
    array = _rows(images)
    labels = [f"{t:.2g}" for t in np.linspace(0, 1, array.shape[1])]
    ends = []
    for name, data in (("x_from", x_from), ("x_to", x_to)):
        end = None if data is None else to_numpy(data, name)[:, None]
        if end is not None and end.shape != (len(array), 1, *array.shape[2:]):
            raise ValueError(f"{name}: expected shape {(len(array), *array.shape[2:])}, got {end[:, 0].shape}.")
        ends.append([] if end is None else [end])
    before, after = ends
    labels = ["$x_0$"] * len(before) + labels + ["$x_1$"] * len(after)
    array = np.concatenate([*before, array, *after], axis=1)
    pixels = _pixels(array.reshape(-1, *array.shape[2:]), "images", value_range)
    return _draw(pixels, array.shape[1], ax, column_labels=labels)


def latent_traversal(
    images: Array,
    *,
    row_labels: Sequence[str] | None = None,
    steps: Array | None = None,
    kl: Array | None = None,
    value_range: Range = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw what a decoder makes of latents that move along one coordinate, a row for each coordinate.

    Args:
        images: decoded images, with shape `[rows, steps, C, H, W]` or `[rows, steps, H, W]`.
        row_labels: names of the rows; default z_1, z_2, ...
        steps: the values of the coordinate, with shape `[steps]`, written below the columns.
        kl: what each coordinate costs in nats, with shape `[rows]`; rows are then sorted by it, the costliest on top,
            and it is written beside them.
        value_range: values of black and white; default (0, 1), or (0, 255) for 8-bit integers.
        ax: axes to draw into; default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: a shape that is not of rows of images, or labels that do not fit.
    """
    array = _rows(images)
    rows, columns = array.shape[:2]
    row_labels = [f"$z_{{{i + 1}}}$" for i in range(rows)] if row_labels is None else list(row_labels)
    column_labels = None if steps is None else [f"{value:.3g}" for value in to_numpy(steps, "steps").reshape(-1)]
    costs = None if kl is None else to_numpy(kl, "kl").reshape(-1)
    for name, labels, count in (
        ("row_labels", row_labels, rows),
        ("steps", column_labels, columns),
        ("kl", costs, rows),
    ):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name}: expected {count} of them, got {len(labels)}.")
    if costs is not None:
        order = np.argsort(-costs, kind="stable")
        array, row_labels = array[order], [f"{row_labels[i]}  {costs[i]:.2f} nats" for i in order]
    pixels = _pixels(array.reshape(-1, *array.shape[2:]), "images", value_range)
    return _draw(pixels, columns, ax, row_labels=row_labels, column_labels=column_labels)


def _rows(images: Array) -> np.ndarray:
    """Rows of images, `[rows, steps, C, H, W]` or `[rows, steps, H, W]`."""
    array = to_numpy(images, "images")
    if array.ndim not in (4, 5):
        raise ValueError(f"images: expected (rows, steps, C, H, W) or (rows, steps, H, W), got {array.shape}.")
    return array


def _pixels(images: Array, name: str, value_range: Range) -> np.ndarray:
    """Images as `[n, H, W, 4]`: red, green, blue in [0, 1], and an opacity of one."""
    array = to_numpy(images, name)
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.size == 0:
        raise ValueError(f"{name}: expected (n, C, H, W) with C = 1 or 3, or (n, H, W), got {array.shape}.")
    low, high = value_range or ((0, 255) if array.dtype == np.uint8 else (0, 1))
    scaled = np.clip((array.astype(float) - low) / (high - low), 0.0, 1.0).transpose(0, 2, 3, 1)
    colors = np.broadcast_to(scaled, (*scaled.shape[:3], 3))
    return np.concatenate([colors, np.ones_like(colors[..., :1])], axis=-1)


def _draw(
    pixels: np.ndarray,
    columns: int,
    ax: Axes | None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
) -> Figure:
    """Tile `[n, H, W, 4]` into rows of `columns` images, missing ones transparent, and draw them."""
    n, height, width, _ = pixels.shape
    rows, gap = -(-n // columns), max(1, round(0.06 * max(height, width)))
    mosaic = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        mosaic[top : top + height, left : left + width] = image
    scale = min(0.8, 9.0 / columns) / max(height, width)
    figure, ax = new_axes(ax, mosaic.shape[1] * scale + 0.3, mosaic.shape[0] * scale + 0.3)
    ax.imshow(mosaic, interpolation="nearest")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize=9, labelcolor=INK)
    middle_rows = np.arange(rows) * (height + gap) + (height - 1) / 2
    middle_columns = np.arange(columns) * (width + gap) + (width - 1) / 2
    ax.set_yticks(middle_rows if row_labels is not None else [], row_labels)
    ax.set_xticks(middle_columns if column_labels is not None else [], column_labels)
    return figure
