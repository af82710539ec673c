"""Distances between a model and data, in mean nats per datum.

``Objective(settings)(model)``, or ``(model, guide)`` for a pair of Pyro programs, is an ``nn.Module`` from a batch
to a scalar, which ``fit`` minimises; the same ``Objective(settings)`` is a loss for ``pyro.infer.SVI`` wherever one
loss and one optimizer suffice.
"""

from .adversarial import Adversarial, AdversarialLoss, LeastSquares, NonSaturating, Wasserstein
from .annealing import CyclicalAnnealing, LinearWarmup
from .base import Objective, Player
from .discrepancy import RBF, InverseMultiquadratic, MaximumMeanDiscrepancy, Polynomial
from .divergence import Balance, FreeBits
from .elbo import ELBO
from .estimators import differentiable_loss
from .importance import IWAE, RWS, STL, VIMCO, DReG, effective_sample_size
from .likelihood import NegativeLogLikelihood
from .order_agnostic import OrderAgnostic
from .reconstruction import Reconstruction
from .semi_supervised import SemiSupervised
from .total_correlation import AdversarialTotalCorrelation, TotalCorrelation

__all__ = [
    "ELBO",
    "IWAE",
    "RBF",
    "RWS",
    "STL",
    "VIMCO",
    "Adversarial",
    "AdversarialLoss",
    "AdversarialTotalCorrelation",
    "Balance",
    "CyclicalAnnealing",
    "DReG",
    "FreeBits",
    "InverseMultiquadratic",
    "LeastSquares",
    "LinearWarmup",
    "MaximumMeanDiscrepancy",
    "NegativeLogLikelihood",
    "NonSaturating",
    "Objective",
    "OrderAgnostic",
    "Player",
    "Polynomial",
    "Reconstruction",
    "SemiSupervised",
    "TotalCorrelation",
    "Wasserstein",
    "differentiable_loss",
    "effective_sample_size",
]
