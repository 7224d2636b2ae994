"""The folder of a run: what is in it, which files make it complete, and the refusal of folders that are not ours.

``config.json``, ``model.safetensors`` and ``manifest.json`` are the model; ``checkpoints/`` and ``train.jsonl`` its
training; ``test.csv`` the held-out rows' values; ``metrics.json`` the results, written when all of them are there;
``samples.png`` and ``report.html`` are made from these.
"""

__all__ = ["Identity", "RunFolder", "Source"]

import contextlib
import csv
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from girsanov.density_model.storage import MODEL
from girsanov.files import parse_json, read_file, read_json, write_atomic, write_json
from girsanov.types import InputError

#: what a training that failed before its first checkpoint leaves
TRACES = (".lock", "train.jsonl", "flow", "allowance.json")


@dataclass(frozen=True)
class Source:
    """Which rows a model was fitted to, beyond the name of the data.

    Attributes:
        name: as the user gave it.
        limit: number of rows that were kept, or ``None``.
        seed: chose them.
    """

    name: str
    limit: int | None = None
    seed: int = 0

    def chosen(self, n: int) -> Tensor:
        """Which of ``n`` rows, in their order: all of them, or so many at random."""
        if self.limit is None or self.limit >= n:
            return torch.arange(n)
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[: self.limit].sort().values

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class Identity:
    """What two calls must have in common for the second to go on with the run of the first.

    Attributes:
        names: of the data, for people.
        fingerprints: of the encoded data.
        cells: :attr:`girsanov.datasets.Schema.cells` of their schema.
        settings: all of them but ``time_budget``, which may differ.
    """

    names: str
    fingerprints: tuple[str, ...]
    cells: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes the files of one run; every file appears whole.

    Attributes:
        path: the folder.
    """

    path: Path

    def check(self, begun: Identity | None, wanted: Identity) -> None:
        """Refuse to go on with the run of other data or settings.

        Args:
            begun: what the folder holds, if it is a run already.
            wanted: what it is to hold.

        Raises:
            InputError: saying why and what to do.
        """
        if begun is None:
            return
        if begun.fingerprints != wanted.fingerprints:
            raise InputError(f"{self.path} is a run of other data ({begun.names}): choose another --out")
        if begun.cells != wanted.cells:
            raise InputError(f"{self.path} read columns as other lattices or densities: choose another --out")
        for name, value in wanted.settings.items():
            if name != "time_budget" and begun.settings.get(name) != value:
                raise InputError(
                    f"{self.path} was fitted with {name}={begun.settings.get(name)}, not {value}: "
                    "choose another --out, or give the same settings"
                )

    def is_new(self, ours: Sequence[str]) -> bool:
        """Whether the folder is missing or empty, traces of a lock aside.

        Args:
            ours: files and folders of which a run has at least one.

        Raises:
            InputError: if it is a file, or holds what is not of such a run.
        """
        with self.writable():
            if not self.path.exists():
                return True
            if not self.path.is_dir():
                raise InputError(f"{self.path} is a file: choose another --out")
            if any((self.path / name).exists() for name in ours):
                return False
            if any(path.name != ".lock" for path in self.path.iterdir()):
                raise InputError(f"{self.path} holds files that are not of such a run: choose another --out")
        return True

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        """What the file system refuses, as a sentence."""
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write in {self.path} ({error.strerror}): choose another --out") from error

    def record(self) -> dict[str, Any] | None:
        """The model's record, ``None`` before there is a model."""
        path = self.path / "config.json"
        if not path.is_file() or not (self.path / "manifest.json").is_file():
            return None
        description = read_json(path)
        record, ours = description.get("record"), MODEL.is_described(description)
        if not ours or not isinstance(record, dict) or not {"data", "config", "splits"} <= set(record):
            raise InputError(
                f"{path} is not the config.json of a fitted model of this version of girsanov: choose another folder, "
                "or use the version that wrote it"
            )
        return record

    def metrics(self) -> dict[str, Any] | None:
        """The results, ``None`` before there are any."""
        path = self.path / "metrics.json"
        return read_json(path) if path.is_file() else None

    def history(self) -> list[dict[str, Any]]:
        """The lines of ``train.jsonl``."""
        path = self.path / "train.jsonl"
        if not path.is_file():
            return []
        return [parse_json(line, str(path)) for line in read_file(path).splitlines() if line.strip()]

    def values(self) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Row numbers from 0 and per-row values of ``test.csv``, ``None`` where it is missing."""
        path = self.path / "test.csv"
        if not path.is_file():
            return None
        try:
            header, *lines = csv.reader(io.StringIO(read_file(path).decode()))
            columns = torch.tensor([[float(cell) for cell in line] for line in lines], dtype=torch.float64).T
            named = dict(zip(header, columns, strict=True))
            return named.pop("row").long() - 1, named
        except (ValueError, KeyError) as error:
            raise InputError(f"{path} is damaged: remove it and evaluate the run again") from error

    def write_values(self, rows: Tensor, values: Mapping[str, Tensor]) -> None:
        """Write ``test.csv``, its rows counted from 1 as people do."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", *values])
        for row, *cells in zip(rows.tolist(), *(value.tolist() for value in values.values()), strict=True):
            writer.writerow([row + 1, *map(repr, cells)])
        self.write("test.csv", text.getvalue())

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``."""
        write_json(self.path / "metrics.json", metrics, indent=1)

    def write(self, name: str, content: bytes | str) -> None:
        """Write any other file."""
        write_atomic(self.path / name, content)

    def discard_traces(self) -> None:
        """Remove what a fit that was refused before its first checkpoint has left."""
        if not self.path.is_dir() or any(path.name not in TRACES for path in self.path.iterdir()):
            return
        for name in TRACES:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.path.rmdir()
