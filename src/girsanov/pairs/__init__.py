"""Two processes that share a diffusion coefficient, and the log-weights of their paths and chains."""

__all__ = [
    "HALF",
    "AncestralChain",
    "Chain",
    "Direction",
    "Drift",
    "EulerChain",
    "FamilyPair",
    "GaussianKernel",
    "Guidance",
    "Kernel",
    "MidpointChain",
    "Move",
    "Multistep",
    "Noise",
    "NoisingChain",
    "Pair",
    "Path",
    "ScoreModel",
    "ScorePair",
    "ShortChain",
    "Step",
    "called",
    "euler_log_weights",
]

from girsanov.pairs.ancestral import AncestralChain
from girsanov.pairs.chain import Chain, Direction
from girsanov.pairs.euler import EulerChain
from girsanov.pairs.family import FamilyPair
from girsanov.pairs.midpoint import MidpointChain
from girsanov.pairs.multistep import Multistep
from girsanov.pairs.noising import Guidance, NoisingChain
from girsanov.pairs.pair import Drift, Pair, Step
from girsanov.pairs.paths import Noise, euler_log_weights
from girsanov.pairs.score_model import HALF, ScoreModel, called
from girsanov.pairs.score_pair import ScorePair
from girsanov.pairs.short import ShortChain
from girsanov.pairs.steps import GaussianKernel, Kernel, Move, Path
