"""Density models of real data: fit, evaluate, sample, save."""

__all__ = ["Config", "DensityModel", "compare", "fit", "prepare"]

from girsanov.density_model.config import Config
from girsanov.density_model.fit import fit, prepare
from girsanov.density_model.model import DensityModel, compare
