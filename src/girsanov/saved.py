r"""Saved models of every kind: a folder with a description, the tensors that fill it, and a manifest; never pickle.

``config.json`` says how every part is built, and ``model.safetensors`` then fills it. The manifest of checksums is what
notices a damaged file: safetensors alone loads most flipped bits silently.
"""

__all__ = ["FILES", "ModelFolder", "fill"]

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from girsanov.files import (
    CARD,
    MANIFEST,
    atomic_directory,
    pack_tensors,
    parse_json,
    parse_tensors,
    read_verified,
    write_atomic,
    write_json,
    write_manifest,
)
from girsanov.types import InputError

CONFIG, TENSORS = FILES = ("config.json", "model.safetensors")


@final
@dataclass(frozen=True)
class ModelFolder:
    """How models of one kind are written and read.

    Args:
        kind: what the folder holds, ``bridge`` for example; it stands in the description.
        format: version of the description.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     place = Path(parent) / "line"
        ...     ModelFolder("line").write(place, {"degree": 1}, {"slope": torch.ones(1)})
        ...     description, tensors = ModelFolder("line").read(place)
        >>> description, tensors
        ({'kind': 'line', 'format': 1, 'degree': 1}, {'slope': tensor([1.])})
    """

    kind: str
    format: int = 1

    def write(
        self,
        folder: Path,
        description: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        card: str = "",
        beside: Callable[[Path], None] | None = None,
    ) -> None:
        """Write a new folder whole.

        Args:
            folder: where; it may exist, empty.
            description: everything but the tensors, as JSON.
            tensors: by name.
            card: what it says of itself to people; none where it is part of something that says it.
            beside: writes more files and folders into the one that it is given.

        Raises:
            InputError: if the folder holds something.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty: choose another folder")
        if folder.exists():
            folder.rmdir()
        with atomic_directory(folder) as parts:
            if beside is not None:
                beside(parts)
            self._fill(parts, description, tensors, card)

    def write_into(
        self, folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor], *, card: str = ""
    ) -> None:
        """Write or replace a model in a folder that holds other files too, the manifest last."""
        (folder / MANIFEST).unlink(missing_ok=True)  # until the new manifest stands, there is no model here
        self._fill(folder, description, tensors, card)
        write_manifest(folder, FILES)

    def _fill(self, folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
        write_json(folder / CONFIG, {"kind": self.kind, "format": self.format, **description}, indent=1)
        write_atomic(folder / TENSORS, pack_tensors(tensors))
        if card:
            write_atomic(folder / CARD, card)

    def read(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Description and tensors of a folder.

        Raises:
            InputError: one sentence, for a folder that is missing, damaged, or of another kind or version.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give the folder of a saved {self.kind}")
        if not (folder / CONFIG).is_file():
            raise InputError(f"{folder}: holds no {self.kind}; give the folder of a saved one")
        files = read_verified(folder)
        description = parse_json(files[CONFIG], f"{folder}/{CONFIG}")
        if not self.is_described(description):
            raise InputError(
                f"{folder}: does not hold a {self.kind} of format {self.format}, which this version of girsanov reads: "
                "give another folder, or make it again with this version"
            )
        return description, parse_tensors(files[TENSORS], f"{folder}/{TENSORS}")

    def is_described(self, description: Mapping[str, Any]) -> bool:
        """Whether a description is of this kind and version."""
        return (description.get("kind"), description.get("format")) == (self.kind, self.format)

    @contextlib.contextmanager
    def described(self, folder: Path) -> Iterator[None]:
        """Errors of a block that builds what a description says, as one sentence about the description."""
        try:
            yield
        except (KeyError, TypeError, RuntimeError) as error:
            sentence = f"{folder}/{CONFIG} does not describe a {self.kind} ({error!r}); copy it again"
            raise InputError(sentence) from error


@torch.no_grad()
def fill(blank: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into the blank ones of the same names.

    Raises:
        KeyError: for a name that only one side has.
    """
    if set(blank) != set(tensors):
        raise KeyError(min(set(blank) ^ set(tensors)))
    for name, tensor in blank.items():
        tensor.copy_(tensors[name])
