"""Saving and loading trajectories: ``config.json``, ``cells.safetensors`` and the bridge's folder, never pickle."""

__all__ = ["load", "save"]

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.annotated import AnnotatedCells, Snapshots
from girsanov.bridges.halves import NetworkConfig
from girsanov.bridges.recipe import Recipe
from girsanov.bridges.reference_size import ReferenceSize
from girsanov.bridges.schrodinger import SchrodingerBridge
from girsanov.bridges.trajectories import Trajectories
from girsanov.files import (
    atomic_directory,
    pack_tensors,
    parse_json,
    parse_tensors,
    read_verified,
    write_bytes_atomic,
    write_text_atomic,
)
from girsanov.types import InputError

FORMAT = 1


def save(fitted: Trajectories, folder: Path) -> None:
    """Write a new folder whole.

    Raises:
        InputError: if the folder exists.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: choose another folder")
    snapshots = fitted._snapshots
    tensors = {f"rows{i}": snapshots.rows[t] for i, t in enumerate(snapshots.times)}
    tensors |= {f"weights{i}": snapshots.weights[t] for i, t in enumerate(snapshots.times) if t in snapshots.weights}
    if folder.exists():
        folder.rmdir()
    with atomic_directory(folder) as parts:
        fitted.bridge.save_pretrained(parts / "bridge")
        write_bytes_atomic(parts / "cells.safetensors", pack_tensors({k: x.contiguous() for k, x in tensors.items()}))
        write_text_atomic(parts / "config.json", json.dumps(_describe(fitted), indent=1, allow_nan=False) + "\n")


def load(folder: Path, device: torch.device) -> Trajectories:
    """Read a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of saved trajectories")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no trajectories: give the folder of saved trajectories")
    files = read_verified(folder)
    description = parse_json(files["config.json"], f"{folder}/config.json")
    if description.get("format") != FORMAT or description.get("kind") != "trajectories":
        raise InputError(f"{folder} does not hold trajectories of format {FORMAT}: save them again with this version")
    tensors = parse_tensors(files["cells.safetensors"], f"{folder}/cells.safetensors")
    bridge = SchrodingerBridge.from_pretrained(folder / "bridge").to(device)
    try:
        return _build(description, tensors, bridge, device)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}/config.json does not describe trajectories ({error!r}); copy it again") from error


def _describe(fitted: Trajectories) -> dict[str, Any]:
    recipe = fitted._recipe
    return {
        "format": FORMAT,
        "kind": "trajectories",
        "times": fitted.times,
        "size": fitted.size.to_json(),
        "keys": dataclasses.asdict(fitted._keys),
        "recipe": {
            "size": None if recipe.size is None else recipe.size.to_json(),
            "start": recipe.start,
            "components": recipe.components,
            "steps": recipe.steps,
            "network": None if recipe.network is None else dataclasses.asdict(recipe.network),
            "alternating": dataclasses.asdict(recipe.alternating),
            "seed": recipe.seed,
            "time_budget": recipe.time_budget,
        },
    }


def _build(
    description: dict[str, Any], tensors: dict[str, torch.Tensor], bridge: SchrodingerBridge, device: torch.device
) -> Trajectories:
    settings, times = description["recipe"], [float(t) for t in description["times"]]
    recipe = Recipe(
        **settings
        | {
            "size": None if settings["size"] is None else ReferenceSize.from_json(settings["size"]),
            "network": None if settings["network"] is None else NetworkConfig(**settings["network"]),
            "alternating": AlternatingConfig(**settings["alternating"]),
            "device": device,
            "run": None,
        }
    )
    rows = {t: tensors[f"rows{i}"] for i, t in enumerate(times)}
    weights = {t: tensors[f"weights{i}"] for i, t in enumerate(times) if f"weights{i}" in tensors}
    keys = AnnotatedCells(**description["keys"])
    return Trajectories(bridge, ReferenceSize.from_json(description["size"]), Snapshots(rows, weights), recipe, keys)
