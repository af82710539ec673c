r"""Flows of angles: the torus, bent by splines of the circle.

.. math::
    z \sim U\bigl([-\pi, \pi)^D\bigr), \qquad x = (T_n \circ \dots \circ T_1)(z; c), \qquad
    p(x | c) = (2 \pi)^{-D} \Bigl|\det \frac{\partial z}{\partial x}\Bigr|

A flow from the reals has to tear the circle somewhere, and its density is wrong there: zero, infinite, or another on
either side. Here base, layers and conditioners know of no cut: the base is uniform, a layer maps the circle onto
itself once around, and what an angle decides is a function of its cosine and sine.
"""

import math
from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ....nn import ShiftedReLU
from ....transforms import CircularSpline, Harmonics, Wrap
from ...base import TractableModel
from .base import FlowModel
from .layers import spline_layers


class UniformTorus(TractableModel):
    """D independent angles, all alike: the base of flows on the torus.

    Args:
        features: Number of angles D.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, 0, Wrap.codomain)
        self.register_buffer("centre", torch.zeros(features))

    def _distribution(self, context: Tensor | None) -> dist.TorchDistribution:
        return dist.Uniform(self.centre - math.pi, self.centre + math.pi, validate_args=False).to_event(1)


class NCSF(FlowModel):
    r"""Neural circular spline flow of D angles within :math:`[-\pi, \pi)`, by couplings or autoregressive.

    .. math::
        z_B = g\bigl(x_B; \theta_k(\cos x_A, \sin x_A, c)\bigr) \qquad\text{or}\qquad
        z_i = g\bigl(x_i; \theta_k(\cos x_{<i}, \sin x_{<i}, c)\bigr)

    with :math:`g` a rotation and a rational-quadratic spline of the circle. For torsions, directions, phases and times
    of day: several modes on one circle, and angles that wind around each other. The density is continuous all around;
    its slope jumps at the knots of splines. One angle has a spline whose parameters are a function of the context
    alone. Samples lie within :math:`[-\pi, \pi)`; values outside are refused where validation is on, and are taken for
    the angle they are where it is off. (Rezende, Papamakarios, Racaniere, Albergo, Kanwar, Shanahan and Cranmer,
    Normalizing Flows on Tori and Spheres, 2020, arXiv:2002.02428.)

    Args:
        features: Number of angles D, in radians.
        context: Width of the context, 0 for none; an angle in it is best given as cosine and sine.
        autoregressive: Whether layers are autoregressive instead of couplings.
        transforms: Number of layers; 5 couplings or 3 autoregressive layers when ``None``.
        bins: Number of bins K of the splines.
        harmonics: Number of harmonics of an angle that conditioners see, :math:`\cos kx` and :math:`\sin kx`.
        hidden_features: Hidden widths of the conditioners; autoregressive ones each at least D.
        masks: Masks of the couplings, used in turn, true where an angle conditions; alternating when ``None``. See
            :func:`~pyro_dgm.transforms.random_masks`.
        activation: Class of the conditioners' activation.

    Raises:
        ValueError: If a setting is none of those above.

    Example:
        >>> flow = NCSF(2)
        >>> flow().sample((3,)).shape
        torch.Size([3, 2])
        >>> before = torch.tensor([-math.pi, 1.0])  # the same angles but for rounding
        >>> after = torch.tensor([math.pi, 1.0]).nextafter(before)
        >>> torch.allclose(flow().log_prob(before), flow().log_prob(after))
        True
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        autoregressive: bool = False,
        transforms: int | None = None,
        bins: int = 8,
        harmonics: int = 1,
        hidden_features: Sequence[int] = (64, 64),
        masks: Sequence[Sequence[bool]] | None = None,
        activation: type[nn.Module] = ShiftedReLU,
    ) -> None:
        settings = autoregressive or features == 1, transforms, masks, hidden_features, context, activation
        super().__init__(
            features,
            context,
            lambda d: spline_layers(d, CircularSpline(bins), *settings, embed=Harmonics(harmonics)),
            support=Wrap(),
            standardize=False,
            base=UniformTorus(features),
        )
