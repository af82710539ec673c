"""How the layers of a flow are stacked: masks in turn for couplings, alternating orders for autoregression.

Both lists run latent to data. A coupling costs the same in both directions. An autoregressive layer is
parallel in one direction and sequential in the other; ``fast`` says which: ``"density"`` scores data in one pass
(as in MAF), ``"sampling"`` samples in one pass (as in IAF).
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from ....transforms import Coupling, Harmonics, MaskedAutoregressive, Permutation, Transform, Univariate


def couplings(
    features: int,
    univariate: Univariate,
    transforms: int,
    masks: Sequence[Sequence[bool]] | None,
    hidden_features: Sequence[int],
    context: int,
    activation: type[nn.Module],
    transform_all: bool = False,
    embed: Harmonics | None = None,
) -> list[Transform]:
    """Couplings over masks used in turn; every other feature, and the rest, when ``masks`` is ``None``.

    In that case features are put in order once, so that a coupling takes apart and joins two halves, which is faster.
    """
    if features < 2:
        raise ValueError(
            "features: a coupling needs at least 2 (unconstrained) features, one to condition on and one to transform, "
            f"got {features}; for one feature use MAF or NSF(autoregressive=True)"
        )
    if masks is not None and not len(masks):
        raise ValueError("masks: expected at least one mask, or None for alternating ones, got an empty sequence")
    ends: list[Transform] = []
    if masks is None:
        half = (features + 1) // 2
        masks = [[(i < half) == first for i in range(features)] for first in (True, False)]
        ends = [Permutation([i // 2 + half * (i % 2) for i in range(features)])] if features > 2 else []
    for mask in masks:
        if len(mask) != features:
            raise ValueError(f"masks: expected {features} truth values in each, got {len(mask)}")
    settings = {"transform_all": transform_all, "embed": embed}
    layers = (masks[k % len(masks)] for k in range(transforms))
    return [*(Coupling(m, univariate, hidden_features, context, activation, **settings) for m in layers), *ends]


def check_fast(fast: str) -> None:
    """Refuses a direction that is none.

    Raises:
        ValueError: With what was expected and what came.
    """
    if fast not in ("density", "sampling"):
        raise ValueError(f'fast: expected "density" (for data) or "sampling" (for guides), got {fast!r}')


def autoregressions(
    features: int,
    univariate: Univariate,
    transforms: int,
    fast: Literal["density", "sampling"],
    hidden_features: Sequence[int],
    context: int,
    activation: type[nn.Module],
    embed: Harmonics | None = None,
) -> list[Transform]:
    """Autoregressive layers whose order is natural and reversed in turn."""
    check_fast(fast)
    orders = list(range(features)), list(reversed(range(features)))
    layers: list[Transform] = [
        MaskedAutoregressive(features, univariate, orders[k % 2], hidden_features, context, activation, embed=embed)
        for k in range(transforms)
    ]
    return [layer.inv for layer in layers] if fast == "density" else layers


def spline_layers(
    features: int,
    spline: Univariate,
    autoregressive: bool,
    transforms: int | None,
    masks: Sequence[Sequence[bool]] | None,
    hidden_features: Sequence[int],
    context: int,
    activation: type[nn.Module],
    embed: Harmonics | None = None,
) -> list[Transform]:
    """Autoregressive layers, 3 of them when ``transforms`` is ``None``, or couplings that transform all, 5 of them.

    Splines lead data to the latent: a nearly flat bin makes a deep gap between two modes, where a spline's inverse,
    steep there, would leave half of the mean density.
    """
    if autoregressive and masks is not None:
        raise ValueError("masks: expected None for an autoregressive flow, whose layers have orders, not masks")
    if autoregressive:
        n = 3 if transforms is None else transforms
        return autoregressions(features, spline, n, "density", hidden_features, context, activation, embed)
    n = 5 if transforms is None else transforms
    layers = couplings(features, spline, n, masks, hidden_features, context, activation, True, embed)
    return [layer.inv if isinstance(layer, Coupling) else layer for layer in layers]
