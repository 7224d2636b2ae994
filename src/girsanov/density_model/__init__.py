"""Density models of real data: fit, evaluate, sample, save."""

__all__ = [
    "Config",
    "ContinuousFlowConfig",
    "DensityModel",
    "FitConfig",
    "certify",
    "compare",
    "fit",
    "prepare",
    "weighted_elbo",
    "weighted_log_prob",
]

from girsanov.density_model.certificate import certify
from girsanov.density_model.comparison import compare
from girsanov.density_model.config import Config, ContinuousFlowConfig, FitConfig
from girsanov.density_model.fit import fit, prepare
from girsanov.density_model.model import DensityModel
from girsanov.density_model.weighted import weighted_elbo, weighted_log_prob
