"""Plots show the data they were given: each test looks for them in the axes, not only for a figure."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pyro_dgm.plots import (
    density_1d,
    density_2d,
    image_grid,
    interpolation,
    latent_space,
    latent_traversal,
    learning_curves,
    pair_plot,
    reconstructions,
)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(11)


def normal(points):
    """Log-density of independent standard normals."""
    return -0.5 * points.square().sum(-1) - 0.5 * points.shape[-1] * math.log(2 * math.pi)


def dots(ax):
    """Everything scattered in an axes, in drawing order."""
    return np.concatenate([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])


def drawn(figure):
    figure.draw_without_rendering()
    assert isinstance(figure, Figure)
    return figure.axes


# Curves


def test_learning_curves_from_rows_join_over_gaps():
    rows = [
        {"step": 0, "loss": 3.0},
        {"step": 10, "loss": 2.0, "validation": 2.5, "epoch": 1},
        {"step": 20, "loss": 1.0},
    ]
    rows.append({"step": 30, "validation": 1.5})
    (ax,) = drawn(learning_curves(rows))
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines == {"loss": [[0, 3], [10, 2], [20, 1]], "validation": [[10, 2.5], [30, 1.5]]}
    assert ax.get_xlabel() == "step"
    assert "nats" in ax.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "validation"]


def test_learning_curves_from_columns_without_clock():
    history = {"loss": torch.tensor([2.0, 1.0], requires_grad=True), "lr": [0.1, 0.2]}
    (ax,) = drawn(learning_curves(history, ["loss"], ylabel="loss (bits/dim)"))
    assert ax.lines[0].get_xydata().tolist() == [[0, 2], [1, 1]]
    assert len(ax.lines) == 1 and ax.get_ylabel() == "loss (bits/dim)"


# Densities


def test_density_1d_draws_the_density_and_the_data(rng):
    x = torch.randn(500, generator=rng)
    (ax,) = drawn(density_1d(normal, x))
    grid, p = ax.lines[0].get_data()
    assert np.allclose(p, np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi), atol=1e-6)
    assert grid[0] < x.min() and grid[-1] > x.max()
    bars = np.array([[bar.get_width(), bar.get_height()] for bar in ax.patches])
    assert bars.prod(1).sum() == pytest.approx(1.0), "the histogram has area one, as the curve has"


def test_density_1d_of_values():
    (ax,) = drawn(density_1d(np.log([0.5, 1.0, 0.5]), bounds=(0, 2)))
    assert np.allclose(ax.lines[0].get_xydata(), [[0, 0.5], [1, 1], [2, 0.5]])


def test_density_2d_draws_map_dots_and_contours(rng):
    x = torch.randn(300, 2, generator=rng, requires_grad=True)
    scale = torch.tensor([1.0, 2.0])
    figure = density_2d(lambda x: normal(x / scale) - math.log(2), x, bounds=((-4, 4), (-10, 10)), num_points=101)
    ax, bar = drawn(figure)
    mesh = ax.collections[0]
    p = np.asarray(mesh.get_array()).reshape(101, 101)
    assert p[50, 50] == pytest.approx(1 / (4 * np.pi), rel=1e-5)
    assert p[0, 50] == pytest.approx(math.exp(-12.5) / (4 * math.pi), rel=1e-4), "rows are x_2"
    assert np.allclose(dots(ax), x.detach().numpy())
    assert bar.get_ylabel() == "p(x)"
    # The contours are ellipses, in unit scale circles of squared radius -2 log(1 - mass).
    radii = {}
    for contour in ax.collections:
        vertices = np.concatenate([path.vertices for path in contour.get_paths()])
        if hasattr(contour, "levels"):
            radii[len(radii)] = np.linalg.norm(vertices / scale.numpy(), axis=1).mean()
    assert radii == pytest.approx({0: math.sqrt(-2 * math.log(0.1)), 1: math.sqrt(-2 * math.log(0.5))}, rel=0.03)


def test_density_2d_of_a_grid_with_empty_regions():
    grid = torch.full((4, 6), -math.inf)
    grid[1, 2] = math.log(2.0)
    ax, _ = drawn(density_2d(grid, bounds=(0, 1)))
    p = np.asarray(ax.collections[0].get_array()).reshape(4, 6)
    assert p[1, 2] == pytest.approx(2.0) and p.sum() == pytest.approx(2.0)


def test_pair_plot_shows_each_pair_of_each_set(rng):
    sets = {"data": torch.randn(30, 3, generator=rng), "model": torch.randn(20, 3, generator=rng) + 5}
    figure = pair_plot(sets, ["a", "b (m)", "c"])
    axes = drawn(figure)
    assert len(axes) == 6
    panel = next(ax for ax in axes if (ax.get_xlabel(), ax.get_ylabel()) == ("a", "c"))
    colors = np.array([to_hex(color) for color in panel.collections[0].get_facecolor()])
    for values, color in zip(sets.values(), dict.fromkeys(colors.tolist()), strict=True):
        shown = dots(panel)[colors == color]
        assert np.allclose(np.sort(shown, axis=0), np.sort(values[:, [0, 2]].numpy(), axis=0))
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["data", "model"]


def test_many_dots_are_thinned_evenly(rng):
    x = torch.arange(10_000.0)[:, None].expand(-1, 2)
    panel = drawn(pair_plot({"x": x}))[1]
    assert len(dots(panel)) == 2000 and np.ptp(dots(panel)) > 9990


# Images


def picture(figure):
    (ax,) = drawn(figure)
    return ax, np.asarray(ax.images[0].get_array())


def test_image_grid_tiles_row_by_row(rng):
    images = torch.rand(5, 3, 4, 6, generator=rng)
    _, mosaic = picture(image_grid(images, columns=3))
    gap = 1
    assert mosaic.shape == (2 * 4 + gap, 3 * 6 + 2 * gap, 4)
    fifth = mosaic[5:9, 7:13]
    assert np.allclose(fifth[..., :3], images[4].permute(1, 2, 0).numpy()) and (fifth[..., 3] == 1).all()
    assert (mosaic[5:9, 14:] == 0).all(), "the missing image is transparent"


@pytest.mark.parametrize(
    ("images", "value_range"),
    [
        (torch.tensor([[[0.0, 0.5], [1.0, 2.0]]]), None),
        (torch.tensor([[[-1.0, 0.0], [1.0, 3.0]]]), (-1.0, 1.0)),
        (np.array([[[0, 127.5], [255, 300]]]), (0, 255)),
    ],
)
def test_values_are_scaled_and_clipped(images, value_range):
    _, mosaic = picture(image_grid(images, value_range=value_range))
    assert np.allclose(mosaic[..., 0], [[0.0, 0.5], [1.0, 1.0]])
    assert (mosaic[..., :3] == mosaic[..., :1]).all(), "one channel is grey"


def test_bytes_are_scaled_by_255():
    _, mosaic = picture(image_grid(torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)))
    assert np.allclose(mosaic[..., 0], [[0.0, 0.2], [0.4, 1.0]])


def test_reconstructions_are_below_originals(rng):
    x, x_hat = torch.rand(2, 3, 1, 5, 5, generator=rng)
    ax, mosaic = picture(reconstructions(x, x_hat))
    assert np.allclose(mosaic[:5, 6:11, 0], x[1, 0].numpy())
    assert np.allclose(mosaic[6:, 6:11, 0], x_hat[1, 0].numpy())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["$x$", r"$\hat{x}$"]
    assert [float(tick) for tick in ax.get_yticks()] == [2.0, 8.0], "each label at the middle of its row"


def test_reconstructions_in_pairs_of_rows(rng):
    x, x_hat = torch.rand(2, 5, 4, 4, generator=rng)
    ax, mosaic = picture(reconstructions(x, x_hat, columns=3))
    assert np.allclose(mosaic[10:14, 5:9, 0], x[4].numpy()) and np.allclose(mosaic[15:, 5:9, 0], x_hat[4].numpy())
    assert (mosaic[10:, 10:] == 0).all(), "missing ones are transparent"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["$x$", r"$\hat{x}$"] * 2


def test_interpolation_stands_between_its_data(rng):
    images, ends = torch.rand(2, 3, 1, 4, 4, generator=rng), torch.rand(2, 2, 1, 4, 4, generator=rng)
    ax, mosaic = picture(interpolation(images, ends[0], ends[1]))
    assert np.allclose(mosaic[5:, :4, 0], ends[0, 1, 0].numpy()) and np.allclose(
        mosaic[5:, 20:, 0], ends[1, 1, 0].numpy()
    )
    assert np.allclose(mosaic[5:, 15:19, 0], images[1, 2, 0].numpy())
    assert [label.get_text() for label in ax.get_xticklabels()] == ["$x_0$", "0", "0.5", "1", "$x_1$"]
    _, mosaic = picture(interpolation(images))
    assert mosaic.shape == (9, 14, 4)


def test_latent_traversal_is_sorted_by_cost(rng):
    images = torch.rand(3, 2, 4, 4, generator=rng)
    ax, mosaic = picture(latent_traversal(images, kl=torch.tensor([0.1, 2.0, 0.5])))
    for row, unit in enumerate([1, 2, 0]):
        assert np.allclose(mosaic[5 * row : 5 * row + 4, :4, 0], images[unit, 0].numpy())
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["$z_{2}$  2.00 nats", "$z_{3}$  0.50 nats", "$z_{1}$  0.10 nats"]


def test_latent_traversal_rows_and_steps(rng):
    images = torch.rand(2, 3, 4, 4, generator=rng)
    ax, mosaic = picture(latent_traversal(images, row_labels=["tilt", "size"], steps=[-1, 0, 1]))
    assert np.allclose(mosaic[5:, 10:, 0], images[1, 2].numpy())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["tilt", "size"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["-1", "0", "1"]


# Latents


def test_latent_space_names_its_classes(rng):
    z = torch.randn(40, 2, generator=rng)
    labels = torch.arange(40) % 3
    (ax,) = drawn(latent_space(z, labels))
    for k, group in enumerate(ax.collections):
        assert np.allclose(group.get_offsets(), z[labels == k].numpy())
        assert ax.texts[k].get_text() == str(k)
        assert np.allclose(ax.texts[k].get_position(), np.median(z[labels == k].numpy(), axis=0))
    assert len({to_hex(group.get_facecolor()[0]) for group in ax.collections}) == 3


def test_latent_space_projects_on_the_widest_plane(rng):
    # Variance lies in a plane of 5 dimensions; distances in it survive the projection.
    flat = torch.randn(50, 2, generator=rng) * torch.tensor([3.0, 1.0])
    z = flat @ torch.linalg.qr(torch.randn(5, 2, generator=rng)).Q.T + 7.0
    (ax,) = drawn(latent_space(z))
    shown = torch.tensor(dots(ax)).to(flat)
    assert torch.allclose(torch.pdist(shown), torch.pdist(flat), atol=1e-4)
    share = [float(label.split("(")[1].split(" %")[0]) for label in (ax.get_xlabel(), ax.get_ylabel())]
    assert sum(share) == pytest.approx(100, abs=1) and share[0] > share[1]


def test_latent_space_by_neighbours(rng):
    """Two far groups of five dimensions stay apart, the same at every call."""
    z = torch.cat([torch.randn(25, 5, generator=rng), torch.randn(25, 5, generator=rng) + 50])
    layouts = [dots(drawn(latent_space(z, method="tsne", perplexity=8))[0]) for _ in range(2)]
    assert np.array_equal(*layouts)
    groups = layouts[0][:25], layouts[0][25:]
    apart = np.linalg.norm(groups[0].mean(0) - groups[1].mean(0))
    assert apart > 2 * max(np.linalg.norm(g - g.mean(0), axis=1).max() for g in groups)


def test_latent_space_of_a_continuous_label(rng):
    z = torch.randn(30, 2, generator=rng)
    ax, _ = drawn(latent_space(z, z[:, 0]))
    assert np.allclose(ax.collections[0].get_array(), z[:, 0].numpy())


# All


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: learning_curves([{"loss": 1.0}, {"loss": 2.0}], ax=ax),
        lambda ax: density_1d(normal, bounds=(-1, 1), ax=ax),
        lambda ax: density_2d(normal, bounds=(-1, 1), num_points=5, ax=ax),
        lambda ax: image_grid(torch.rand(2, 3, 3), ax=ax),
        lambda ax: reconstructions(torch.rand(2, 3, 3), torch.rand(2, 3, 3), ax=ax),
        lambda ax: interpolation(torch.rand(2, 2, 3, 3), ax=ax),
        lambda ax: latent_traversal(torch.rand(2, 2, 3, 3), ax=ax),
        lambda ax: latent_space(torch.rand(9, 2), ax=ax),
    ],
)
def test_draws_into_axes_given(draw):
    figure = Figure()
    ax = figure.add_subplot(1, 2, 2)
    assert draw(ax) is figure
    assert ax.has_data()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: learning_curves([{"step": 1}]), "keys"),
        (lambda: learning_curves([{"loss": 1}], ["los"]), r"\['los'\]"),
        (lambda: learning_curves({"a": [1, 2], "b": [1]}), "equal length"),
        (lambda: density_1d(normal), "bounds"),
        (lambda: density_1d(lambda x: x[:3, 0], bounds=(0, 1)), "one value for each"),
        (lambda: density_1d(normal, bounds=(1, 0)), "low < high"),
        (lambda: density_2d(normal, torch.zeros(4, 3)), r"data: expected shape \(n, 2\)"),
        (lambda: density_2d(torch.zeros(4), bounds=(0, 1)), "log_prob"),
        (lambda: pair_plot({}), "samples"),
        (lambda: pair_plot({"a": torch.zeros(2, 1), "b": torch.zeros(2, 2)}), "same number"),
        (lambda: pair_plot({"a": torch.zeros(2, 2)}, ["only one"]), "features"),
        (lambda: pair_plot({"a": ["text"]}), "real numbers"),
        (lambda: image_grid(torch.zeros(2, 2, 4, 4)), "C = 1 or 3"),
        (lambda: image_grid(torch.zeros(2, 4, 4), columns=0), "columns"),
        (lambda: reconstructions(torch.zeros(2, 4, 4), torch.zeros(3, 4, 4)), "x_hat"),
        (lambda: latent_traversal(torch.zeros(2, 4, 4)), "steps"),
        (lambda: latent_traversal(torch.zeros(2, 3, 4, 4), steps=[1, 2]), "steps: expected 3"),
        (lambda: latent_traversal(torch.zeros(2, 3, 4, 4), kl=[1]), "kl: expected 2"),
        (lambda: reconstructions(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), columns=0), "columns"),
        (lambda: interpolation(torch.zeros(2, 4, 4)), "steps"),
        (lambda: interpolation(torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4)), "x_from: expected"),
        (lambda: latent_space(torch.zeros(5)), "density_1d"),
        (lambda: latent_space(torch.rand(9, 3), method="umap"), "method"),
        (lambda: latent_space(torch.rand(9, 3), method="tsne"), "perplexity"),
        (lambda: latent_space(torch.zeros(5, 2), torch.zeros(4)), "labels"),
    ],
)
def test_errors_say_what_was_expected(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_import_is_lazy_and_figures_are_unknown_to_pyplot():
    code = (
        "import sys, torch, pyro_dgm.plots as plots; assert 'matplotlib' not in sys.modules\n"
        "figure = plots.latent_space(torch.eye(3)); figure.savefig(sys.stdout.buffer, format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.startswith(b"\x89PNG")
