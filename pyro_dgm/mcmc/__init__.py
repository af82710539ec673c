"""Markov chains that weigh what they visit: annealed importance sampling and its transitions.

A path of densities leads from one that can be sampled to the target; :func:`anneal` walks it with any transition that
leaves each density invariant, and returns log-weights whose mean, :class:`Weights`, estimates the target's normaliser:
the likelihood of a latent variable model (:func:`pyro_dgm.evaluation.annealed`), the partition function of a Boltzmann
machine.
"""

from .ais import PosteriorAnnealing
from .anneal import Geometric, Path, anneal, sigmoid_schedule
from .gibbs import AnnealedImportance, BlockGibbs, run_chains
from .hmc import HMC
from .partition import EnergyPath, LogPartition, energy_schedule, estimate_log_partition
from .weights import Weights

__all__ = [
    "HMC",
    "AnnealedImportance",
    "BlockGibbs",
    "EnergyPath",
    "Geometric",
    "LogPartition",
    "Path",
    "PosteriorAnnealing",
    "Weights",
    "anneal",
    "energy_schedule",
    "estimate_log_partition",
    "run_chains",
    "sigmoid_schedule",
]
