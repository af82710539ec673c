r"""Flows that bend features by functions which can approximate any other: NAF, SOSPF, BNAF, Gaussianization.

One direction of a layer is a formula, the other a search for the root of an increasing function, some forty evaluations
of that function of one variable (not of the networks). ``fast`` says which direction is the formula.

===================== ============================================ ==================== ====================
model                 layer                                        fast direction       other direction
===================== ============================================ ==================== ====================
NAF, SOSPF            :math:`g(x_i; \theta_i(x_{<i}))`             1 pass               D steps, D searches
BNAF                  one network, increasing in :math:`x_i`       1 pass               1 pass, D searches
GaussianizationFlow   :math:`Q\, g(x_i; \theta_i)`                 1 pass               1 pass, 1 search
===================== ============================================ ==================== ====================

A search for all features at once counts as one; D steps together cost the products of one pass.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.distributions import constraints

from ....nn import ShiftedReLU
from ....transforms import (
    BlockAutoregressive,
    DeepSigmoidal,
    ElementWise,
    GaussianMixtureCDF,
    Householder,
    Permutation,
    SumOfSquares,
    Transform,
)
from .base import FlowModel
from .layers import autoregressions, check_fast


class NAF(FlowModel):
    r"""Neural autoregressive flow: autoregressive layers of mixtures of sigmoids.

    .. math::
        z_i = \mathrm{logit} \sum_k w_k \sigma(a_k x_i + b_k), \qquad (w, a, b)_i = \theta_i(x_{<i}, c)

    Conditionals with several modes in one layer; an alternative to the autoregressive :class:`NSF`, smooth
    everywhere and without an interval to choose, but slower to sample from. (Huang, Krueger, Lacoste and Courville,
    Neural Autoregressive Flows, 2018, arXiv:1804.00779.)

    Args:
        features: Number of features D of the data.
        context: Width of the context, 0 for none.
        transforms: Number of layers; their orders alternate.
        units: Number of sigmoids K of a mixture.
        depth: Number of mixtures in turn that make one function.
        fast: The direction that is one pass: ``"density"``, for data, or ``"sampling"``, for guides.
        hidden_features: Hidden widths of the conditioners, each at least D.
        activation: Class of the conditioners' activation.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> import torch
        >>> NAF(4)().log_prob(torch.zeros(3, 4)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        transforms: int = 3,
        units: int = 8,
        depth: int = 1,
        fast: Literal["density", "sampling"] = "density",
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = ShiftedReLU,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        g = DeepSigmoidal(units, depth)
        super().__init__(
            features,
            context,
            lambda d: autoregressions(d, g, transforms, fast, hidden_features, context, activation),
            support,
            standardize,
        )


class SOSPF(FlowModel):
    r"""Sum-of-squares polynomial flow: autoregressive layers of increasing polynomials.

    .. math::
        z_i = b + \int_0^{x_i} \sum_k p_k(u)^2 du, \qquad (b, p)_i = \theta_i(x_{<i}, c)

    Few parameters per feature and the smoothest of densities, for data without sharp edges. Beyond five deviations the
    polynomials are continued by their tangents. (Jaini, Selby and Yu, Sum-of-Squares Polynomial Flow, 2019,
    arXiv:1905.02325.)

    Args:
        features: Number of features D of the data.
        context: Width of the context, 0 for none.
        transforms: Number of layers; their orders alternate.
        polynomials: Number K of polynomials squared.
        degree: Their degree.
        bound: Half-width of the interval on which (standardised) features are bent.
        fast: The direction that is one pass: ``"density"``, for data, or ``"sampling"``, for guides.
        hidden_features: Hidden widths of the conditioners, each at least D.
        activation: Class of the conditioners' activation.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> import torch
        >>> SOSPF(4, context=2)(torch.zeros(3, 2)).log_prob(torch.zeros(3, 4)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        transforms: int = 3,
        polynomials: int = 3,
        degree: int = 4,
        bound: float = 5.0,
        fast: Literal["density", "sampling"] = "density",
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = ShiftedReLU,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        g = SumOfSquares(polynomials, degree, bound)
        super().__init__(
            features,
            context,
            lambda d: autoregressions(d, g, transforms, fast, hidden_features, context, activation),
            support,
            standardize,
        )


class BNAF(FlowModel):
    r"""Block neural autoregressive flow: networks that are bijections themselves, without conditioners.

    .. math::
        z = \alpha \odot x + (1 - \alpha) \odot f(x, c), \qquad
        f_i \text{ increasing in } x_i \text{ and independent of } x_{>i}

    One or two networks, far fewer parameters than a :class:`NAF`; the gate :math:`\alpha` covers the tails. (De Cao,
    Titov and Aziz, Block Neural Autoregressive Flow, 2019, arXiv:1904.04676.)

    Args:
        features: Number of features D of the data.
        context: Width of the context, 0 for none; it enters every layer of the networks.
        transforms: Number of networks; the order of the features alternates.
        hidden_factors: Hidden units per feature of the networks' hidden layers.
        fast: The direction that is one pass: ``"density"``, for data, or ``"sampling"``, for guides.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> x, log_prob = BNAF(4, fast="sampling")().rsample_and_log_prob((3,))
        >>> x.shape, log_prob.shape
        (torch.Size([3, 4]), torch.Size([3]))
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        transforms: int = 2,
        hidden_factors: Sequence[int] = (8, 8),
        fast: Literal["density", "sampling"] = "density",
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        check_fast(fast)

        def layers(d: int) -> list[Transform]:
            stack: list[Transform] = []
            for k in range(transforms):
                network = BlockAutoregressive(d, hidden_factors, context)
                stack += [Permutation(list(reversed(range(d))))] if k else []
                stack += [network.inv if fast == "density" else network]
            return stack

        super().__init__(features, context, layers, support, standardize)


class GaussianizationFlow(FlowModel):
    r"""Gaussianization flow: every marginal is made normal by a mixture, then features are rotated, and again.

    .. math::
        x \leftarrow Q_k \Psi_k(x), \qquad \Psi_k(x)_i = \Phi^{-1} \sum_j w_{ij} \Phi((x_i - \mu_{ij}) / s_{ij})

    ``initialize`` (which ``fit`` calls) puts the components of every layer on the quantiles of the data that reach it,
    so that the flow is good before the first step. There are no conditioners: what features have to do with each other
    is told by the rotations alone, so it takes more layers than an autoregressive flow. (Meng, Song, Song and Ermon,
    Gaussianization Flows, 2020, arXiv:2003.01941.)

    Args:
        features: Number of features D of the data.
        context: Width of the context, 0 for none; the mixtures depend on it linearly.
        transforms: Number of layers.
        components: Number of components of every mixture.
        reflections: Number of Householder reflections in a rotation; D when ``None``.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> import torch
        >>> flow = GaussianizationFlow(2)
        >>> flow.initialize(torch.rand(1000, 2))
        >>> flow().log_prob(torch.tensor([0.5, 0.5])).item() > -1
        True
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        transforms: int = 5,
        components: int = 8,
        reflections: int | None = None,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        def layers(d: int) -> list[Transform]:
            stack: list[Transform] = []
            for k in range(transforms):
                stack += [Householder(d, reflections)] if k else []
                stack += [ElementWise(d, GaussianMixtureCDF(components), context).inv]
            return stack

        super().__init__(features, context, layers, support, standardize)
