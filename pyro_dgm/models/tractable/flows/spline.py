r"""Neural spline flows: layers that bend every feature by a monotone rational-quadratic spline.

A spline of K bins can approximate any monotone function on its interval, so a few layers capture what takes many
affine ones: several modes, skew, edges. Outside the interval a spline is the identity. An affine map before it, which
the paper has not, lets other features say too where on the interval a feature falls and how wide it is spread, and what
lies outside of the interval is scaled and shifted instead of left as it is.

What conditioners give is multiplied by gains (:attr:`~pyro_dgm.transforms.Univariate.gains`): a quarter for affine maps
and bins, a half for slopes. With Adam these then learn that much slower than the layers before them, and a higher
learning rate pays: in as many steps, densities on thin curves are met a third closer.
"""

from collections.abc import Sequence

from torch import nn
from torch.distributions import constraints

from ....nn import ShiftedReLU
from ....transforms import Affine, Chain, Spline
from .base import FlowModel
from .layers import spline_layers


class NSF(FlowModel):
    r"""Neural spline flow, by couplings or autoregressive.

    .. math::
        z_B = g(x_B; \theta_k(x_A, c)) \qquad\text{or}\qquad z_i = g(x_i; \theta_k(x_{<i}, c)), \qquad
        g(x; \theta) = \mathrm{spline}(x e^{s} + b; \cdot)

    in layer k, data to latent, with a rational-quadratic spline. The coupling form bends the features A too,
    each by a spline that looks at no other feature, and scores and samples in one pass. The autoregressive form fits
    tables of data best, scores in one pass and samples in D steps. (Durkan, Bekasov, Murray and Papamakarios, Neural
    Spline Flows, 2019, arXiv:1906.04032.)

    Args:
        features: Number of features D of the data; at least 2 for couplings.
        context: Width of the context, 0 for none.
        autoregressive: Whether layers are autoregressive instead of couplings.
        transforms: Number of layers; 5 couplings or 3 autoregressive layers when ``None``.
        bins: Number of bins K of the splines.
        bound: Half-width B of the interval on which (standardised) features are bent. The narrower it is, the finer are
            the bins, and the more data are left to affine maps alone.
        hidden_features: Hidden widths of the conditioners; autoregressive ones each at least D.
        masks: Masks of the couplings, used in turn, true where a feature conditions; alternating when ``None``. See
            :func:`~pyro_dgm.transforms.random_masks`.
        activation: Class of the conditioners' activation.
        affine: Whether a scale and shift, of the same conditioner, precede every spline. Without them, as in the paper,
            s = b = 0, and the flow is the identity outside of the interval, which has to hold all data.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> import torch
        >>> NSF(2, context=3)(torch.zeros(5, 3)).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        autoregressive: bool = False,
        transforms: int | None = None,
        bins: int = 8,
        bound: float = 3.0,
        hidden_features: Sequence[int] = (64, 64),
        masks: Sequence[Sequence[bool]] | None = None,
        activation: type[nn.Module] = ShiftedReLU,
        affine: bool = True,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        settings = autoregressive, transforms, masks, hidden_features, context, activation
        spline = Spline(bins, bound)
        family = Chain([Affine(gain=0.25), spline]) if affine else spline
        super().__init__(features, context, lambda d: spline_layers(d, family, *settings), support, standardize)
