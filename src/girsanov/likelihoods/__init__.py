"""What a paper reports: bounds, the density formula, and the probability-flow ODE, each with its error."""

__all__ = ["density", "elbo", "fit_proposal", "ode_log_prob"]

from girsanov.likelihoods.bounds import density, elbo, fit_proposal
from girsanov.likelihoods.ode import ode_log_prob
