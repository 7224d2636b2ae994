"""Closed-form densities, exact under every linear process: oracles of the tests and the Gaussian reference."""

__all__ = [
    "BroadGaussian",
    "Density",
    "DensityScore",
    "Gaussian",
    "GaussianMixture",
    "ScaleMixture",
    "StandardNormal",
    "draw_rows",
]

from girsanov.densities.base import Density, DensityScore
from girsanov.densities.broad import BroadGaussian
from girsanov.densities.gaussian import Gaussian, StandardNormal, draw_rows
from girsanov.densities.mixture import GaussianMixture
from girsanov.densities.scales import ScaleMixture
