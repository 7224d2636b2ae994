"""Bridges: processes whose drifts are learned in both directions, and the closed forms that they are tested against."""

__all__ = [
    "ClosedBridge",
    "ConditionalUVP",
    "EndPotential",
    "GaussianBridge",
    "MixtureBridge",
    "OneSidedBridge",
    "Pinned",
    "Transition",
    "bures_wasserstein",
    "bw2_uvp",
    "conditional_bw2_uvp",
    "drift_divergence",
    "energy_distance",
    "gaussian_bridge",
    "pinned_path",
    "wasserstein",
]

from girsanov.bridges.closed import ClosedBridge
from girsanov.bridges.gaussian import GaussianBridge, Transition, gaussian_bridge
from girsanov.bridges.metrics import (
    ConditionalUVP,
    bures_wasserstein,
    bw2_uvp,
    conditional_bw2_uvp,
    drift_divergence,
    energy_distance,
    wasserstein,
)
from girsanov.bridges.mixture import EndPotential, MixtureBridge, OneSidedBridge
from girsanov.bridges.reference import Pinned, pinned_path
