"""Distances between a model and data, in mean nats per datum.

``Objective(settings)(model)``, or ``(model, guide)`` for a pair of Pyro programs, is an ``nn.Module`` from a batch
to a scalar, which ``fit`` minimises; the same ``Objective(settings)`` is a loss for ``pyro.infer.SVI`` wherever one
loss and one optimizer suffice.
"""

from .adversarial import Adversarial
from .annealing import CyclicalAnnealing, LinearWarmup
from .auxiliary import AuxiliaryClassifier, MutualInformation
from .base import Objective, Player
from .critic_penalties import DRAGAN, R1, R2, CriticPenalty, GradientPenalty
from .discrepancy import RBF, InverseMultiquadratic, MaximumMeanDiscrepancy
from .divergence import Balance, FreeBits
from .elbo import ELBO
from .estimators import differentiable_loss
from .f_divergence import (
    FDivergence,
    JensenShannon,
    KullbackLeibler,
    PearsonChiSquared,
    ReverseKullbackLeibler,
    SquaredHellinger,
    TotalVariation,
)
from .games import (
    AdversarialLoss,
    EnergyMargin,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
)
from .importance import IWAE, RWS, STL, VIMCO, DReG, effective_sample_size
from .likelihood import NegativeLogLikelihood
from .order_agnostic import OrderAgnostic
from .reconstruction import Reconstruction
from .semi_supervised import SemiSupervised
from .total_correlation import AdversarialTotalCorrelation, TotalCorrelation
from .walkback import Walkback

__all__ = [
    "DRAGAN",
    "ELBO",
    "IWAE",
    "R1",
    "R2",
    "RBF",
    "RWS",
    "STL",
    "VIMCO",
    "Adversarial",
    "AdversarialLoss",
    "AdversarialTotalCorrelation",
    "AuxiliaryClassifier",
    "Balance",
    "CriticPenalty",
    "CyclicalAnnealing",
    "DReG",
    "EnergyMargin",
    "FDivergence",
    "FreeBits",
    "GradientPenalty",
    "Hinge",
    "InverseMultiquadratic",
    "JensenShannon",
    "KullbackLeibler",
    "LeastSquares",
    "LinearWarmup",
    "MaximumMeanDiscrepancy",
    "Minimax",
    "MutualInformation",
    "NegativeLogLikelihood",
    "NonSaturating",
    "Objective",
    "OrderAgnostic",
    "PearsonChiSquared",
    "Player",
    "Reconstruction",
    "Relativistic",
    "ReverseKullbackLeibler",
    "SemiSupervised",
    "SquaredHellinger",
    "TotalCorrelation",
    "Walkback",
    "TotalVariation",
    "Wasserstein",
    "differentiable_loss",
    "effective_sample_size",
]
