"""Checkpoints: a folder per step, a pointer to the latest, and the way back when one is damaged.

``root/step-000000123/`` holds groups of tensors (``model.safetensors``, ``optimizer.safetensors``,
...), ``state.json`` and ``manifest.json``; ``root/LATEST`` names the newest. Each folder appears
whole or not at all (:mod:`girsanov.files`), the last two are kept, and reading falls back
to the previous one when the newest fails its hashes.
"""

__all__ = ["Checkpoint", "load_latest", "save"]

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from girsanov.files import (
    atomic_directory,
    pack_tensors,
    parse_json,
    parse_tensors,
    read_verified,
    remove_leftovers,
    write_atomic,
)
from girsanov.types import InputError

STATE = "state.json"
POINTER = "LATEST"
FORMAT = 1
KEEP = 2
FOLDER = re.compile(r"step-(\d{9,18})")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint held, after its hashes were verified.

    Attributes:
        step: number of completed steps.
        tensors: groups of named tensors, on the CPU.
        state: the JSON state.
        path: the folder it was read from.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    path: Path


def save(
    root: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of a step, point ``LATEST`` to it, drop the oldest.

    The previous checkpoint is kept, older ones are dropped; those of later steps are dropped too, since
    who saves step s has not gone on from them.

    Args:
        root: the folder of checkpoints, created if missing.
        step: number of completed steps.
        tensors: groups of named tensors; each group becomes ``<group>.safetensors``.
        state: whatever else, as JSON with finite numbers.

    Returns:
        The folder of this checkpoint.

    Raises:
        InputError: if the disk refuses (full, read-only).

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as root:
        ...     path = save(root, 7, {"model": {"weight": torch.ones(2)}}, {"note": "seven"})
        ...     load_latest(root).state
        {'note': 'seven'}
    """
    root = Path(root)
    target = root / f"step-{step:09d}"
    content = json.dumps({"format": FORMAT, "state": dict(state), "step": step}, allow_nan=False)
    try:
        with atomic_directory(target) as folder:
            for group, named in tensors.items():
                (folder / f"{group}.safetensors").write_bytes(pack_tensors(named))
            (folder / STATE).write_text(content)
        write_atomic(root / POINTER, f"{target.name}\n")
        _prune(root, step)
    except OSError as error:
        message = f"cannot write a checkpoint in {root} ({error.strerror or error})"
        raise InputError(f"{message}: free some space or choose another folder") from error
    return target


def load_latest(root: str | Path, *, note: Callable[[str], None] | None = None) -> Checkpoint | None:
    """Read the newest good checkpoint.

    Args:
        root: the folder of checkpoints; it may be missing.
        note: receives one sentence per damaged checkpoint that was passed over; the module's logger
            when omitted.

    Returns:
        The checkpoint, or ``None`` when none was ever written.

    Raises:
        InputError: if there are checkpoints and none is good.
    """
    note = note or logger.warning
    candidates = _candidates(Path(root))
    for folder in candidates:
        try:
            return _read(folder)
        except InputError as error:
            note(f"passing over a damaged checkpoint: {error}")
    if candidates:
        raise InputError(f"no checkpoint in {root} is readable: remove that folder to start the training again")
    return None


def _candidates(root: Path) -> list[Path]:
    """Folders to try, the one that ``LATEST`` names first, then from the newest to the oldest."""
    steps = _steps(root)
    folders = [steps[step] for step in sorted(steps, reverse=True)]
    try:
        name = (root / POINTER).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return folders  # the pointer is a convenience: without it the newest folder is tried first
    return sorted(folders, key=lambda folder: folder.name != name)


def _steps(root: Path) -> dict[int, Path]:
    if not root.is_dir():
        return {}
    matches = ((FOLDER.fullmatch(path.name), path) for path in root.iterdir())
    return {int(match[1]): path for match, path in matches if match and path.is_dir()}


def _read(folder: Path) -> Checkpoint:
    contents = read_verified(folder)
    if STATE not in contents:
        raise InputError(f"{folder / STATE} is missing: restore the folder from a copy")
    outer = parse_json(contents.pop(STATE), str(folder / STATE))
    step, state = outer.get("step"), outer.get("state")
    if outer.get("format") != FORMAT or type(step) is not int or step < 0 or not isinstance(state, dict):
        raise InputError(f"{folder / STATE} is not a state of this version: use the version that wrote it")
    tensors = {}
    for name, data in contents.items():
        if name.endswith(".safetensors"):
            tensors[name.removesuffix(".safetensors")] = parse_tensors(data, str(folder / name))
    return Checkpoint(step, tensors, state, folder)


def _prune(root: Path, step: int) -> None:
    steps = _steps(root)
    kept = sorted((other for other in steps if other <= step), reverse=True)[:KEEP]
    for other, folder in steps.items():
        if other not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    remove_leftovers(root)
