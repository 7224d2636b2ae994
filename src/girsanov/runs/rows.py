"""The rows of a run, found again: data are read by name, encoded by the model's schema and recognised by their hash."""

__all__ = ["Rows", "Selection", "all_rows", "other_rows", "parts_of", "rows_of", "select", "tested_rows"]

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from girsanov.datasets import Data, Splits, fingerprint, labelled, load, read
from girsanov.datasets.notes import few_rows
from girsanov.datasets.schema import Reading
from girsanov.density_model import DensityModel
from girsanov.runs.folder import Source
from girsanov.types import InputError, State


@dataclass(frozen=True)
class Rows:
    """Rows as a model's schema encodes them, and which rows of their source they are.

    Attributes:
        data: the rows, with their classes where they have some.
        index: shape ``n``.
        described: what they are, for people.
        refused: what is wrong with the rows of the source that the model cannot have, by their numbers.
        files: names of the files that the rows of the source were, where each was one.
        notes: sentences about how the source was read.
        among: the numbers that are asked about, refused rows included; default all from the first.
    """

    data: Data
    index: Tensor
    described: str
    refused: Mapping[int, str] = field(default_factory=dict)
    files: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    among: range | None = None

    @property
    def x(self) -> State:
        """The encoded rows, shape ``n *event_shape``."""
        return self.data.x

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.data)

    def __getitem__(self, index: slice | Tensor) -> "Rows":
        """Some of the rows."""
        return dataclasses.replace(self, data=self.data[index], index=self.index[index])

    def blocks(self, size: int) -> Iterator[tuple[slice, range]]:
        """Where at most ``size`` rows each stand among these, and the numbers from theirs to the next ones'.

        Refused rows are among the numbers; where there are no others, one block is empty.
        """
        begin, numbers = 0, self.numbers
        for start in range(0, max(len(self), 1), size):
            part = slice(start, min(start + size, len(self)))
            end = numbers.index(int(self.index[part.stop - 1])) + 1 if part.stop < len(self) else len(numbers)
            yield part, numbers[begin:end]
            begin = end

    @property
    def numbers(self) -> range:
        """The numbers that are asked about, refused rows included."""
        return range(len(self) + len(self.refused)) if self.among is None else self.among

    def shard(self, first: int, count: int) -> tuple["Rows", Tensor]:
        """Every so many-th row from number ``first`` on, refused ones included, and where the others stand in these."""
        kept = (self.index % count == first).nonzero()[:, 0]
        refused = {row: sentence for row, sentence in self.refused.items() if row % count == first}
        return dataclasses.replace(self[kept], refused=refused, among=self.numbers[first::count]), kept

    def first(self, limit: int | None) -> "Rows":
        """The first ``limit`` rows, refused ones included."""
        if limit is None or limit >= len(self) + len(self.refused):
            return self
        count = int((self.index < limit).sum()) if self.refused else limit
        refused = {row: sentence for row, sentence in self.refused.items() if row < limit}
        return dataclasses.replace(self[:count], described=f"the first {limit:,} of {self.described}", refused=refused)


@dataclass(frozen=True)
class Selection:
    """Data for a fit and where they came from.

    Attributes:
        data: the rows.
        source: where they came from.
        index: which rows of the source they are, shape ``n``.
    """

    data: Data
    source: Source
    index: Tensor


