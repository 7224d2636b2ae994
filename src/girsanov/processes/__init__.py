"""Forward processes: from data at t = 0 to noise at the horizon, with exact Gaussian kernels where they exist."""

__all__ = [
    "ROUNDING",
    "BrownianMotion",
    "ConditionalPath",
    "Cosine",
    "EncodedPath",
    "GaussianPath",
    "HarmonicVP",
    "LearnedSchedule",
    "LinearProcess",
    "OrnsteinUhlenbeck",
    "Process",
    "ProcessPath",
    "ScheduledPath",
    "Section",
    "StraightPath",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
]

from girsanov.processes.base import ROUNDING, LinearProcess, Process
from girsanov.processes.conditional import ConditionalPath, EncodedPath, ProcessPath, ScheduledPath
from girsanov.processes.learned import LearnedSchedule
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
from girsanov.processes.path import GaussianPath
from girsanov.processes.section import Section
