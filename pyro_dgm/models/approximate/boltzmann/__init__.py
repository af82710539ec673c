"""Boltzmann machines."""

from .dbm import DBM

__all__ = ["DBM"]
