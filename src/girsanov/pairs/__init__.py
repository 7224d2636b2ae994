"""Two processes that share a diffusion coefficient, and the log-weights of their paths and chains."""

__all__ = [
    "AncestralChain",
    "Chain",
    "DiagonalScale",
    "Direction",
    "Drift",
    "EulerChain",
    "FamilyPair",
    "IsotropicScale",
    "Kernel",
    "MatrixScale",
    "Move",
    "Noise",
    "Pair",
    "Scale",
    "ScorePair",
    "SpectralScale",
    "Step",
    "TriangularScale",
    "feynman_kac_log_weights",
    "girsanov_log_weights",
    "scale_of",
]

from girsanov.pairs.ancestral import AncestralChain
from girsanov.pairs.chain import Chain, Direction, EulerChain, Kernel, Move
from girsanov.pairs.pair import Drift, Pair, Step
from girsanov.pairs.paths import Noise, feynman_kac_log_weights, girsanov_log_weights
from girsanov.pairs.scales import (
    DiagonalScale,
    IsotropicScale,
    MatrixScale,
    Scale,
    SpectralScale,
    TriangularScale,
    scale_of,
)
from girsanov.pairs.score_pair import FamilyPair, ScorePair
