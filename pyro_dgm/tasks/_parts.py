"""The autoregressive distributions that a model's is a mixture of."""

from pyro.distributions import TorchDistribution

from ..distributions import Autoregressive, Mixture


def autoregressive_parts(p: TorchDistribution) -> list[Autoregressive]:
    """Returns the components of a mixture, or the distribution itself.

    Raises:
        ValueError: If one is not autoregressive.
    """
    parts = p.components if isinstance(p, Mixture) else [p]
    for part in parts:
        if not isinstance(part, Autoregressive):
            raise ValueError(
                f"model: expected an autoregressive one, got one of {type(part).__name__}; use anomaly_score for others"
            )
    return parts
