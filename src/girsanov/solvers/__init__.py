"""Grids in log-SNR and steps of ODEs: these know vector fields and nothing about models."""

__all__ = ["Adaptive", "FixedGrid", "LogSNRDensity", "Solution"]

from girsanov.solvers.grids import LogSNRDensity
from girsanov.solvers.ode import Adaptive, FixedGrid, Solution
