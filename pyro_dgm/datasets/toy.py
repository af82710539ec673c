r"""Two-dimensional toy densities with a known truth.

A toy density teaches something only if its log-density is known exactly: then the Kullback-Leibler divergence

.. math:: \mathrm{KL}(p \,\|\, q) = \mathbb{E}_{x \sim p} [\log p(x) - \log q(x)]

of a model :math:`q` from the truth :math:`p` is an average over samples, and "looks good" becomes a number of
nats. Every function here returns a Pyro distribution with ``event_shape == (2,)``, ``batch_shape == ()`` and
the whole plane as support: ``sample((n,))`` draws from torch's global generator and ``log_prob(x)`` is
normalised in closed form. Each is a simple law (a mixture of Gaussians, independent polar coordinates,
uniform squares) pushed through one bijection of known Jacobian, see :mod:`pyro_dgm.datasets._planar`.

========================  ==================================================================
what it tries             densities
========================  ==================================================================
separate modes            :func:`eight_gaussians`, :func:`grid_gaussians`, :func:`pinwheel`
curved, connected mass    :func:`two_moons`, :func:`rings`, :func:`two_spirals`
sharp edges               :func:`checkerboard`
scales that vary          :func:`banana`, :func:`funnel`
========================  ==================================================================

All lengths are in the units of the plane and angles in radians; ``device`` is where the samples are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import AffineTransform, Transform

from ._planar import Bend, Board, Polar, Swirl, equal_mixture

__all__ = [
    "ALL",
    "banana",
    "checkerboard",
    "eight_gaussians",
    "funnel",
    "grid_gaussians",
    "pinwheel",
    "rings",
    "two_moons",
    "two_spirals",
]

Device = torch.device | str | None


def eight_gaussians(
    radius: float = 2.0, scale: float = 0.2, *, modes: int = 8, device: Device = None
) -> dist.TransformedDistribution:
    r"""A ring of equal Gaussians: does a model find all modes?

    .. math:: p(x) = \tfrac{1}{K} \sum_k
        N(x; \rho (\cos \tfrac{2 \pi k}{K}, \sin \tfrac{2 \pi k}{K}), \sigma^2 I)

    References:
        Unrolled Generative Adversarial Networks (Metz, Poole, Pfau and Sohl-Dickstein, 2017),
        https://arxiv.org/abs/1611.02163

    Args:
        radius: The radius :math:`\rho` of the ring.
        scale: The deviation :math:`\sigma` of each mode.
        modes: The number :math:`K` of modes.
        device: Where samples are drawn.

    Example:
        >>> p = eight_gaussians()
        >>> x = p.sample((100,))
        >>> x.shape, p.log_prob(x).shape
        (torch.Size([100, 2]), torch.Size([100]))
    """
    theta = torch.arange(modes, device=device) * (2 * math.pi / modes)
    centres = torch.stack((theta.cos(), theta.sin()), -1)
    return _mixture(dist.Normal(centres, scale / radius).to_event(1), _affine(radius), device)


def grid_gaussians(
    side: int = 5, spacing: float = 2.0, scale: float = 0.1, *, device: Device = None
) -> dist.TransformedDistribution:
    r"""A square grid of equal, well separated Gaussians, 25 unless told: how many modes are lost?

    .. math:: p(x) = \tfrac{1}{K^2} \sum_{i,j} N(x; \delta (i, j), \sigma^2 I),
        \quad i, j = -\tfrac{K-1}{2}, \dots, \tfrac{K-1}{2}

    References:
        VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning (Srivastava, Valkov,
        Russell, Gutmann and Sutton, 2017), https://arxiv.org/abs/1705.07761

    Args:
        side: The number :math:`K` of modes along each axis.
        spacing: The distance :math:`\delta` of neighbours.
        scale: The deviation :math:`\sigma` of each mode.
        device: Where samples are drawn.

    Example:
        >>> grid_gaussians().sample((100,)).shape
        torch.Size([100, 2])
    """
    ticks = torch.arange(side, device=device) - (side - 1) / 2
    return _mixture(
        dist.Normal(torch.cartesian_prod(ticks, ticks), scale / spacing).to_event(1), _affine(spacing), device
    )


def pinwheel(
    arms: int = 5,
    rate: float = 0.8,
    *,
    radial: float = 0.5,
    tangential: float = 0.15,
    device: Device = None,
) -> dist.TransformedDistribution:
    r"""Long Gaussians set around a circle of radius 2, swirled into the sails of a pinwheel.

    .. math:: x = \mathrm{swirl}_\omega(u), \quad p(u) = \tfrac{1}{K} \sum_k
        N(u; 2 e_k, \sigma_r^2 e_k e_k^T + \sigma_t^2 (I - e_k e_k^T))

    with :math:`e_k` the direction of arm k. The swirl :math:`(r, \theta) \mapsto (r, \theta + \omega r)`
    preserves area, so the density is exact.

    References:
        Composing graphical models with neural networks for structured representations and fast inference
        (Johnson, Duvenaud, Wiltschko, Datta and Adams, 2016), https://arxiv.org/abs/1603.06277

    Args:
        arms: The number :math:`K` of arms.
        rate: The swirl :math:`\omega` in radians per unit of length.
        radial: The deviation :math:`\sigma_r` along an arm.
        tangential: The deviation :math:`\sigma_t` across it.
        device: Where samples are drawn.

    Example:
        >>> pinwheel().sample((100,)).shape
        torch.Size([100, 2])
    """
    theta = torch.arange(arms, device=device) * (2 * math.pi / arms)
    along = torch.stack((theta.cos(), theta.sin()), -1)
    across = torch.stack((-theta.sin(), theta.cos()), -1)
    axes = torch.stack((radial * along, tangential * across), -1)
    return _mixture(dist.MultivariateNormal(2 * along, axes @ axes.mT), Swirl(rate), device)


def two_moons(noise: float = 0.1, *, scale: float = 1.5, device: Device = None) -> dist.TransformedDistribution:
    r"""Two interleaved half circles with a density in closed form.

    .. math:: x = s \, (m_k + r (\cos \theta, \sin \theta)), \quad
        p_k(r, \theta) = \mathrm{LogNormal}(r; 0, \sigma) \cdot
        \tfrac16 \sum_j \mathrm{VonMises}(\theta; k \pi + \tfrac{2 j + 1}{12} \pi, 16)

    for the moons :math:`k = 0, 1` with centres :math:`m_k = \mp (\tfrac12, \tfrac14)`. The usual two moons
    add noise to a curve and have no elementary density; here the noise is in the radius, the angle is even
    over the half circle, and the tips fade out instead of ending: a smooth and positive density.

    References:
        ``make_moons`` in Scikit-learn: Machine Learning in Python (Pedregosa et al., 2011),
        https://arxiv.org/abs/1201.0490

    Args:
        noise: The deviation :math:`\sigma` of the log-radius.
        scale: The radius :math:`s` of a moon.
        device: Where samples are drawn.

    Example:
        >>> two_moons().sample((100,)).shape
        torch.Size([100, 2])
    """
    moon = torch.arange(2, device=device).unsqueeze(-1)
    theta = math.pi * (moon + (2 * torch.arange(6, device=device) + 1) / 12)
    radius = dist.LogNormal(torch.zeros_like(theta[:, 0]), noise)
    arcs = Polar(radius, equal_mixture(dist.VonMises(theta, 16.0), device))
    centres = (2 * moon - 1) * _floats([0.5, 0.25], device)
    return _mixture(dist.TransformedDistribution(arcs, [_affine(1.0, centres)]), _affine(scale), device)


def rings(
    radii: Sequence[float] = (1.0, 2.0, 3.0), noise: float = 0.08, *, device: Device = None
) -> dist.TransformedDistribution:
    r"""Concentric rings of equal mass: holes that a bijection of the plane cannot make.

    .. math:: p(x) = \frac{1}{2 \pi |x|} \cdot \tfrac{1}{K} \sum_k
        \mathrm{LogNormal}(|x|; \log \rho_k, \sigma / \rho_k)

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl, Chen,
        Bettencourt, Sutskever and Duvenaud, 2019), https://arxiv.org/abs/1810.01367

    Args:
        radii: The radii :math:`\rho_k`.
        noise: The deviation :math:`\sigma` of the radius, to first order.
        device: Where samples are drawn.

    Example:
        >>> rings().sample((100,)).shape
        torch.Size([100, 2])
    """
    radius = _floats(radii, device)
    direction = dist.VonMises(torch.zeros_like(radius), 1e-6)  # uniform to 1e-6, and without a seam at pi
    return _mixture(Polar(dist.LogNormal(radius.log(), noise / radius), direction), _affine(1.0), device)


def two_spirals(
    rate: float = 2.0, concentration: float = 12.0, *, device: Device = None
) -> dist.TransformedDistribution:
    r"""Two interleaved spiral arms that start at the origin.

    .. math:: x = \mathrm{swirl}_\omega(u), \quad
        p(u) = \frac{\mathrm{Weibull}(|u|; 2, 3)}{|u|} \cdot \tfrac12 \sum_{k=0}^{1}
        \mathrm{VonMises}(\angle u; k \pi, \kappa)

    The swirl :math:`(r, \theta) \mapsto (r, \theta + \omega r)` preserves area, so the density is exact.

    References:
        Learning to tell two spirals apart (Lang and Witbrock, 1988), Proceedings of the Connectionist Models
        Summer School.

    Args:
        rate: The winding :math:`\omega` in radians per unit of length.
        concentration: The sharpness :math:`\kappa` of the arms.
        device: Where samples are drawn.

    Example:
        >>> two_spirals().sample((100,)).shape
        torch.Size([100, 2])
    """
    arms = _floats([0.0, math.pi], device)
    radius = dist.Weibull(torch.full_like(arms, 2.0), torch.full_like(arms, 3.0))
    return _mixture(Polar(radius, dist.VonMises(arms, concentration)), Swirl(rate), device)


def checkerboard(cells: int = 4, width: float = 2.0, *, device: Device = None) -> dist.TransformedDistribution:
    r"""The uniform law on the black squares of a board around the origin: edges no smooth model has.

    .. math:: p(x) = \frac{2}{n^2 w^2} \text{ on a black square, else } 0

    Off the black squares ``log_prob`` is minus infinity, not an error, so a model's samples may be scored.
    The entropy is :math:`\log (n^2 w^2 / 2)`: the best any model can do, 3.466 nats unless told otherwise.

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl, Chen,
        Bettencourt, Sutskever and Duvenaud, 2019), https://arxiv.org/abs/1810.01367

    Args:
        cells: The even number :math:`n` of squares along each side.
        width: The side :math:`w` of a square.
        device: Where samples are drawn.

    Raises:
        ValueError: If ``cells`` is not a positive even number.

    Example:
        >>> p = checkerboard()
        >>> p.log_prob(p.sample((2,)))
        tensor([-3.4657, -3.4657])
    """
    if cells < 2 or cells % 2:
        raise ValueError(f"checkerboard: cells must be a positive even number, got {cells}")
    squares = [(i, j) for i in range(cells) for j in range(cells) if (i + j) % 2 == 0]
    board = Board(cells, _floats(squares, device))
    return dist.TransformedDistribution(board, [_affine(width, -cells * width / 2)])


def banana(curvature: float = 0.5, scale: float = 0.5, *, device: Device = None) -> dist.TransformedDistribution:
    r"""A Gaussian bent into a banana.

    .. math:: p(x) = N(x_1; 0, 1) \, N(x_2; b x_1^2, \sigma^2)

    References:
        Adaptive proposal distribution for random walk Metropolis algorithm (Haario, Saksman and Tamminen,
        1999), https://doi.org/10.1007/s001800050022

    Args:
        curvature: The bend :math:`b`.
        scale: The deviation :math:`\sigma` across the banana.
        device: Where samples are drawn.

    Example:
        >>> banana().sample((100,)).shape
        torch.Size([100, 2])
    """
    return _bent([1.0, scale], Bend(curvature=curvature), device)


def funnel(scale: float = 3.0, *, device: Device = None) -> dist.TransformedDistribution:
    r"""Neal's funnel: the scale of the second coordinate is the exponential of the first.

    .. math:: p(x) = N(x_1; 0, \sigma^2) \, N(x_2; 0, e^{x_1})

    References:
        Slice sampling (Neal, 2003), The Annals of Statistics 31(3), https://doi.org/10.1214/aos/1056562461

    Args:
        scale: The deviation :math:`\sigma` of the log-variance.
        device: Where samples are drawn.

    Example:
        >>> funnel().sample((100,)).shape
        torch.Size([100, 2])
    """
    return _bent([scale, 1.0], Bend(growth=0.5), device)


ALL: tuple[Callable[..., dist.TransformedDistribution], ...] = (
    eight_gaussians,
    grid_gaussians,
    pinwheel,
    two_moons,
    rings,
    two_spirals,
    checkerboard,
    banana,
    funnel,
)
"""Every toy density; each can be called without arguments."""


def _floats(values: Sequence, device: Device) -> Tensor:
    """A tensor of the default floating type."""
    return torch.tensor(values, dtype=torch.get_default_dtype(), device=device)


def _affine(scale: float, loc: float | Tensor = 0.0) -> Transform:
    """The map u -> loc + scale u of the plane."""
    return AffineTransform(loc, scale, event_dim=1)


def _mixture(components: TorchDistributionMixin, f: Transform, device: Device) -> dist.TransformedDistribution:
    """The equal mixture pushed through f, which also states the support (torch cannot map a mixture's)."""
    return dist.TransformedDistribution(equal_mixture(components, device), [f])


def _bent(scales: Sequence[float], bend: Bend, device: Device) -> dist.TransformedDistribution:
    """A centred diagonal Gaussian, pushed through ``bend``."""
    scale = _floats(scales, device)
    return dist.TransformedDistribution(dist.Normal(torch.zeros_like(scale), scale).to_event(1), [bend])
