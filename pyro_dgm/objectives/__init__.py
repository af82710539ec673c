"""Distances between a model and data, in mean nats per datum.

``Objective(settings)(model)``, or ``(model, guide)`` for a pair of Pyro programs, is an ``nn.Module`` from a batch
to a scalar, which ``fit`` minimises; the same ``Objective(settings)`` is a loss for ``pyro.infer.SVI`` wherever one
loss and one optimizer suffice.
"""

from .adversarial import Adversarial
from .adversarial_elbo import AdversarialELBO
from .adversarial_inference import AdversarialInference, AdversarialReconstruction, LearnedSimilarity
from .annealing import CyclicalAnnealing, LinearWarmup
from .auxiliary import AuxiliaryClassifier, MutualInformation
from .base import Objective, Player
from .contrastive_divergence import (
    Contrast,
    ContrastiveDivergence,
    PersistentContrastiveDivergence,
    Sparsity,
    SquaredEnergy,
)
from .critic_penalties import DRAGAN, R1, R2, CriticPenalty, GradientPenalty
from .discrepancy import RBF, InverseMultiquadratic, MaximumMeanDiscrepancy, Polynomial
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
from .score_matching import RatioMatching, ScoreMatching
from .semi_supervised import SemiSupervised
from .tempering import ParallelTempering
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
    "AdversarialELBO",
    "AdversarialInference",
    "AdversarialLoss",
    "AdversarialReconstruction",
    "AdversarialTotalCorrelation",
    "AuxiliaryClassifier",
    "Balance",
    "Contrast",
    "ContrastiveDivergence",
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
    "LearnedSimilarity",
    "LeastSquares",
    "LinearWarmup",
    "MaximumMeanDiscrepancy",
    "Minimax",
    "MutualInformation",
    "NegativeLogLikelihood",
    "NonSaturating",
    "Objective",
    "OrderAgnostic",
    "ParallelTempering",
    "PearsonChiSquared",
    "PersistentContrastiveDivergence",
    "Player",
    "Polynomial",
    "RatioMatching",
    "Reconstruction",
    "Relativistic",
    "ReverseKullbackLeibler",
    "ScoreMatching",
    "SemiSupervised",
    "Sparsity",
    "SquaredEnergy",
    "SquaredHellinger",
    "TotalCorrelation",
    "TotalVariation",
    "Walkback",
    "Wasserstein",
    "differentiable_loss",
    "effective_sample_size",
]
