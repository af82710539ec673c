"""Distances between a model and data, in mean nats per datum.

``Objective(settings)(model)``, or ``(model, guide)`` for a pair of Pyro programs, is an ``nn.Module`` from a batch
to a scalar, which ``fit`` minimises; the same ``Objective(settings)`` is a loss for ``pyro.infer.SVI`` wherever one
loss and one optimizer suffice.
"""

from .adversarial import Adversarial, AdversarialLoss, LeastSquares, NonSaturating, Wasserstein
from .base import Objective, Player
from .discrepancy import RBF, InverseMultiquadratic, MaximumMeanDiscrepancy
from .elbo import ELBO, LinearWarmup
from .estimators import differentiable_loss
from .likelihood import NegativeLogLikelihood
from .order_agnostic import OrderAgnostic
from .reconstruction import Reconstruction
from .semi_supervised import SemiSupervised
from .total_correlation import AdversarialTotalCorrelation, TotalCorrelation

__all__ = [
    "ELBO",
    "RBF",
    "Adversarial",
    "AdversarialLoss",
    "AdversarialTotalCorrelation",
    "InverseMultiquadratic",
    "LeastSquares",
    "LinearWarmup",
    "MaximumMeanDiscrepancy",
    "NegativeLogLikelihood",
    "NonSaturating",
    "Objective",
    "OrderAgnostic",
    "Player",
    "Reconstruction",
    "SemiSupervised",
    "TotalCorrelation",
    "Wasserstein",
    "differentiable_loss",
]
