r"""Learning an energy without samples of it: by its slope where data are real, by ratios where they are binary.

Neither needs log Z, or a chain, since both :math:`\nabla_x \log p` and :math:`p(x) / p(\bar x)` are without it:

.. math::
    J_{\text{score}} = \frac{1}{n} \sum_x \tfrac{1}{2} |\nabla_x F|^2 - \Delta_x F, \qquad
    J_{\text{ratio}} = \frac{1}{n} \sum_x \sum_i \sigma\bigl(F(x) - F(\bar x^{(i)})\bigr)^2

where :math:`\bar x^{(i)}` is x with unit i flipped. Either is least, with enough data, at the true distribution if the
model has it. Their values can be compared between models of the same data, and are no likelihoods. (Hyvärinen,
Estimation of Non-Normalized Statistical Models by Score Matching, 2005; Some extensions of score matching, 2007; Song,
Garg, Shi and Ermon, Sliced Score Matching, 2019, arXiv:1905.07088.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..nn import at_least_float32, without_autocast
from .base import Objective, at_least_one
from .contrastive_divergence import energy_based


class ScoreMatching(Objective):
    """Score matching, for real data without bounds.

    Args:
        probes: Number of random directions along which the Laplacian is estimated, by signs; ``None`` for the exact
            one, which takes a backward pass for each feature.

    Raises:
        ValueError: If the data are not real, or there is no energy.

    Example:
        >>> from pyro_dgm.models import RBM
        >>> from pyro_dgm.models.approximate.boltzmann import Gaussian
        >>> ScoreMatching()(RBM(Gaussian(3), 4))(torch.randn(10, 3)).shape
        torch.Size([])
    """

    def __init__(self, probes: int | None = None) -> None:
        super().__init__()
        self.probes = None if probes is None else at_least_one("probes", probes)

    def loss_of(self, model: Any, guide: Any, x: Tensor, context: Tensor | None = None, **settings: Any) -> Tensor:
        """Returns the mean of half the squared slope less the Laplacian."""
        owner = energy_based(model)
        _expect(owner, constraints.real, "RatioMatching for binary ones")
        event_dim = len(owner.event_shape)
        with owner._with_weights({}), torch.enable_grad(), without_autocast(x):
            x = at_least_float32(x).detach().requires_grad_()
            (slope,) = torch.autograd.grad(owner.energy(x, context).sum(), x, create_graph=True)
            flat = slope.flatten(-event_dim)
            laplacian: Any = 0.0
            for k in range(flat.shape[-1] if self.probes is None else self.probes):
                v = torch.zeros_like(flat) if self.probes is None else 2.0 * torch.randint_like(flat, 2) - 1
                if self.probes is None:
                    v[..., k] = 1
                (curved,) = torch.autograd.grad((flat * v).sum(), x, create_graph=True)
                laplacian = laplacian + (curved.flatten(-event_dim) * v).sum(-1)
            return (0.5 * flat.square().sum(-1) - laplacian / (self.probes or 1)).mean()


class RatioMatching(Objective):
    """Ratio matching, for binary data.

    Args:
        features: Number of features that are flipped at each step, drawn anew and shared by the batch, the sum over
            them scaled up; all of them when ``None``, which takes as many energies for every datum.

    Raises:
        ValueError: If the data are not binary, or there is no energy.

    Example:
        >>> from pyro_dgm.models import RBM
        >>> RatioMatching()(RBM(6, 4))(torch.bernoulli(torch.full((10, 6), 0.5))).shape
        torch.Size([])
    """

    def __init__(self, features: int | None = None) -> None:
        super().__init__()
        self.features = None if features is None else at_least_one("features", features)

    def loss_of(self, model: Any, guide: Any, x: Tensor, context: Tensor | None = None, **settings: Any) -> Tensor:
        """Returns the mean over data of the sum over flipped features."""
        owner = energy_based(model)
        _expect(owner, constraints.boolean, "ScoreMatching for real ones")
        event_dim, size = len(owner.event_shape), owner.event_shape.numel()
        flat = x.flatten(-event_dim)
        chosen = torch.arange(size, device=x.device)
        if self.features is not None:
            chosen = torch.randperm(size, device=x.device)[: self.features]
        flip = (chosen[:, None] == torch.arange(size, device=x.device)).to(x.dtype)
        flip = flip.reshape(len(chosen), *(1,) * (flat.dim() - 1), size)
        others = (flat + flip * (1 - 2 * flat)).unflatten(-1, owner.event_shape)
        with owner._with_weights({}):
            ratio = owner.energy(x, context) - owner.energy(others, context)
        return ratio.sigmoid().square().sum(0).mean() * (size / len(chosen))


def _expect(model: Any, support: constraints.Constraint, instead: str) -> None:
    found = model.support
    while isinstance(found, constraints.independent):
        found = found.base_constraint
    if type(found) is not type(support):
        raise ValueError(f"model: expected one of {support} data, got support {model.support}; there is {instead}")
