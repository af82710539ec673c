"""Distributions Pyro lacks: what a generative model returns when called.

Each is a ``pyro.distributions.TorchDistribution`` and says in ``density`` what its ``log_prob`` promises:
``"exact"``, ``"lower_bound"`` (in expectation), ``"estimate"``, or ``"implicit"`` (there is none, and asking
raises an error that names what to use instead). Evaluation and tasks ask for that promise through
:func:`density_of`, never for a class; an ordinary Pyro distribution is exact.
"""

from . import heads
from .autoregressive import Autoregressive
from .boltzmann import Boltzmann
from .concatenated import Concatenated
from .continuous_bernoulli import ContinuousBernoulli
from .counts import NegativeBinomial, Poisson
from .embedded import Embedded
from .flow import Flow, Proposal
from .hierarchy import Hierarchy
from .marginal import Marginal
from .markov_chain import MarkovChain
from .missing import PartlyObserved, PossiblyMissing
from .mixture import BatchMixture, Mixture
from .promise import Density, density_of
from .pushforward import Pushforward
from .quantization import Dequantization, Quantized
from .steps import Steps
from .unit_normal import UnitNormal

__all__ = [
    "Autoregressive",
    "BatchMixture",
    "Boltzmann",
    "Concatenated",
    "ContinuousBernoulli",
    "Density",
    "Dequantization",
    "Embedded",
    "Flow",
    "Hierarchy",
    "Marginal",
    "MarkovChain",
    "Mixture",
    "NegativeBinomial",
    "PartlyObserved",
    "Poisson",
    "PossiblyMissing",
    "Proposal",
    "Pushforward",
    "Quantized",
    "Steps",
    "UnitNormal",
    "density_of",
    "heads",
]
