"""Boltzmann machines: binary and other units that attract and repel each other, in layers or not."""

from .rbm import RBM
from .units import Bernoulli, Gaussian, HiddenUnits, Rectified, ReplicatedSoftmax, Softmax, VisibleUnits

__all__ = [
    "RBM",
    "Bernoulli",
    "Gaussian",
    "HiddenUnits",
    "Rectified",
    "ReplicatedSoftmax",
    "Softmax",
    "VisibleUnits",
]
