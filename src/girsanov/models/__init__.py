"""Networks, and the score model that turns what a network predicts into a score."""

__all__ = [
    "HALF",
    "NETWORKS",
    "PREDICTIONS",
    "CellHistogram",
    "ConditionMap",
    "ConvConfig",
    "ConvNetwork",
    "Ensemble",
    "ExpertHead",
    "Head",
    "LatticeHead",
    "MLPConfig",
    "MixtureHead",
    "NetworkKind",
    "ResidualHead",
    "ResidualMLP",
    "ScoreModel",
    "Signature",
    "TwoLayerConfig",
    "TwoLayerNetwork",
    "UNetConfig",
    "called",
    "default_network",
    "from_noise",
    "takes_convolutions",
    "to_noise",
]

from girsanov.models.conditioning import ConditionMap, Signature
from girsanov.models.configs import (
    NETWORKS,
    ConvConfig,
    MLPConfig,
    NetworkKind,
    TwoLayerConfig,
    UNetConfig,
    default_network,
)
from girsanov.models.convolutions import ConvNetwork, takes_convolutions
from girsanov.models.heads import CellHistogram, ExpertHead, Head, LatticeHead, MixtureHead, ResidualHead
from girsanov.models.networks import Ensemble, ResidualMLP, TwoLayerNetwork
from girsanov.models.predictions import PREDICTIONS, from_noise, to_noise
from girsanov.models.score_model import HALF, ScoreModel, called
