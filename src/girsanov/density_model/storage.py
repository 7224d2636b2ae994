r"""Saving and loading density models: ``config.json``, ``model.safetensors`` and a manifest of checksums, never pickle.

``config.json`` says how every part is built, and the tensors then fill it. The manifest is what notices a damaged
file: safetensors alone loads most flipped bits silently.
"""

__all__ = ["MODEL", "build", "describe", "measured", "model_folder", "own_tensors"]

import contextlib
import math
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from girsanov.datasets import Schema
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.density_model.conditions import Conditioning
from girsanov.density_model.mixed import Mixed, build_transforms, describe_transforms
from girsanov.density_model.networks import Architecture, build_network, build_process
from girsanov.encoding import Encoding
from girsanov.files import MANIFEST, read_json
from girsanov.hub import Download, saved_folder
from girsanov.networks import CellHistogram, Head, LatticeHead, LevelHead, LevelPrior, MixtureHead, ResidualHead
from girsanov.pairs import ScoreModel
from girsanov.processes import LinearProcess
from girsanov.saved import ModelFolder
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError

MODEL = ModelFolder("density model", format=2)


def describe(
    encoding: Encoding,
    score: ScoreModel,
    *,
    proposal: LogSNRDensity | None,
    conditioning: Conditioning,
    architecture: Architecture | None,
    record: dict[str, Any],
    mixed: Mixed | None,
) -> dict[str, Any]:
    """Everything of a density model but the tensors, as JSON."""
    built, reference = architecture, score.reference
    assert reference is not None
    if built is None:
        raise InputError("This model was not fitted here and has no settings to save: keep what it was loaded from")
    return {
        "schema": encoding.schema.to_json(),
        "transforms": describe_transforms(encoding),
        "reference": {"event_shape": list(reference.event_shape), "rank": len(reference.eigenvalues)},
        "score": {
            "model": built.model,
            "process": dict(built.process),
            "predicts": score.predicts,
            "log_snr_range": list(score.log_snr_range),
            "head": _describe_head(score.head),
            "broad_share": score.broad_share,
            "network": dict(built.network),
        },
        "proposal": None if proposal is None else proposal.to_json(),
        "conditioning": conditioning.to_json(),
        "record": record,
        "mixed": None if mixed is None else mixed.describe(),
    }


def build(description: dict[str, Any], network: Any = None, process: LinearProcess | None = None) -> dict[str, Any]:
    """The arguments of a density model, before their tensors are filled in.

    Args:
        description: as :func:`describe` returns it.
        network: where it has one of a user's own, that or what makes it.
        process: where it has one of a user's own, that.
    """
    schema, mixed = Schema.from_json(description["schema"]), description.get("mixed")
    shape, rank = description["reference"]["event_shape"], description["reference"]["rank"]
    d = math.prod(shape)
    reference = Gaussian.from_spectrum(torch.zeros(shape), torch.zeros(d, rank), torch.ones(rank))
    spec = description["score"]
    built = Architecture(spec["network"], spec["process"], spec["model"])
    low, high = spec["log_snr_range"]
    head = _build_head(spec["head"], reference, spec["predicts"])
    score = ScoreModel(
        build_network(built.network, shape, head, given=network),
        build_process(built, (low, high), process),
        spec["predicts"],
        reference=reference,
        head=head,
        log_snr_range=(low, high),
        broad_share=spec["broad_share"],
    )
    proposal = description["proposal"]
    return {
        "encoding": Encoding(schema, build_transforms(description["transforms"])),
        "score": score,
        "proposal": None if proposal is None else LogSNRDensity.from_json(proposal),
        "conditioning": Conditioning.from_json(description["conditioning"]),
        "architecture": built,
        "record": description["record"],
        "mixed": None if mixed is None else Mixed.build(mixed, schema),
    }


def _describe_head(head: Head | None) -> dict[str, Any]:
    if isinstance(head, LatticeHead):
        return {"name": "lattice", "cells": head.cells}
    if isinstance(head, LevelHead):
        return {"name": "levels", "atoms": len(head.atoms), "gaussians": len(head.means)}
    if isinstance(head, MixtureHead):
        return {"name": "mixture", "components": len(head.mixture.weights)}
    return {"name": "residual"}


def _build_head(record: dict[str, Any], reference: Gaussian, predicts: str) -> Head:
    """An unfilled head."""
    shape, d = reference.event_shape, reference.event_dim
    if record["name"] == "lattice":
        blank = CellHistogram(torch.zeros(shape), torch.ones(shape), torch.zeros(*shape, record["cells"]))
        return LatticeHead(reference, predicts, blank)
    if record["name"] == "levels":
        a, c = record["atoms"], record["gaussians"]
        blank = LevelPrior(
            torch.zeros(shape), 1.0, torch.zeros(a), torch.zeros(c), torch.ones(c), torch.zeros(a + c, *shape)
        )
        return LevelHead(reference, predicts, blank)
    if record["name"] == "mixture":
        count = record["components"]
        eye = torch.eye(d).expand(count, d, d)
        return MixtureHead(reference, predicts, GaussianMixture(torch.ones(count), torch.zeros(count, *shape), eye))
    return ResidualHead(reference, predicts)


def own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """State without the aliases under which the reference is reached a second time."""
    state = model.state_dict()
    return {name: tensor for name, tensor in state.items() if ".head." not in name or ".reference." not in name}


def model_folder(folder_or_hub_id: str | Path, **download: Unpack[Download]) -> Path:
    """A folder, or the download of a Hugging Face repository.

    Raises:
        InputError: one sentence, for what is neither, or holds something else.
    """
    folder = saved_folder(folder_or_hub_id, MODEL.kind, **download)
    _require_density(folder)
    return folder


def measured(folder: Path) -> dict[str, Any]:
    """What a run has measured on its held-out rows, for the record; nothing elsewhere."""
    with contextlib.suppress(InputError, KeyError):
        return {"evaluations": read_json(folder / "metrics.json")["test"]}
    return {}


def _require_density(folder: Path) -> None:
    """Refuse what is a folder, but of no density model, in a sentence that says what it is."""
    if (folder / "data.json").is_file():
        raise InputError(f"{folder}: is a run of girsanov bridge, which moves rows: use girsanov translate")
    if not (folder / MANIFEST).is_file():
        begun = any((folder / name).exists() for name in ("checkpoints", "train.jsonl", "flow"))
        advice = "its fit has not ended: run its girsanov fit command again" if begun else "give the folder of a run"
        raise InputError(f"{folder}: holds no model; {advice}")
