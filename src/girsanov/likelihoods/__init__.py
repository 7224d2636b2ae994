"""What a paper reports: bounds, the density formula, path weights, and the ODE, each with its error."""

__all__ = [
    "Bracket",
    "chain_bracket",
    "chain_elbo",
    "density",
    "elbo",
    "feynman_kac",
    "fit_proposal",
    "importance_bound",
    "ode_log_prob",
    "path_log_weight",
]

from girsanov.likelihoods.bounds import density, elbo, fit_proposal
from girsanov.likelihoods.ode import ode_log_prob
from girsanov.likelihoods.weights import (
    Bracket,
    chain_bracket,
    chain_elbo,
    feynman_kac,
    importance_bound,
    path_log_weight,
)
