"""Saving and loading learned bridges: ``config.json``, ``model.safetensors`` and a manifest, never pickle."""

__all__ = ["BRIDGE", "blank_prior", "blank_sections", "bridge_tensors", "describe", "settings"]

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from girsanov import processes
from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.building import Start, section_reference
from girsanov.bridges.chain import BridgeChain
from girsanov.bridges.gaussian import GaussianBridge
from girsanov.bridges.halves import Ends, NetworkConfig
from girsanov.bridges.joint import JointConfig
from girsanov.bridges.potentials import FlatPotentials, MixturePotentials, Potentials, QuadraticPotentials
from girsanov.densities import Density, Gaussian, GaussianMixture
from girsanov.processes import LinearProcess
from girsanov.saved import ModelFolder
from girsanov.types import InputError

BRIDGE = ModelFolder("bridge")
SETTINGS = {  # what each reference is made of
    "BrownianMotion": ("sigma",),
    "OrnsteinUhlenbeck": ("beta",),
    "VariancePreserving": ("beta_min", "beta_max"),
    "SubVariancePreserving": ("beta_min", "beta_max"),
    "VarianceExploding": ("sigma_min", "sigma_max"),
}


class Described(Protocol):
    """What is saved of a bridge."""

    reference: LinearProcess
    event_shape: torch.Size
    start: Start | None
    components: int
    steps: int
    network: NetworkConfig
    alternating: AlternatingConfig
    joint: JointConfig
    times: list[float]
    prior: Density | None
    history: list[dict[str, Any]]
    chains: nn.ModuleList


def bridge_tensors(bridge: Described) -> dict[str, torch.Tensor]:
    """All tensors by name: networks and scales once, potentials of each section, the prior."""
    found: dict[str, torch.Tensor] = {}
    for i, chain in enumerate(bridge.chains):
        assert isinstance(chain, BridgeChain)
        state = chain.state_dict(keep_vars=False)
        found |= {f"chain{i}.{name}": tensor for name, tensor in state.items() if not name.startswith("prior.")}
        found |= {f"potentials{i}.{k}": v for k, v in chain.forward_half.potentials.state_dict().items()}
    if bridge.prior is not None:
        found |= {f"prior.{name}": tensor for name, tensor in bridge.prior.state_dict().items()}
    return found


def describe(bridge: Described) -> dict[str, Any]:
    """Everything but the tensors, as JSON.

    Raises:
        InputError: if the bridge is not fitted, or its reference or prior cannot be described.
    """
    if not len(bridge.chains):
        raise InputError("This bridge is not fitted: there is nothing to save")
    name = type(bridge.reference).__name__
    if name not in SETTINGS:
        raise InputError(f"A bridge over {name} cannot be saved: use one of {', '.join(SETTINGS)}")
    first = bridge.chains[0]
    assert isinstance(first, BridgeChain)
    return {
        "reference": {"name": name, "config": {key: getattr(bridge.reference, key) for key in SETTINGS[name]}},
        "event_shape": list(bridge.event_shape),
        "start": bridge.start,
        "components": bridge.components,
        "steps": bridge.steps,
        "network": dataclasses.asdict(bridge.network),
        "alternating": dataclasses.asdict(bridge.alternating),
        "joint": dataclasses.asdict(bridge.joint),
        "times": bridge.times,
        "prior": None if bridge.prior is None else _describe_density(bridge.prior),
        "potentials": [_describe_potentials(chain) for chain in bridge.chains],
        "history": bridge.history,
    }


def _describe_potentials(chain: Any) -> dict[str, Any]:
    potentials = chain.forward_half.potentials
    if isinstance(potentials, MixturePotentials):
        laws = {"start": _describe_density(potentials.start), "end": _describe_density(potentials.end)}
        return {"name": "mixture", **laws}
    return {"name": "quadratic" if isinstance(potentials, QuadraticPotentials) else "flat"}


def _describe_density(law: Density) -> dict[str, Any]:
    if isinstance(law, Gaussian):
        rank = -1 if law.basis is None else len(law.eigenvalues)
        return {"name": "gaussian", "rank": rank}
    if isinstance(law, GaussianMixture):
        return {"name": "mixture", "components": len(law.weights), "full": law.bases is not None}
    raise InputError(f"A prior of type {type(law).__name__} cannot be saved: use a Gaussian or a GaussianMixture")


def settings(description: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a bridge."""
    spec = description["reference"]
    if spec["name"] not in SETTINGS:
        raise KeyError(spec["name"])
    joint = dict(description["joint"])
    joint["reference_weight"] = tuple(joint["reference_weight"])
    return {
        "reference": getattr(processes, spec["name"])(**spec["config"]),
        "event_shape": description["event_shape"],
        "start": description["start"],
        "components": description["components"],
        "steps": description["steps"],
        "network": NetworkConfig(**description["network"]),
        "alternating": AlternatingConfig(**description["alternating"]),
        "joint": JointConfig(**joint),
    }


def blank_prior(description: dict[str, Any], shape: torch.Size) -> Density | None:
    """The prior before its tensors are filled in."""
    return None if description["prior"] is None else _blank_density(description["prior"], shape)


def blank_sections(
    description: dict[str, Any], reference: LinearProcess, shape: torch.Size
) -> Iterator[tuple[LinearProcess, Potentials, Ends]]:
    """What each section's chain is made of, before its tensors are filled in."""
    zeros, ones = torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
    for i, entry in enumerate(description["potentials"]):
        process = section_reference(reference, list(description["times"]), i)
        yield process, _blank_potentials(entry, process, shape), Ends(zeros, ones, zeros, ones)


def _blank_potentials(entry: dict[str, Any], process: LinearProcess, shape: torch.Size) -> Potentials:
    if entry["name"] == "flat":
        return FlatPotentials()
    if entry["name"] == "quadratic":
        standard = Gaussian(torch.zeros(shape, dtype=torch.float64), torch.eye(shape.numel(), dtype=torch.float64))
        return QuadraticPotentials(GaussianBridge(process, standard, standard))
    start, end = (_blank_density(entry[name], shape) for name in ("start", "end"))
    assert isinstance(start, GaussianMixture)
    assert isinstance(end, GaussianMixture)
    return MixturePotentials(process, start, end)


def _blank_density(entry: dict[str, Any], shape: torch.Size) -> Density:
    d = shape.numel()
    if entry["name"] == "gaussian":
        rank = entry["rank"]
        basis = None if rank < 0 else torch.zeros(d, rank)
        return Gaussian.from_spectrum(torch.zeros(shape), basis, torch.ones(d if rank < 0 else rank))
    count = entry["components"]
    covariances = torch.eye(d).expand(count, d, d) if entry["full"] else torch.ones(count, *shape)
    return GaussianMixture(torch.ones(count), torch.zeros(count, *shape), covariances)
