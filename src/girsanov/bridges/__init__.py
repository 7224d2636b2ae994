"""Bridges: processes whose drifts are learned in both directions, and the closed forms that they are tested against."""

__all__ = [
    "AlternatingConfig",
    "BridgeChain",
    "BridgeNetwork",
    "ClosedBridge",
    "ConditionalUVP",
    "EndPotential",
    "EndRows",
    "FlatPotentials",
    "GaussianBridge",
    "Half",
    "HeldOutError",
    "JointConfig",
    "MixtureBridge",
    "MixturePotentials",
    "MixtureStart",
    "NetworkConfig",
    "OneSidedBridge",
    "Pinned",
    "Potentials",
    "PriorLoss",
    "QuadraticPotentials",
    "ReferenceSize",
    "SchrodingerBridge",
    "Trajectories",
    "Transition",
    "bures_wasserstein",
    "bw2_uvp",
    "conditional_bw2_uvp",
    "cosine_times",
    "drift_divergence",
    "energy_distance",
    "fit_mixture_potential",
    "fit_mixture_potentials",
    "fit_trajectories",
    "gaussian_bridge",
    "pinned_path",
    "prior_loss",
    "wasserstein",
]

from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.cells import fit_trajectories
from girsanov.bridges.chain import BridgeChain, cosine_times
from girsanov.bridges.closed import ClosedBridge
from girsanov.bridges.ends import EndRows
from girsanov.bridges.gaussian import GaussianBridge, Transition, gaussian_bridge
from girsanov.bridges.halves import BridgeNetwork, Half, NetworkConfig
from girsanov.bridges.joint import JointConfig, PriorLoss, prior_loss
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
from girsanov.bridges.potentials import (
    FlatPotentials,
    MixturePotentials,
    MixtureStart,
    Potentials,
    QuadraticPotentials,
    fit_mixture_potential,
    fit_mixture_potentials,
)
from girsanov.bridges.reference import Pinned, pinned_path
from girsanov.bridges.reference_size import ReferenceSize
from girsanov.bridges.schrodinger import SchrodingerBridge
from girsanov.bridges.trajectories import HeldOutError, Trajectories
