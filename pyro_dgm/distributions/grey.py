"""What to do with grey levels, values strictly between 0 and 1, where a model expects coins.

Cross-entropy with such values is not the logarithm of a density: it leaves out a constant that depends on the
parameters, so that its "likelihoods" compare with nothing, and models trained on it are too dark or too pale. So grey
data are refused, and the refusal says what there is instead. (Loaiza-Ganem and Cunningham, The continuous Bernoulli,
2019, arXiv:1907.06845.)
"""

import torch
from torch import Tensor
from torch.distributions import constraints

ADVICE = (
    "; values between 0 and 1 are no coins: binarise them, by (x > 0.5).float() or torch.bernoulli(x), or choose a "
    "likelihood of grey levels: Factorized(event_shape, heads.ContinuousBernoulli(), ...) as they are, "
    "heads.DiscretizedLogisticMixture(K, levels=256) of the integers 0..255, heads.Normal(...) of real numbers"
)


def advice(support: constraints.Constraint, value: Tensor) -> str:
    """Returns what to do instead where binary data were expected and some are grey; nothing in all other cases."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is not constraints.boolean or not value.is_floating_point():
        return ""
    grey = (value > 0) & (value < 1)
    return ADVICE if torch.any(grey) and torch.all((value >= 0) & (value <= 1)) else ""


class Advising:
    """Makes a distribution's refusal of grey levels, where it expects coins, say what to do; first among its bases."""

    def _validate_sample(self, value: Tensor) -> None:
        try:
            super()._validate_sample(value)
        except ValueError:
            instead = advice(self.support, value)
            if not instead:
                raise
            values = f"from {value.min():g} to {value.max():g}"
            raise ValueError(f"value: expected zeros and ones, got numbers {values}{instead}") from None
