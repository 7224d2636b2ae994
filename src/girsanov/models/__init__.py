"""Networks, and the score model that turns what a network predicts into a score."""

__all__ = [
    "HALF",
    "PREDICTIONS",
    "ConditionMap",
    "ConvNetwork",
    "Ensemble",
    "ExpertHead",
    "Head",
    "Lattice",
    "LatticeHead",
    "MixtureHead",
    "ResidualHead",
    "ResidualMLP",
    "ScoreModel",
    "TwoLayerNetwork",
    "deviation",
    "from_noise",
    "gaussian_reference",
    "noise_prediction",
    "takes_convolutions",
    "to_noise",
    "working_dtype",
]

from girsanov.models.evaluation import (
    deviation,
    gaussian_reference,
    noise_prediction,
    working_dtype,
)
from girsanov.models.heads import ExpertHead, Head, Lattice, LatticeHead, MixtureHead, ResidualHead
from girsanov.models.networks import (
    ConditionMap,
    ConvNetwork,
    Ensemble,
    ResidualMLP,
    TwoLayerNetwork,
    takes_convolutions,
)
from girsanov.models.predictions import PREDICTIONS, from_noise, to_noise
from girsanov.models.score_model import HALF, ScoreModel
