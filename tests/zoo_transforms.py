"""The zoo of transforms: every one of the package, small; see :mod:`tests.zoo`."""

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions.transforms as T
import torch
from torch import nn
from torch.distributions import constraints

from pyro_dgm import transforms as t

from .zoo import IMAGE, TwoLayers, perturb


@dataclass(frozen=True)
class TransformRow:
    """A transform: ``make(context)``; ``shape`` of an event it takes; whether it depends on a context."""

    make: Callable[[int], nn.Module]
    shape: tuple[int, ...] = (4,)
    conditional: bool = True

    def build(self, context: int = 0) -> nn.Module:
        torch.manual_seed(1)
        return perturb(self.make(context)).double()


TRANSFORMS: dict[str, TransformRow] = {
    "Coupling": TransformRow(lambda c: t.Coupling([1, 0, 0, 1], None, (8,), c)),
    "Coupling-Shift": TransformRow(lambda c: t.Coupling([0, 1, 0, 1], t.Shift(), (8,), c)),
    "Coupling-Affine": TransformRow(lambda c: t.Coupling([0, 0, 0, 1], t.Affine(2.0), (8,), c)),
    "Coupling-Spline": TransformRow(lambda c: t.Coupling([1, 1, 0, 0], t.Spline(5, 2.0), (8,), c)),
    "Coupling-CircularSpline": TransformRow(lambda c: t.Coupling([1, 1, 0, 0], t.CircularSpline(4), (8,), c)),
    "Coupling-CircularSpline-Harmonics-Wrap": TransformRow(
        lambda c: t.Compose(
            [t.Coupling([1, 0, 1, 0], t.CircularSpline(4), (8,), c, embed=t.Harmonics(2), transform_all=True), t.Wrap()]
        )
    ),
    "Coupling-all-alternating": TransformRow(
        lambda c: t.Coupling(t.alternating(4)[0], t.Spline(4), (8,), c, transform_all=True)
    ),
    "MaskedAutoregressive": TransformRow(lambda c: t.MaskedAutoregressive(4, None, [2, 0, 3, 1], (8,), c)),
    "MaskedAutoregressive-Shift": TransformRow(lambda c: t.MaskedAutoregressive(4, t.Shift(), None, (8, 6), c)),
    "MaskedAutoregressive-Spline": TransformRow(lambda c: t.MaskedAutoregressive(4, t.Spline(5), None, (8,), c)),
    "MaskedAutoregressive-Chain": TransformRow(
        lambda c: t.MaskedAutoregressive(4, t.Chain([t.Affine(), t.Spline(4), t.Shift()]), [2, 0, 3, 1], (8,), c)
    ),
    "Coupling-Chain-all": TransformRow(
        lambda c: t.Coupling([1, 0, 1, 0], t.Chain([t.Affine(), t.Spline(4)]), (8,), c, transform_all=True)
    ),
    "MaskedAutoregressive-CircularSpline-Harmonics": TransformRow(
        lambda c: t.MaskedAutoregressive(4, t.CircularSpline(4), [2, 0, 3, 1], (8,), c, embed=t.Harmonics(2))
    ),
    "MaskedAutoregressive-1": TransformRow(lambda c: t.MaskedAutoregressive(1, t.Spline(5), None, (8,), c), (1,)),
    "MaskedAutoregressive-linear": TransformRow(lambda c: t.MaskedAutoregressive(4, None, None, (), c)),
    "Continuous": TransformRow(lambda c: t.Continuous(4, (8, 6), c, solver="rk4", steps=16)),
    "Continuous-dopri8": TransformRow(
        lambda c: t.Continuous(4, (6, 5, 4), c, nn.Softplus, solver="dopri8", rtol=1e-10, atol=1e-10)
    ),
    "Continuous-field": TransformRow(lambda c: t.Continuous(4, field=TwoLayers(4, c), solver="rk4", steps=16)),
    "MaskedAutoregressive-DeepSigmoidal": TransformRow(
        lambda c: t.MaskedAutoregressive(4, t.DeepSigmoidal(3, layers=2), None, (8,), c)
    ),
    "Coupling-SumOfSquares-random_masks": TransformRow(
        lambda c: t.Coupling(t.random_masks(4, 3, seed=1)[2], t.SumOfSquares(2, 2), (8,), c)
    ),
    "Coupling-GaussianMixtureCDF": TransformRow(
        lambda c: t.Coupling([0, 1, 0, 1], t.GaussianMixtureCDF(3), (8,), c, transform_all=True)
    ),
    "ElementWise-GaussianMixtureCDF": TransformRow(lambda c: t.ElementWise(4, t.GaussianMixtureCDF(3), c)),
    "ElementWise-SumOfSquares": TransformRow(lambda c: t.ElementWise(4, t.SumOfSquares(2, 3), c).inv),
    "BlockAutoregressive": TransformRow(lambda c: t.BlockAutoregressive(4, (3, 2), c)),
    "BlockAutoregressive-1": TransformRow(lambda c: t.BlockAutoregressive(1, (3,), c), (1,)),
    "Householder": TransformRow(lambda c: t.Householder(4, 3), conditional=False),
    "Planar": TransformRow(lambda c: t.Planar(4, c)),
    "Radial": TransformRow(lambda c: t.Radial(4, c)),
    "Sylvester": TransformRow(lambda c: t.Sylvester(4, c, reflections=2)),
    "Sylvester-hidden": TransformRow(lambda c: t.Sylvester(1, c, (4,)), (1,)),
    "Permutation": TransformRow(lambda c: t.Permutation([2, 0, 3, 1]), conditional=False),
    "LULinear": TransformRow(lambda c: t.LULinear(4, c)),
    "ActNorm": TransformRow(lambda c: t.ActNorm(4, c)),
    "Standardize": TransformRow(lambda c: _fitted(t.Standardize(4)), conditional=False),
    "Inverse": TransformRow(lambda c: t.MaskedAutoregressive(4, None, None, (8,), c).inv),
    "Compose": TransformRow(
        lambda c: t.Compose([t.LULinear(4, c), t.Coupling([1, 0, 1, 0], t.Spline(4), (8,), c), t.ActNorm(4)])
    ),
    "Compose-pyro": TransformRow(
        lambda c: t.Compose(
            [T.conditional_affine_coupling(4, c) if c else T.affine_coupling(4), t.LULinear(4), T.permute(4)]
        )
    ),
    "Compose-elementwise": TransformRow(
        lambda c: t.Compose([T.conditional_spline(4, c) if c else T.spline(4), t.LULinear(4)])
    ),
    "Foreign": TransformRow(lambda c: t.Foreign(T.conditional_affine_coupling(4, c) if c else T.affine_coupling(4))),
    "Foreign-inverse": TransformRow(
        lambda c: t.as_transform((T.conditional_affine_coupling(4, c) if c else T.affine_coupling(4)).inv)
    ),
    "Support": TransformRow(lambda c: t.Support(constraints.positive), conditional=False),
    "Support-interval": TransformRow(lambda c: t.Support(constraints.interval(-1.0, 3.0)), conditional=False),
    "Support-less": TransformRow(lambda c: t.Support(constraints.less_than(1.0)), conditional=False),
    "with_support": TransformRow(lambda c: t.with_support(t.LULinear(4, c), constraints.unit_interval)),
    "Logit": TransformRow(lambda c: t.Compose([t.LULinear(4, c), t.Logit(0.05)])),
    "Logit-image": TransformRow(lambda c: t.Compose([t.ActNorm(IMAGE, c), t.Logit(1e-6)]), IMAGE),
    "Squeeze": TransformRow(lambda c: t.Squeeze(), (1, 2, 4), conditional=False),
    "ActNorm-image": TransformRow(lambda c: t.ActNorm(IMAGE, c), IMAGE),
    "InvertibleConvolution": TransformRow(lambda c: t.InvertibleConvolution(4), (4, 1, 2), conditional=False),
    "ImageCoupling-checkerboard-first_half": TransformRow(
        lambda c: t.ImageCoupling(IMAGE, t.checkerboard(3, 2), None, 4, 1, c), IMAGE
    ),
    "ImageCoupling-channels": TransformRow(lambda c: t.ImageCoupling(IMAGE, t.first_half(2), None, 4, 0, c), IMAGE),
    "ImageCoupling-Spline": TransformRow(
        lambda c: t.ImageCoupling((3, 2, 1), [1, 0, 1], t.Spline(4), 0, 0, c), (3, 2, 1)
    ),
    "MultiScale": TransformRow(lambda c: multi_scale(c), (16,)),
    "MultiScale-inverse": TransformRow(lambda c: multi_scale(c).inv, (1, 4, 4)),
}


def multi_scale(context: int) -> t.MultiScale:
    fine = [t.ImageCoupling((4, 2, 2), t.first_half(4), None, 4, 0, context), t.Squeeze().inv]
    coarse = [t.ActNorm((8, 1, 1), context), t.InvertibleConvolution(8).inv, t.Squeeze().inv]
    return t.MultiScale((1, 4, 4), [t.Compose(fine), t.Compose(coarse)])


def _fitted(standardize: t.Standardize) -> t.Standardize:
    standardize.initialize(torch.randn(50, 4) * torch.tensor([1.0, 2.0, 0.1, 5.0]) + 1)
    return standardize
