r"""Saving and loading density models: ``config.json``, ``model.safetensors`` and a manifest of checksums, never pickle.

``config.json`` says how every part is built, and the tensors then fill it. The manifest is what notices a damaged
file: safetensors alone loads most flipped bits silently.
"""

__all__ = ["build", "describe", "load", "save"]

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from girsanov.datasets import Schema
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.density_model.config import make_process
from girsanov.density_model.networks import build_network
from girsanov.files import (
    MANIFEST,
    atomic_directory,
    pack_tensors,
    parse_json,
    parse_tensors,
    read_verified,
    write_bytes_atomic,
    write_manifest,
    write_text_atomic,
)
from girsanov.models import Head, Lattice, LatticeHead, MixtureHead, ResidualHead, ScoreModel
from girsanov.solvers import LogSNRDensity
from girsanov.transforms import TRANSFORMS, Compose, Transform
from girsanov.types import InputError

if TYPE_CHECKING:
    from girsanov.density_model.model import DensityModel

FORMAT = 1
FILES = ("config.json", "model.safetensors")


def describe(model: "DensityModel") -> dict[str, Any]:
    """Everything but the tensors, as JSON."""
    if "network" not in model.record or "config" not in model.record:
        raise InputError("This model was not fitted here and has no settings to save: keep what it was loaded from")
    names = {kind: name for name, kind in TRANSFORMS.items()}
    members = [member for member in model.transforms.transforms if isinstance(member, Transform)]
    head = model.score.head
    return {
        "format": FORMAT,
        "schema": model.schema.to_json(),
        "transforms": [{"name": names[type(member)], "config": member.config()} for member in members],
        "reference": {"event_shape": list(model.reference.event_shape), "rank": len(model.reference.eigenvalues)},
        "score": {
            "process": model.record["config"]["process"],
            "schedule": model.record["config"].get("schedule", "fixed"),
            "predicts": model.score.predicts,
            "log_snr_range": list(model.score.log_snr_range),
            "head": _describe_head(head),
            "broad_share": model.score.broad_share,
            "network": model.record["network"],
        },
        "proposal": None if model.proposal is None else model.proposal.to_json(),
        "record": model.record,
    }


def build(description: dict[str, Any]) -> tuple[Compose, ScoreModel, Schema, LogSNRDensity | None]:
    """The parts of a model, before their tensors are filled in."""
    transforms = Compose([TRANSFORMS[entry["name"]](**entry["config"]) for entry in description["transforms"]])
    shape, rank = description["reference"]["event_shape"], description["reference"]["rank"]
    d = math.prod(shape)
    reference = Gaussian.from_spectrum(torch.zeros(shape), torch.zeros(d, rank), torch.ones(rank))
    spec = description["score"]
    low, high = spec["log_snr_range"]
    span = (low, high)
    head = _build_head(spec["head"], reference, spec["predicts"])
    score = ScoreModel(
        build_network(spec["network"], shape, head),
        make_process(spec["process"], spec.get("schedule", "fixed"), span),
        spec["predicts"],
        reference=reference,
        head=head,
        log_snr_range=span,
        broad_share=bool(spec.get("broad_share", False)),
    )
    proposal = description["proposal"]
    return (
        transforms,
        score,
        Schema.from_json(description["schema"]),
        None if proposal is None else LogSNRDensity.from_json(proposal),
    )


def _describe_head(head: Head | None) -> dict[str, Any]:
    if isinstance(head, LatticeHead):
        return {"name": "lattice", "cells": head.cells}
    if isinstance(head, MixtureHead):
        return {"name": "mixture", "components": len(head.mixture.weights)}
    return {"name": "residual"}


def _build_head(record: dict[str, Any], reference: Gaussian, predicts: str) -> Head:
    """An unfilled head."""
    shape, d = reference.event_shape, reference.event_dim
    if record["name"] == "lattice":
        blank = Lattice(torch.zeros(shape), torch.ones(shape), torch.zeros(*shape, record["cells"]))
        return LatticeHead(reference, predicts, blank)
    if record["name"] == "mixture":
        count = record["components"]
        eye = torch.eye(d).expand(count, d, d)
        return MixtureHead(reference, predicts, GaussianMixture(torch.ones(count), torch.zeros(count, *shape), eye))
    return ResidualHead(reference, predicts)


