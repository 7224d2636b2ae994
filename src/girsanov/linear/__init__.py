"""A matrix per row and its divergences: one algebra for diffusion coefficients, Gaussian steps and Stein operators."""

__all__ = [
    "Constant",
    "ContinuousFlow",
    "Diagonal",
    "DiffusionMatrix",
    "FlowMatrix",
    "Full",
    "Function",
    "Identity",
    "Isotropic",
    "LinearMap",
    "Radial",
    "Spectral",
    "Triangular",
    "ValueMap",
    "map_of",
]

from girsanov.linear.fields import Constant, DiffusionMatrix, Function, Identity, Radial
from girsanov.linear.inverse_jacobian import ContinuousFlow, FlowMatrix
from girsanov.linear.maps import Diagonal, Full, Isotropic, LinearMap, Spectral, Triangular, ValueMap, map_of
