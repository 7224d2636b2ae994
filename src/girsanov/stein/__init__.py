"""Score matching with a diffusion matrix, Stein kernels, discrepancies and tests: of plain callables and tensors."""

__all__ = [
    "BFGS",
    "BLIND_SPOTS",
    "DIFFUSIONS",
    "ComparisonResult",
    "Constant",
    "ContinuousFlow",
    "DiffusionMatrix",
    "ExponentialFamilyFit",
    "FiniteSet",
    "FlowMatrix",
    "Function",
    "GeneralisedPosterior",
    "GoodnessOfFitResult",
    "Identity",
    "IncompleteU",
    "InverseLog",
    "InverseMultiquadric",
    "JohnsonFlow",
    "MarkovBootstrap",
    "Matern",
    "MinimumFit",
    "NaturalGradient",
    "ParametricBootstrap",
    "Radial",
    "RadialKernel",
    "ScoreMatching",
    "Sliced",
    "SquaredExponential",
    "SteinBall",
    "Transported",
    "WildBootstrap",
    "as_diffusion",
    "autocorrelation_time",
    "bandwidth_collection",
    "compare_scores",
    "divergence_change",
    "drift_score_matching",
    "entropy_rate",
    "fisher_divergence",
    "fit_exponential_family",
    "fit_flow",
    "flow_score_matching",
    "generalised_score",
    "goodness_of_fit",
    "induced_metric",
    "kernel_stein_discrepancy",
    "loss_change",
    "median_bandwidth",
    "minimum_score_matching",
    "minimum_stein_discrepancy",
    "pointwise_loss",
    "push_forward",
    "riemannian_score_matching",
    "score_matching",
    "score_of_drifts",
    "squared_matrix",
    "stein_thinning",
    "stein_weights",
    "transport",
    "tune_flow",
]

from girsanov.linear import Constant, ContinuousFlow, DiffusionMatrix, FlowMatrix, Function, Identity, Radial
from girsanov.stein.ball import SteinBall
from girsanov.stein.comparison import ComparisonResult, compare_scores
from girsanov.stein.discrepancy import kernel_stein_discrepancy
from girsanov.stein.drifts import drift_score_matching, entropy_rate, score_of_drifts
from girsanov.stein.estimation import (
    BFGS,
    MinimumFit,
    NaturalGradient,
    minimum_score_matching,
    minimum_stein_discrepancy,
)
from girsanov.stein.exponential_family import ExponentialFamilyFit, GeneralisedPosterior, fit_exponential_family
from girsanov.stein.flows import (
    Transported,
    divergence_change,
    flow_score_matching,
    induced_metric,
    loss_change,
    push_forward,
    transport,
)
from girsanov.stein.goodness import BLIND_SPOTS, GoodnessOfFitResult, goodness_of_fit
from girsanov.stein.johnson import JohnsonFlow
from girsanov.stein.kernels import (
    InverseLog,
    InverseMultiquadric,
    Matern,
    RadialKernel,
    SquaredExponential,
    bandwidth_collection,
    median_bandwidth,
)
from girsanov.stein.learned import fit_flow, tune_flow
from girsanov.stein.linear_time import FiniteSet, IncompleteU
from girsanov.stein.matrices import DIFFUSIONS, as_diffusion, generalised_score
from girsanov.stein.nulls import MarkovBootstrap, ParametricBootstrap, WildBootstrap, autocorrelation_time
from girsanov.stein.score_matching import (
    ScoreMatching,
    Sliced,
    fisher_divergence,
    pointwise_loss,
    riemannian_score_matching,
    score_matching,
    squared_matrix,
)
from girsanov.stein.thinning import stein_thinning, stein_weights
