r"""Walks through latent space: between two data, and along one unit.

.. math::
    z(t) = \frac{\sin((1 - t) \Omega)}{\sin \Omega} z_0 + \frac{\sin(t\, \Omega)}{\sin \Omega} z_1, \qquad
    \cos \Omega = \frac{z_0 \cdot z_1}{|z_0|\, |z_1|}

The great circle keeps the distance from the origin, where a standard normal prior of many dimensions has hardly any
mass; the straight line cuts through. (White, Sampling generative networks, 2016, arXiv:1609.04468.) The arrays are for
:func:`pyro_dgm.plots.interpolation` and :func:`pyro_dgm.plots.latent_traversal`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..evaluation.likelihood import evaluating

Line = Literal["spherical", "linear"]


@torch.no_grad()
def interpolate(
    model: Any, x_from: Tensor, x_to: Tensor, context: Tensor | None = None, steps: int = 8, line: Line = "spherical"
) -> Tensor:
    """Decodes the latents between those of two data.

    Args:
        model: A model with ``encode`` and ``decode``, in evaluation mode meanwhile.
        x_from: First data, with shape ``(n,) + event_shape``.
        x_to: Last data, with the same shape.
        context: Contexts of both, with shape (n, context).
        steps: Number of latents, ends included.
        line: ``"spherical"`` or ``"linear"``.

    Returns:
        Means of p(x | z), with shape ``(n, steps) + event_shape``; the first and last are reconstructions.

    Raises:
        ValueError: If shapes, number of steps or line do not fit.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal, StandardNormal
        >>> vae = VAE(StandardNormal(2), DiagonalNormal(5, context=2), DiagonalNormal(2, context=5))
        >>> interpolate(vae, torch.zeros(3, 5), torch.ones(3, 5)).shape
        torch.Size([3, 8, 5])
    """
    if x_from.shape != x_to.shape:
        raise ValueError(f"x_to: expected the shape of x_from, {tuple(x_from.shape)}, got {tuple(x_to.shape)}")
    if steps < 2:
        raise ValueError(f"steps: expected at least 2, got {steps}")
    if line not in ("spherical", "linear"):
        raise ValueError(f"line: expected 'spherical' or 'linear', got {line!r}")
    with evaluating(model):
        start, end = model.encode(x_from, context), model.encode(x_to, context)
        t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
        z = between(start, end, t, spherical=line == "spherical")
        return model.decode(z, None if context is None else context.unsqueeze(-2)).mean


def between(start: Tensor, end: Tensor, t: Tensor, spherical: bool = True) -> Tensor:
    """Returns the latents at places t, shape (steps,), of a line or a great circle, shape ``(n, steps) + latent``."""
    a, b = start.flatten(1)[:, None], end.flatten(1)[:, None]
    t = t[:, None]
    z = (1 - t) * a + t * b
    if spherical:
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).unsqueeze(-1).clamp(-1, 1)
        angle = cosine.acos()
        sine = angle.sin()
        safe = torch.where(sine > 1e-4, sine, 1.0)
        circle = ((1 - t) * angle).sin() / safe * a + (t * angle).sin() / safe * b
        z = torch.where(sine > 1e-4, circle, z)  # of parallel or opposite latents the circle is a line, or any
    return z.reshape(len(start), len(t), *start.shape[1:])


@torch.no_grad()
def traverse(
    model: Any,
    x: Tensor,
    values: Tensor,
    context: Tensor | None = None,
    units: Sequence[int] | None = None,
) -> Tensor:
    """Decodes the latent of a datum with one unit at a time set to other values.

    Args:
        model: A model with ``encode`` and ``decode``, in evaluation mode meanwhile.
        x: One datum, with shape ``event_shape``.
        values: Values for the units, with shape (steps,): -2 to 2, say, in units of a standard normal prior.
        context: Its context, with shape (context,).
        units: Units to move, places in the flattened latent; all when ``None``. To see the costliest first, sort them
            by the ``kl`` of :func:`pyro_dgm.evaluation.latent_units`.

    Returns:
        Means of p(x | z), with shape ``(units, steps) + event_shape``.

    Raises:
        ValueError: If values are no vector, or there is no such unit.
    """
    if values.dim() != 1:
        raise ValueError(f"values: expected shape (steps,), got {tuple(values.shape)}")
    with evaluating(model):
        start = model.encode(x, context)
        size = start.numel()
        places = list(range(size)) if units is None else [int(u) for u in units]
        if not places or not all(0 <= u < size for u in places):
            raise ValueError(f"units: expected places from 0 to {size - 1}, got {places}")
        z = start.flatten().expand(len(places), len(values), size).clone()
        for row, unit in enumerate(places):
            z[row, :, unit] = values.to(z)
        return model.decode(z.reshape(len(places), len(values), *start.shape), context).mean
