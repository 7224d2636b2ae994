"""Saving and loading trajectories: ``config.json``, ``model.safetensors`` and the bridge's folder, never pickle."""

__all__ = ["TRAJECTORIES", "cells_of", "describe", "parts"]

import dataclasses
from typing import Any

import torch

from girsanov.bridges.alternating import AlternatingConfig
from girsanov.bridges.annotated import AnnotatedCells, Snapshots
from girsanov.bridges.building import start_from_json
from girsanov.bridges.halves import NetworkConfig
from girsanov.bridges.recipe import Recipe
from girsanov.bridges.reference_size import ReferenceSize
from girsanov.saved import ModelFolder

TRAJECTORIES = ModelFolder("set of trajectories")


def describe(times: list[float], size: ReferenceSize, recipe: Recipe, keys: AnnotatedCells) -> dict[str, Any]:
    """Everything but the cells and the bridge, as JSON."""
    settings = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in ("device", "run")}
    settings["size"] = None if recipe.size is None else recipe.size.to_json()
    return {"times": times, "size": size.to_json(), "keys": dataclasses.asdict(keys), "recipe": settings}


def cells_of(snapshots: Snapshots) -> dict[str, torch.Tensor]:
    """The cells of every time, and their weights where they have some."""
    tensors = {f"rows{i}": snapshots.rows[t] for i, t in enumerate(snapshots.times)}
    return tensors | {
        f"weights{i}": snapshots.weights[t] for i, t in enumerate(snapshots.times) if t in snapshots.weights
    }


def parts(
    description: dict[str, Any], tensors: dict[str, torch.Tensor], device: torch.device
) -> tuple[ReferenceSize, Snapshots, Recipe, AnnotatedCells]:
    """What trajectories are made of beside their bridge."""
    settings, times = description["recipe"], [float(t) for t in description["times"]]
    built = {
        "size": None if settings["size"] is None else ReferenceSize.from_json(settings["size"]),
        "start": start_from_json(settings["start"]),
        "network": None if settings["network"] is None else NetworkConfig(**settings["network"]),
        "alternating": AlternatingConfig(**settings["alternating"]),
    }
    recipe = Recipe(**settings | built, device=device, run=None)
    rows = {t: tensors[f"rows{i}"] for i, t in enumerate(times)}
    weights = {t: tensors[f"weights{i}"] for i, t in enumerate(times) if f"weights{i}" in tensors}
    keys = AnnotatedCells(**description["keys"])
    return ReferenceSize.from_json(description["size"]), Snapshots(rows, weights), recipe, keys
