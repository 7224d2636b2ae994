"""What training minimises."""

__all__ = [
    "Batch",
    "BoundLoss",
    "ChainObjective",
    "DebiasedTime",
    "DenoisingObjective",
    "DenoisingScoreMatching",
    "ExplicitScoreMatching",
    "ImplicitScoreMatching",
    "LossDraws",
    "Matching",
    "PairObjective",
    "PathObjective",
    "ScheduledObjective",
    "ScoreMatchingObjective",
    "SlicedScoreMatching",
    "TimeLaw",
    "UniformTime",
    "fit_schedule",
    "fit_times",
    "gaussian_decoder",
    "independent",
    "low_discrepancy",
    "uniform_weight",
]

from girsanov.objectives.bound_loss import BoundLoss, LossDraws
from girsanov.objectives.chain import ChainObjective
from girsanov.objectives.denoising import Batch, DenoisingObjective
from girsanov.objectives.objective import ScoreMatchingObjective, fit_times, uniform_weight
from girsanov.objectives.pair import PairObjective
from girsanov.objectives.path import PathObjective, gaussian_decoder
from girsanov.objectives.schedule import ScheduledObjective, fit_schedule
from girsanov.objectives.score_matching import (
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    Matching,
    SlicedScoreMatching,
)
from girsanov.objectives.times import DebiasedTime, TimeLaw, UniformTime, independent, low_discrepancy
