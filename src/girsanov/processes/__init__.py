"""Forward processes: from data at t = 0 to noise at the horizon, with exact Gaussian kernels where they exist."""

__all__ = [
    "BrownianMotion",
    "Cosine",
    "HarmonicVP",
    "LinearProcess",
    "OrnsteinUhlenbeck",
    "Process",
    "StraightPath",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
]

from girsanov.processes.base import LinearProcess, Process
from girsanov.processes.linear import (
    BrownianMotion,
    Cosine,
    HarmonicVP,
    OrnsteinUhlenbeck,
    StraightPath,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
