"""The latent space of a model: where it puts the data.

Latents z of n data, with shape `[n, D]`, are drawn as dots in the plane: themselves if D = 2, else
projected on their first two principal components (PCA),

    z ~ mean + V s,    V the two directions of largest variance,

and the axes say what share of the variance each direction carries. Equal scales on both axes, so that
distances are true; distances in a projection are at most those in the full space. Or, as `method="tsne"`,
laid out such that neighbours stay neighbours (van der Maaten and Hinton, Visualizing data using t-SNE,
2008): then which points are close means something, while the axes, the distances between groups and their
sizes mean nothing.

Labels colour the dots: a few classes are also named at their median, so that no legend has to be matched by
colour; many or fractional labels become a continuous scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .style import COLORS, INK, colorbar, new_axes, to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .style import Array


def latent_space(
    z: Array,
    labels: Array | None = None,
    *,
    method: Literal["pca", "tsne"] = "pca",
    perplexity: float = 30.0,
    ax: Axes | None = None,
) -> Figure:
    """Draw latents in the plane, coloured by label.

    Args:
        z: latents, with shape `[n, D]`, D >= 2, for instance `model.encode(x)`.
        labels: shape `[n]`; up to ten different integers are classes, anything else a continuous scale.
        method: how more than two dimensions become two: "pca", or "tsne", which takes seconds per thousand points.
        perplexity: number of neighbours of t-SNE, less than n.
        ax: axes to draw into; default a new figure.

    Returns:
        The figure.

    Raises:
        ImportError: t-SNE is asked for, and scikit-learn is not installed.
        ValueError: an unknown method, z is not `[n, D]` with D >= 2, or the labels do not fit.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"method: expected 'pca' or 'tsne', got {method!r}.")
    points = to_numpy(z, "z").astype(float)
    if points.ndim != 2 or points.shape[1] < 2 or len(points) < 2:
        raise ValueError(f"z: expected shape (n, D) with n, D >= 2, got {points.shape}; use density_1d if D = 1.")
    groups = None if labels is None else to_numpy(labels, "labels")
    if groups is not None and groups.shape != points.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(points)},), got {groups.shape}.")
    names = ("$z_1$", "$z_2$")
    if points.shape[1] > 2:
        points, names = _project(points) if method == "pca" else _neighbours(points, perplexity)
    figure, ax = new_axes(ax, width=4.4, height=4.0)
    look = {"s": 7, "alpha": 0.65, "linewidths": 0, "rasterized": True}
    classes = [] if groups is None else np.unique(groups)
    if groups is None:
        ax.scatter(*points.T, color=COLORS[0], **look)
    elif len(classes) <= len(COLORS) and np.equal(classes, np.round(classes)).all():
        for value, color in zip(classes, COLORS, strict=False):
            members = points[groups == value]
            ax.scatter(*members.T, color=color, label=f"{value:g}", **look)
            _name(ax, np.median(members, axis=0), f"{value:g}")
    else:
        dots = ax.scatter(*points.T, c=groups, cmap="viridis", **look)
        colorbar(ax, dots, "label")
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_aspect("equal", adjustable="datalim")
    return figure


def _name(ax: Axes, place: np.ndarray, text: str) -> None:
    """Write a class's name at a place, with a white halo to stay readable on its dots."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3.5, foreground="white")]
    ax.text(*place, text, color=INK, fontsize=11, weight="bold", ha="center", va="center", path_effects=halo)


def _project(points: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Coordinates `[n, 2]` on the first two principal components, each named with its share of variance."""
    centred = points - points.mean(axis=0)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    share = scales**2 / max(np.sum(scales**2), np.finfo(float).tiny)
    names = tuple(f"component {i + 1} of z ({100 * share[i]:.0f} % of variance)" for i in range(2))
    return centred @ directions[:2].T, names


def _neighbours(points: np.ndarray, perplexity: float) -> tuple[np.ndarray, tuple[str, str]]:
    """Coordinates `[n, 2]` by t-SNE, from the first two principal components, so the same every time."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("latent_space: t-SNE needs scikit-learn: pip install scikit-learn") from error
    if not 0 < perplexity < len(points):
        raise ValueError(f"perplexity: expected more than 0 and less than n = {len(points)}, got {perplexity}.")
    layout = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    return layout, ("t-SNE 1 of z (no unit)", "t-SNE 2 of z (no unit)")