def select(source: Source, **reading: Unpack[Reading]) -> Selection:
    """Read and check data for a fit; with a limit, keep a random choice of rows, in their order.

    Args:
        source: which rows.
        **reading: what becomes of columns, see :func:`girsanov.datasets.load`.

    Raises:
        InputError: one sentence, for everything that can be wrong with the data.

    Example:
        >>> chosen = select(Source("iris", limit=50))
        >>> chosen.data.x.shape, chosen.index[:3].tolist() == sorted(chosen.index[:3].tolist())
        (torch.Size([50, 4]), True)
    """
    data = load(source.name, **reading)
    index = source.chosen(len(data.x))
    border = None if data.n_train is None else int((index < data.n_train).sum())
    codes = None if data.codes is None else data.codes[index]
    border = border if border and border < len(index) else None
    schema = data.schema
    few = tuple(note for note in few_rows(len(index), data.x[0].numel()) if len(index) < len(data.x))
    schema = dataclasses.replace(schema, notes=(*schema.notes, *few)) if few else schema
    chosen = dataclasses.replace(data, x=data.x[index], codes=codes, n_train=border, schema=schema)
    return Selection(chosen.of_present_classes(), source, index)


def parts_of(model: DensityModel, advice: str) -> dict[str, Rows]:
    """The ``train``, ``validation`` and ``test`` rows of the data that a model was fitted to.

    Raises:
        InputError: if the data are gone or have changed, with the advice.
    """
    name, splits = _source(model).name, Splits.from_json(model.record["splits"])
    found = _encoded(model, name)
    index = _chosen(model, found)
    if index is None:
        raise InputError(f"{name} has changed since the fit, so which of its rows were held out is unknown: {advice}")
    return {part: found[index[getattr(splits, part)]] for part in ("train", "validation", "test")}


def tested_rows(model: DensityModel) -> Rows:
    """The held-out rows of the data that a model was fitted to.

    Raises:
        InputError: if the data are gone or have changed.
    """
    return _held_out(parts_of(model, "give DATA")["test"])


def rows_of(model: DensityModel, name: str) -> Rows:
    """Rows to evaluate: all rows of other data, the held-out ones of the data that the model was fitted to.

    Raises:
        InputError: one sentence, for everything that can be wrong with the data.
    """
    if "data" not in model.record:
        return _encoded(model, name)
    found = _encoded(model, name)
    index = _chosen(model, found)
    return found if index is None else _held_out(found[index[Splits.from_json(model.record["splits"]).test]])


def all_rows(model: DensityModel, name: str, *, each: bool = False) -> Rows:
    """All rows of a source, encoded by the model's schema.

    Args:
        model: knows the schema.
        name: of the source.
        each: judge every row by itself: those that the model cannot have are ``refused`` and not in ``x``.

    Raises:
        InputError: one sentence, for everything that can be wrong with the data, or with any row unless ``each``.
    """
    return _encoded(model, name, each=each)


def other_rows(model: DensityModel, name: str, *, each: bool = False) -> Rows:
    """All rows of a source that is not the one that the model was fitted to.

    Args:
        model: knows the schema.
        name: of the source.
        each: see :func:`all_rows`.

    Raises:
        InputError: for the model's own data, else as :func:`all_rows`.
    """
    found = _encoded(model, name, each=each)
    if not found.refused and _chosen(model, found) is not None:
        raise InputError(
            f"{name} holds the very rows that the model was fitted to, which look more usual than they are: give rows "
            "that the fit has not seen"
        )
    return found


def _encoded(model: DensityModel, name: str, *, each: bool = False) -> Rows:
    raw = read(name)
    x, kept, refused = model.schema.encode_each(raw) if each else (model.schema.encode(raw), np.arange(len(raw)), {})
    data = labelled(x, raw, model.schema, kept)
    return Rows(data, torch.from_numpy(kept), f"the rows of {name}", refused, raw.files, raw.notes)


def _source(model: DensityModel) -> Source:
    record = model.record.get("source") or {"name": model.record["data"]["name"]}
    return Source(**record)


def _chosen(model: DensityModel, found: Rows) -> Tensor | None:
    """Which rows of a source the model's fit chose; ``None`` where it was fitted to others."""
    index = _source(model).chosen(len(found))
    return index if fingerprint(found.data.x[index]) == model.record["data"]["fingerprint"] else None


def _held_out(rows: Rows) -> Rows:
    return dataclasses.replace(rows, described=f"the held-out {rows.described.removeprefix('the ')}")
