"""Networks, their settings, and the heads that read them."""

__all__ = [
    "NETWORKS",
    "PREDICTIONS",
    "CellHistogram",
    "ConditionMap",
    "ConvConfig",
    "ConvNetwork",
    "Ensemble",
    "ExpertHead",
    "Head",
    "ImageConfig",
    "ImageNetwork",
    "LatticeHead",
    "LevelHead",
    "LevelPrior",
    "MLPConfig",
    "MixtureHead",
    "NetworkKind",
    "ResidualHead",
    "ResidualMLP",
    "Signature",
    "TwoLayerConfig",
    "TwoLayerNetwork",
    "UNetConfig",
    "default_network",
    "from_noise",
    "takes_convolutions",
    "to_noise",
]

from girsanov.networks.conditioning import ConditionMap, Signature
from girsanov.networks.configs import (
    NETWORKS,
    ConvConfig,
    ImageConfig,
    MLPConfig,
    NetworkKind,
    TwoLayerConfig,
    UNetConfig,
    default_network,
)
from girsanov.networks.convolutions import ConvNetwork, takes_convolutions
from girsanov.networks.dense import Ensemble, ResidualMLP, TwoLayerNetwork
from girsanov.networks.heads import CellHistogram, ExpertHead, Head, LatticeHead, MixtureHead, ResidualHead
from girsanov.networks.images import ImageNetwork
from girsanov.networks.levels import LevelHead, LevelPrior
from girsanov.networks.predictions import PREDICTIONS, from_noise, to_noise
