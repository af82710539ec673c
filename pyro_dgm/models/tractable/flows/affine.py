r"""Affine flows: NICE, RealNVP, MAF and IAF.

Each layer shifts and scales features by numbers that a network reads off other features.

========= ============================ =================== ==================
model     layer                        density of data     sampling
========= ============================ =================== ==================
NICE      x_B + b(x_A)                 1 pass              1 pass
RealNVP   x_B exp(s(x_A)) + b(x_A)     1 pass              1 pass
MAF       (x_i - b(x_<i)) exp(-s)      1 pass              D steps
IAF       z_i exp(s(z_<i)) + b(z_<i)   D steps             1 pass
========= ============================ =================== ==================

D steps restore one feature after another and together cost the products of one pass.
"""

from collections.abc import Sequence

from torch import nn
from torch.distributions import constraints

from ....nn import ShiftedReLU
from ....transforms import ActNorm, Affine, Shift
from .base import FlowModel
from .layers import autoregressions, couplings


class NICE(FlowModel):
    r"""Additive couplings and one diagonal affine map.

    .. math::
        x = e^{s} \odot (T_n \circ \dots \circ T_1)(z) + b, \qquad T_k: x_B \leftarrow x_B + m_k(x_A)

    Every coupling preserves volume, so the diagonal is what stretches: fast and very stable, less
    expressive than :class:`RealNVP`. (Dinh, Krueger and Bengio, NICE: Non-linear Independent Components
    Estimation, 2014, arXiv:1410.8516.)

    Args:
        features: Number of features of the data, at least 2.
        context: Width of the context, 0 for none.
        transforms: Number of couplings.
        hidden_features: Hidden widths of the conditioners.
        masks: Masks used in turn, true where a feature conditions; alternating when ``None``. See
            :func:`~pyro_dgm.transforms.random_masks`.
        activation: Class of the conditioners' activation.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> NICE(4)().sample((3,)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        transforms: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        masks: Sequence[Sequence[bool]] | None = None,
        activation: type[nn.Module] = ShiftedReLU,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        def layers(d: int) -> list:
            stack = couplings(d, Shift(), transforms, masks, hidden_features, context, activation)
            return [*stack, ActNorm(d, context)]

        super().__init__(features, context, layers, support, standardize)


class RealNVP(FlowModel):
    r"""Affine couplings: density and samples both in one pass.

    .. math::
        x_B \leftarrow x_B \odot e^{s_k(x_A, c)} + b_k(x_A, c)

    The default when both directions must be cheap (priors and guides); for the best fit to a
    table of data prefer :class:`~pyro_dgm.models.NSF`. (Dinh, Sohl-Dickstein and Bengio,
    Density estimation using Real NVP, 2016, arXiv:1605.08803.)

    Args:
        features: Number of features of the data, at least 2.
        context: Width of the context, 0 for none.
        transforms: Number of couplings.
        hidden_features: Hidden widths of the conditioners.
        masks: Masks used in turn, true where a feature conditions; alternating when ``None``. See
            :func:`~pyro_dgm.transforms.random_masks`.
        activation: Class of the conditioners' activation.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> import torch
        >>> RealNVP(4, context=2)(torch.zeros(7, 2)).batch_shape
        torch.Size([7])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        transforms: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        masks: Sequence[Sequence[bool]] | None = None,
        activation: type[nn.Module] = ShiftedReLU,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        super().__init__(
            features,
            context,
            lambda d: couplings(d, Affine(), transforms, masks, hidden_features, context, activation),
            support,
            standardize,
        )


class MAF(FlowModel):
    r"""Masked autoregressive flow: density in one pass, samples in D steps.

    .. math::
        z_i = x_i\, e^{s(x_{<i}, c)} + b(x_{<i}, c)

    Strong on tables of continuous data; as a prior or guide its sampling is slow, use :class:`IAF` there.
    (Papamakarios, Pavlakou and Murray, Masked Autoregressive Flow for Density Estimation, 2017,
    arXiv:1705.07057.)

    Args:
        features: Number of features D of the data.
        context: Width of the context, 0 for none.
        transforms: Number of layers; their orders alternate.
        hidden_features: Hidden widths of the conditioners, each at least D.
        activation: Class of the conditioners' activation.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> import torch
        >>> MAF(4)().log_prob(torch.zeros(3, 4)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        transforms: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = ShiftedReLU,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        super().__init__(
            features,
            context,
            lambda d: autoregressions(d, Affine(), transforms, "density", hidden_features, context, activation),
            support,
            standardize,
        )


class IAF(FlowModel):
    r"""Inverse autoregressive flow: samples, and the density of its own samples, in one pass; data in D steps.

    .. math::
        x_i = z_i\, e^{s(z_{<i}, c)} + b(z_{<i}, c)

    The flow for guides and posteriors, which score what they drew; to fit data use :class:`MAF`.
    (Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, Improved Variational Inference with
    Inverse Autoregressive Flow, 2016, arXiv:1606.04934.)

    Args:
        features: Number of features D of the data.
        context: Width of the context, 0 for none.
        transforms: Number of layers; their orders alternate.
        hidden_features: Hidden widths of the conditioners, each at least D.
        activation: Class of the conditioners' activation.
        support: Where the data live.
        standardize: Whether data are standardised by the moments of the training data.

    Example:
        >>> x, log_prob = IAF(4)().rsample_and_log_prob((3,))
        >>> x.shape, log_prob.shape
        (torch.Size([3, 4]), torch.Size([3]))
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        *,
        transforms: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        activation: type[nn.Module] = ShiftedReLU,
        support: constraints.Constraint = constraints.real,
        standardize: bool = True,
    ) -> None:
        super().__init__(
            features,
            context,
            lambda d: autoregressions(d, Affine(), transforms, "sampling", hidden_features, context, activation),
            support,
            standardize,
        )
