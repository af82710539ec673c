r"""Networks that know no probability.

A network here maps tensors to tensors of parameters; what the parameters mean is decided by
whoever holds the network (a transform, a distribution, a model). Every network takes an optional
``context`` :math:`c` beside its input :math:`x`, and the two broadcast against each other: the first
layer computes :math:`W x + V c + b`, so a context with other batch dimensions than the data costs one
addition, and nothing is concatenated or copied. The networks of autoencoders (:class:`ConvEncoder`,
:class:`ConvDecoder`, :class:`GatedMLP`) read one vector instead, in which a model has joined the two.
"""

from .activation import ShiftedReLU
from .attention import SelfAttention
from .augmentation import DiffAugment
from .autoencoding import ConvDecoder, ConvEncoder
from .batch_norm import BatchNorm, mixes_data
from .convolution import ConvNet
from .corruption import GaussianNoise, MaskingNoise, SaltAndPepper, StochasticBinary
from .critics import Packed, ReconstructionScore
from .dcgan import DCGANCritic, DCGANGenerator
from .field import AutogradField, MLPField
from .jacobian import squared_jacobian_norm
from .masked import MaskedLinear, MaskedMLP
from .mlp import MLP, GatedMLP, Parameters, zero_
from .ode import StiffnessError
from .penalty import add_penalty, penalties, penalties_wanted
from .potential import Potential
from .precision import at_least_float32, leave_autocast, without_autocast
from .quantizer import VectorQuantizer
from .residual import ResidualCritic, ResidualGenerator
from .spectral import SpectralNorm, spectrally_normalized
from .walk import Conditioner, NaiveWalk, Walk

__all__ = [
    "MLP",
    "AutogradField",
    "BatchNorm",
    "Conditioner",
    "ConvDecoder",
    "ConvEncoder",
    "ConvNet",
    "DCGANCritic",
    "DCGANGenerator",
    "DiffAugment",
    "GatedMLP",
    "GaussianNoise",
    "MLPField",
    "MaskedLinear",
    "MaskedMLP",
    "MaskingNoise",
    "NaiveWalk",
    "Packed",
    "Parameters",
    "Potential",
    "ReconstructionScore",
    "ResidualCritic",
    "ResidualGenerator",
    "SaltAndPepper",
    "SelfAttention",
    "ShiftedReLU",
    "SpectralNorm",
    "StiffnessError",
    "StochasticBinary",
    "VectorQuantizer",
    "Walk",
    "add_penalty",
    "at_least_float32",
    "leave_autocast",
    "mixes_data",
    "penalties",
    "penalties_wanted",
    "spectrally_normalized",
    "squared_jacobian_norm",
    "without_autocast",
    "zero_",
]
