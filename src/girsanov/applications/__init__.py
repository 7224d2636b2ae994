"""What a trained score is good for beside its likelihood, one module each."""

__all__ = [
    "Annealing",
    "Anomalies",
    "Change",
    "Classification",
    "DiffusionClassifier",
    "EnergyModel",
    "GaussianScreen",
    "LogNormaliser",
    "Novelty",
    "TiltedGaussian",
    "TokenEstimates",
    "TokenModel",
    "density_regulariser",
    "find_anomalies",
    "fit_energy",
    "fit_tokens",
    "gan_optimum",
    "log_normaliser",
    "odd_columns",
    "token_log_prob",
]

from girsanov.applications.annealing import Annealing, LogNormaliser, log_normaliser
from girsanov.applications.anomalies import Anomalies, Change, find_anomalies, odd_columns
from girsanov.applications.classifier import Classification, DiffusionClassifier
from girsanov.applications.energy import EnergyModel, TiltedGaussian, fit_energy
from girsanov.applications.novelty import Novelty
from girsanov.applications.regulariser import density_regulariser, gan_optimum
from girsanov.applications.screen import GaussianScreen
from girsanov.applications.tokens import TokenEstimates, TokenModel, fit_tokens, token_log_prob
