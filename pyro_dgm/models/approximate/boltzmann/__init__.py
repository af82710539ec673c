"""Boltzmann machines: binary and other units that attract and repel each other, in layers or not."""

from .conditional import ConditionalRBM
from .convolutional import ConvolutionalRBM
from .dbm import DBM
from .dbn import DBN
from .machine import BoltzmannMachine
from .rbm import RBM
from .units import Bernoulli, Gaussian, HiddenUnits, Rectified, ReplicatedSoftmax, Softmax, VisibleUnits

__all__ = [
    "DBM",
    "DBN",
    "RBM",
    "Bernoulli",
    "BoltzmannMachine",
    "ConditionalRBM",
    "ConvolutionalRBM",
    "Gaussian",
    "HiddenUnits",
    "Rectified",
    "ReplicatedSoftmax",
    "Softmax",
    "VisibleUnits",
]