def save(model: "DensityModel", folder: Path) -> None:
    """Write a new folder whole, or the three files into a run's folder with the manifest last."""
    if not folder.exists():
        with atomic_directory(folder) as parts:
            _write(model, parts)
        return
    (folder / MANIFEST).unlink(missing_ok=True)  # until the new manifest stands, there is no model here
    _write(model, folder)


def _write(model: "DensityModel", folder: Path) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(model).items()}
    write_text_atomic(folder / "config.json", json.dumps(describe(model), indent=1, allow_nan=False) + "\n")
    write_bytes_atomic(folder / "model.safetensors", pack_tensors(tensors))
    write_manifest(folder, FILES)


def load(folder_or_hub_id: str | Path, cls: type["DensityModel"]) -> "DensityModel":
    """Read a folder, or download a repository first."""
    folder = _folder(folder_or_hub_id)
    files = read_verified(folder)
    description = parse_json(files["config.json"], f"{folder}/config.json")
    if description.get("format") != FORMAT:
        raise InputError(f"{folder}: has format {description.get('format')}, this version reads {FORMAT}; upgrade")
    try:
        transforms, score, schema, proposal = build(description)
        model = cls(transforms, score, schema, proposal=proposal, record=description["record"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}/config.json does not describe a model ({error!r}); copy it again") from error
    _fill(model, parse_tensors(files["model.safetensors"], f"{folder}/model.safetensors"), folder)
    return model.eval()


def _tensors(model: "DensityModel") -> dict[str, torch.Tensor]:
    """State without the aliases under which the reference is reached a second time."""
    state = model.state_dict()
    return {name: tensor for name, tensor in state.items() if ".head." not in name or ".reference." not in name}


def _fill(model: "DensityModel", tensors: dict[str, torch.Tensor], folder: Path) -> None:
    expected = _tensors(model)
    if set(expected) != set(tensors):
        odd = sorted(set(expected) ^ set(tensors))[0]
        raise InputError(f"{folder}: model.safetensors does not belong to config.json (tensor {odd}); copy it again")
    model.load_state_dict(tensors, strict=False)


def _folder(folder_or_hub_id: str | Path) -> Path:
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        _require_density(folder)
        return folder
    if folder.exists():
        raise InputError(f"{folder}: is a file; give the folder of a run")
    name = str(folder_or_hub_id)
    near = folder.parent.is_dir() and str(folder.parent) != "."
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or near:
        runs = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())[:8] if near else []
        beside = f" ({folder.parent} holds {', '.join(runs)})" if runs else ""
        raise InputError(f"{folder}: there is no such folder{beside}; give a run's folder or a Hugging Face id")
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        message = f"{name}: there is no such folder; to download a model of this name, install girsanov[diffusers]"
        raise InputError(message) from error
    try:
        return Path(snapshot_download(name, allow_patterns=[*FILES, "manifest.json"]))
    except Exception as error:
        reason = " ".join(str(error).split())[:160].rstrip(".")
        message = f"{name}: there is no such folder, and no such model can be downloaded ({reason}); check the name"
        raise InputError(message) from error


def _require_density(folder: Path) -> None:
    """Refuse what is a folder, but of no density model, in a sentence that says what it is."""
    if (folder / "data.json").is_file():
        raise InputError(f"{folder}: is a run of girsanov bridge, which moves rows: use girsanov translate")
    if not (folder / MANIFEST).is_file():
        begun = any((folder / name).exists() for name in ("checkpoints", "train.jsonl", "flow"))
        advice = "its fit has not ended: run its girsanov fit command again" if begun else "give the folder of a run"
        raise InputError(f"{folder}: holds no model; {advice}")
