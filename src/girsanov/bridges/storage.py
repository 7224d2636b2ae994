"""Saving and loading learned bridges: ``config.json``, ``model.safetensors`` and a manifest, never pickle."""

__all__ = ["load", "save"]

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from girsanov import processes
from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.building import section_reference
from girsanov.bridges.chain import BridgeChain
from girsanov.bridges.gaussian import GaussianBridge
from girsanov.bridges.halves import Ends, NetworkConfig
from girsanov.bridges.joint import JointConfig
from girsanov.bridges.potentials import FlatPotentials, MixturePotentials, Potentials, QuadraticPotentials
from girsanov.bridges.schrodinger import SchrodingerBridge
from girsanov.densities import Density, Gaussian, GaussianMixture
from girsanov.files import (
    atomic_directory,
    pack_tensors,
    parse_json,
    parse_tensors,
    read_verified,
    write_bytes_atomic,
    write_manifest,
    write_text_atomic,
)
from girsanov.processes import LinearProcess
from girsanov.types import InputError

FORMAT = 1
FILES = ("config.json", "model.safetensors")
SETTINGS = {  # what each reference is made of
    "BrownianMotion": ("sigma",),
    "OrnsteinUhlenbeck": ("beta",),
    "VariancePreserving": ("beta_min", "beta_max"),
    "SubVariancePreserving": ("beta_min", "beta_max"),
    "VarianceExploding": ("sigma_min", "sigma_max"),
}


def save(bridge: SchrodingerBridge, folder: Path) -> None:
    """Write a new folder whole.

    Raises:
        InputError: if the bridge is not fitted, its reference cannot be described, or the folder exists.
    """
    if not len(bridge.chains):
        raise InputError("This bridge is not fitted: there is nothing to save")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: choose another folder")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(bridge).items()}
    text = json.dumps(_describe(bridge), indent=1, allow_nan=False) + "\n"
    if folder.exists():
        folder.rmdir()
    with atomic_directory(folder) as parts:
        write_text_atomic(parts / "config.json", text)
        write_bytes_atomic(parts / "model.safetensors", pack_tensors(tensors))
        write_manifest(parts, FILES)


def load(folder: Path) -> SchrodingerBridge:
    """Read a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a saved bridge")
    files = read_verified(folder)
    description = parse_json(files["config.json"], f"{folder}/config.json")
    if description.get("format") != FORMAT or description.get("kind") != "bridge":
        raise InputError(f"{folder} does not hold a bridge of format {FORMAT}: save it again with this version")
    tensors = parse_tensors(files["model.safetensors"], f"{folder}/model.safetensors")
    try:
        bridge = _build(description)
        expected = _tensors(bridge)
        if set(expected) != set(tensors):
            raise KeyError(min(set(expected) ^ set(tensors)))
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}/config.json does not describe a bridge ({error!r}); copy it again") from error
    return bridge.eval()


def _tensors(bridge: SchrodingerBridge) -> dict[str, torch.Tensor]:
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


def _describe(bridge: SchrodingerBridge) -> dict[str, Any]:
    name = type(bridge.reference).__name__
    if name not in SETTINGS:
        raise InputError(f"A bridge over {name} cannot be saved: use one of {', '.join(SETTINGS)}")
    first = bridge.chains[0]
    assert isinstance(first, BridgeChain)
    return {
        "format": FORMAT,
        "kind": "bridge",
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


def _build(description: dict[str, Any]) -> SchrodingerBridge:
    """The bridge before its tensors are filled in."""
    spec = description["reference"]
    if spec["name"] not in SETTINGS:
        raise KeyError(spec["name"])
    joint = dict(description["joint"])
    joint["reference_weight"] = tuple(joint["reference_weight"])
    bridge = SchrodingerBridge(
        getattr(processes, spec["name"])(**spec["config"]),
        event_shape=description["event_shape"],
        start=description["start"],
        components=description["components"],
        steps=description["steps"],
        network=NetworkConfig(**description["network"]),
        alternating=AlternatingConfig(**description["alternating"]),
        joint=JointConfig(**joint),
    )
    shape = bridge.event_shape
    bridge.times, bridge.history = list(description["times"]), description["history"]
    bridge.prior = None if description["prior"] is None else _blank_density(description["prior"], shape)
    zeros, ones = torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
    for i, entry in enumerate(description["potentials"]):
        process = section_reference(bridge.reference, bridge.times, i)
        bridge.chains.append(
            bridge._chain(process, _blank_potentials(entry, process, shape), Ends(zeros, ones, zeros, ones), 0)
        )
    return bridge


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
