r"""Integers by a density: the discrete model whose latent is the dequantised data.

.. math::
    v \sim p(v | c), \quad x = \lfloor L v \rfloor, \qquad
    \log P(x | c) \ge E_{q(u | x, c)} \bigl[\log p\bigl((x + u) / L \,|\, c\bigr) - \log q(u | x, c)\bigr] - D \log L

A density fitted to the integers themselves would grow without bound; this one scores probabilities of integers, and
its bits/dim are those that the field publishes. (Theis, van den Oord and Bethge, A note on the evaluation of
generative models, 2016, arXiv:1511.01844; Ho, Chen, Srinivas, Duan and Abbeel, Flow++, 2019, arXiv:1902.00275.)
"""

import itertools

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from ...distributions import Dequantization, Quantized
from ...distributions.hierarchy import join
from ...transforms.support import elementwise
from ..base import GenerativeModel
from .latent import LatentVariableModel, promise


class Dequantized(LatentVariableModel):
    r"""A model of the integers 0..L-1 by a continuous model of :math:`(x + u) / L`.

    Sampling floors. ``log_prob`` is a lower bound, ``num_particles`` draws of u deep, that rises with them to
    :math:`\log P(x)`. It is divided by :math:`-D \ln 2` for bits/dim, without any ``levels``: what the cells' volume
    contributes is in it. ``fit`` maximises the bound of one draw, fresh at every step.

    Args:
        flow: The model of v, exact, of events of any shape, with most of its mass in [0, 1): a flow with
            ``support=constraints.unit_interval`` or ``Logit(0.05)``. What it has beyond counts to the outer levels.
        levels: Number of levels L: 256 for 8-bit images.
        dequantizer: The model of u in the unit cube, called with [x, c]: x scaled to [-1, 1] and flattened, D numbers,
            then the context. For instance ``RealNVP(D, context=D + context, support=constraints.unit_interval)``;
            uniform when ``None``.
        num_particles: Draws of u per datum in ``log_prob``.

    Raises:
        ValueError: If there are fewer than two levels, or a part does not fit.

    Example:
        >>> from pyro_dgm.models import RealNVP
        >>> p = Dequantized(RealNVP(2, support=constraints.unit_interval), levels=256)()
        >>> p.density, p.sample((3,)).shape, p.log_prob(torch.tensor([[0, 255]])).shape
        ('lower_bound', torch.Size([3, 2]), torch.Size([1]))
    """

    def __init__(
        self, flow: GenerativeModel, levels: int, dequantizer: nn.Module | None = None, num_particles: int = 1
    ) -> None:
        if levels < 2:
            raise ValueError(f"levels: expected at least 2, got {levels}; 8-bit images have 256")
        if flow.support.is_discrete:
            raise ValueError(f"flow: expected a continuous model, got one of {flow.support}, which needs no noise")
        super().__init__(flow.event_shape, flow.context, constraints.integer_interval(0, levels - 1))
        size = self.event_shape.numel()
        if dequantizer is not None:
            noise_shape, support = promise("dequantizer", dequantizer, size + flow.context)
            inner = elementwise(support)
            if noise_shape.numel() != size:
                raise ValueError(f"dequantizer: expected a model of {size} numbers, got event {tuple(noise_shape)}")
            if getattr(inner, "lower_bound", -1) < 0 or getattr(inner, "upper_bound", 2) > 1:
                raise ValueError(f"dequantizer: expected support=constraints.unit_interval, got {support}")
        self.flow, self.levels, self.dequantizer, self.num_particles = flow, levels, dequantizer, num_particles
        self.chunk_size = max(1, 2**18 // size)

    def _prior(self, context: Tensor | None) -> dist.TorchDistribution:
        return self.flow(context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Quantized:
        """Returns the levels of continuous data z, the latent."""
        return Quantized(z, self.levels, len(self.event_shape))

    def infer(self, x: Tensor, context: Tensor | None = None) -> Dequantization:
        """Returns q(v | x, c), the dequantised data."""
        x = x.to(next(t.dtype for t in itertools.chain(self.parameters(), self.buffers()) if t.is_floating_point()))
        if self.dequantizer is None:
            return Dequantization(x, self.levels, len(self.event_shape))
        scaled = (2 * x + 1) / self.levels - 1
        noise = self.dequantizer(join(scaled, len(self.event_shape), context))
        return Dequantization(x, self.levels, len(self.event_shape), noise)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits what the flow fits to data, to dequantised ones."""
        self.flow.initialize(self.infer(x, context).sample(), context)
