"""Generative models, the taxonomy as a tree: ``tractable``, ``approximate``, ``implicit``.

Every model is a module that, called with a context, returns a Pyro distribution; ``base`` says what they share.
"""

from .approximate import MIWAE, VAE, Dequantized, NotMIWAE
from .base import ApproximateModel, GenerativeModel, ImplicitModel, TractableModel
from .implicit import GAN
from .mixture import Mixture
from .parametric import DiagonalNormal, IndependentBernoulli, StandardNormal
from .tractable.autoregressive import (
    FVBN,
    MADE,
    NADE,
    RNADE,
    Autoregressive,
    CausalTransformer,
    ConvNADE,
    EoNADE,
    GatedPixelCNN,
    PixelCNN,
    PixelCNNPlusPlus,
    PixelRNN,
)
from .tractable.flows import (
    BNAF,
    FFJORD,
    IAF,
    MAF,
    NAF,
    NCSF,
    NICE,
    NSF,
    SOSPF,
    GaussianizationFlow,
    Glow,
    MultiscaleRealNVP,
    NormalizingFlow,
    RealNVP,
)

__all__ = [
    "BNAF",
    "FFJORD",
    "FVBN",
    "GAN",
    "IAF",
    "MADE",
    "MAF",
    "MIWAE",
    "NADE",
    "NAF",
    "NCSF",
    "NICE",
    "NSF",
    "RNADE",
    "SOSPF",
    "VAE",
    "ApproximateModel",
    "Autoregressive",
    "CausalTransformer",
    "ConvNADE",
    "Dequantized",
    "DiagonalNormal",
    "EoNADE",
    "GatedPixelCNN",
    "GaussianizationFlow",
    "GenerativeModel",
    "Glow",
    "ImplicitModel",
    "IndependentBernoulli",
    "Mixture",
    "MultiscaleRealNVP",
    "NormalizingFlow",
    "NotMIWAE",
    "PixelCNN",
    "PixelCNNPlusPlus",
    "PixelRNN",
    "RealNVP",
    "StandardNormal",
    "TractableModel",
]
