"""What a paper reports: bounds, the density formula, path weights, and the ODE, each with its error."""

__all__ = [
    "Bracket",
    "LevelTest",
    "RandomisedRows",
    "Replicates",
    "ScoreTest",
    "Target",
    "categorical_elbo",
    "chain_bracket",
    "chain_elbo",
    "ddpm_bound",
    "density",
    "difference",
    "difference_curve",
    "elbo",
    "feynman_kac",
    "fit_proposal",
    "importance_bound",
    "importance_weighted",
    "loss_bound",
    "ode_log_prob",
    "path_log_weight",
    "pointwise_information",
    "score_test",
    "short_chain",
    "squared_errors",
    "tune",
]

from girsanov.likelihoods.bounds import Target, density, elbo
from girsanov.likelihoods.ddpm import ddpm_bound
from girsanov.likelihoods.denoising import squared_errors
from girsanov.likelihoods.differences import difference, difference_curve, pointwise_information
from girsanov.likelihoods.discrete import categorical_elbo, importance_weighted
from girsanov.likelihoods.estimator import RandomisedRows, Replicates
from girsanov.likelihoods.losses import loss_bound
from girsanov.likelihoods.ode import ode_log_prob
from girsanov.likelihoods.proposals import fit_proposal
from girsanov.likelihoods.score_test import LevelTest, ScoreTest, score_test
from girsanov.likelihoods.short_chains import short_chain
from girsanov.likelihoods.tune import tune
from girsanov.likelihoods.weights import (
    Bracket,
    chain_bracket,
    chain_elbo,
    feynman_kac,
    importance_bound,
    path_log_weight,
)
