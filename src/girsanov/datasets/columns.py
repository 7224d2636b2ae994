"""What becomes of each column of a table: encoded, or dropped and still checked in every new row.

A rule is fitted once and then applied to rows it has not seen. Each knows its column's name, the
encoded dimensions it yields and the errors it can raise. A dropped constant, copy or sum is checked too:
a row that breaks it has probability zero under the data the model was fitted to, and no number
computed from the other columns would say so.
"""

__all__ = [
    "Combination",
    "Constant",
    "Copy",
    "Numeric",
    "Omitted",
    "OneHot",
    "Rule",
    "on_lattice",
    "rule_from_json",
    "rule_to_json",
]

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np

from girsanov.datasets.frames import is_number, spelled
from girsanov.datasets.lattice import Lattice, spoken
from girsanov.datasets.refusals import refuse

SHOWN_TERMS = 8


class Kept(ABC):
    """A column that every row has.

    Attributes:
        name: of the column.
    """

    name: str

    @abstractmethod
    def encode(self, column: np.ndarray, source: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The encoded dimensions, shape ``n dimensions``.

        Args:
            column: its cells, shape ``n``.
            source: how errors call the rows.
            columns: all columns.

        Raises:
            InputError: for a cell that the fitted data could not hold, naming row, column, value and why.
        """

    def dimensions(self) -> list[tuple[str, Lattice]]:
        """Name and lattice of each encoded dimension."""
        return []

    @abstractmethod
    def decode(self, block: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The column from its encoded dimensions, ``n dimensions``, or from the others, decoded."""


@dataclass(frozen=True)
class Numeric(Kept):
    """A number, kept; on a lattice if the column is discrete (``lattice.step`` 0 if continuous).

    Attributes:
        name: of the column.
        lattice: where its values lie.
        seen: the least and the largest discrete value of the fitted data, which nothing that is drawn leaves; new
            rows may. ``None`` where nothing was seen.
    """

    name: str
    lattice: Lattice = field(default_factory=Lattice)
    seen: tuple[float, float] | None = None

    @classmethod
    def fit(cls, name: str, column: np.ndarray, lattice: Lattice) -> "Numeric":
        """The rule of a column, with the range of its discrete values."""
        if not lattice.step:
            return cls(name, lattice)
        low, high = lattice.snap(np.array([column.min(), column.max()], dtype=np.float64)).tolist()
        return cls(name, lattice, (low, high))

    def encode(self, column: np.ndarray, source: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        values = _numbers(column, self.name, source)
        return on_lattice(values, self.lattice, self.name, source)[:, None]

    def dimensions(self) -> list[tuple[str, Lattice]]:
        return [(self.name, self.lattice)]

    def decode(self, block: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        return _integers(self.nearest(block[:, 0]), self.lattice.whole)

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """The nearest values that the source could hold, any shape."""
        snapped = self.lattice.snap(values)
        return snapped if self.seen is None else np.clip(snapped, *self.seen)


@dataclass(frozen=True)
class OneHot(Kept):
    """Text, encoded as one 0/1 dimension per level."""

    name: str
    levels: tuple[str, ...]

    def encode(self, column: np.ndarray, source: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        if set(self.levels) <= {"False", "True"} and column.dtype != object and np.isin(column, (0, 1)).all():
            column = np.where(column != 0, "True", "False").astype(object)  # truth values, which readers make numbers
        texts = _texts(column)
        position = {level: k for k, level in enumerate(self.levels)}
        codes = np.array([position.get(text, -1) for text in texts])
        known = ", ".join(self.levels[:8]) + (", ..." if len(self.levels) > 8 else "")
        refuse(
            codes < 0,
            source,
            lambda i: (
                f"column {self.name!r}: the level {texts[i]!r} was not in the data the model was fitted to (it knows "
                f"{known}); remove such rows or fit again with them"
            ),
        )
        return np.eye(len(self.levels))[codes]

    def dimensions(self) -> list[tuple[str, Lattice]]:
        return [(f"{self.name}={level}", Lattice(1.0, 0.0, 1e-3)) for level in self.levels]

    def decode(self, block: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.array(self.levels, dtype=object)[block.argmax(1)]


class Dropped(Kept):
    """A column without dimensions of its own, which every row must have as the fitted data had it."""

    def encode(self, column: np.ndarray, source: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        refuse(
            self._wrong(column, source, columns),
            source,
            lambda i: (
                f"column {self.name!r}: {column[i]!s} {self._verdict()} the data the model was fitted to; remove such "
                "rows or fit again with them"
            ),
        )
        return np.empty((len(column), 0))

    @abstractmethod
    def _wrong(self, column: np.ndarray, source: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which rows break the rule, shape ``n``."""

    def _verdict(self) -> str:
        return f"is not {self}, as in"


@dataclass(frozen=True)
class Constant(Dropped):
    """A column of one value."""

    name: str
    value: float | str

    def decode(self, block: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        if isinstance(self.value, str):
            return np.full(len(block), self.value, dtype=object)
        return _integers(np.full(len(block), self.value), self.value % 1 == 0)

    def _wrong(self, column: np.ndarray, source: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        if isinstance(self.value, str):
            return np.array([text != self.value for text in _texts(column)])
        return np.abs(_numbers(column, self.name, source) - self.value) > 1e-6 * abs(self.value)

    def _verdict(self) -> str:
        return f"differs from {self.value!s}, the only value in"


@dataclass(frozen=True)
class Copy(Dropped):
    """A column that a text column determines.

    Attributes:
        name: of the column.
        twin: the text.
        values: what stands beside each level of the twin.
    """

    name: str
    twin: str
    values: tuple[tuple[str, float | str], ...]

    def __str__(self) -> str:
        same = all(level == value for level, value in self.values)
        return f"the same as {self.twin!r}" if same else f"what {self.twin!r} determines"

    def decode(self, block: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        own = dict(self.values)
        found = np.array([own[twin] for twin in columns[self.twin]], dtype=float if self._numeric else object)
        return _integers(found, self._numeric and all(float(value) % 1 == 0 for value in own.values()))

    def _wrong(self, column: np.ndarray, source: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        own = dict(self.values)
        cells: Any = _numbers(column, self.name, source) if self._numeric else np.array(_texts(column), dtype=object)
        pairs = zip(_texts(columns[self.twin]), cells, strict=True)  # an unknown level is its own column's fault
        expected = np.array([own.get(twin, cell) for twin, cell in pairs], dtype=cells.dtype)
        return np.abs(cells - expected) > 1e-6 * np.abs(expected) if self._numeric else cells != expected

    @property
    def _numeric(self) -> bool:
        return not isinstance(self.values[0][1], str)


@dataclass(frozen=True)
class Combination(Dropped):
    """A column equal to ``intercept + sum(slope * column)`` over its terms.

    Attributes:
        name: of the column.
        terms: names and slopes of the columns that it is a sum of.
        intercept: what is added.
        tolerance: how far a row may be from the sum.
        relative: and so much of the sizes of the terms.
        lattice: of the column, to which sums of drawn columns are rounded.
        seen: the least and the largest value of a discrete column in the fitted data, ``None`` of others.
    """

    name: str
    terms: tuple[tuple[str, float], ...]
    intercept: float = 0.0
    tolerance: float = 0.0
    relative: float = 0.0
    lattice: Lattice = field(default_factory=Lattice)
    seen: tuple[float, float] | None = None

    def __str__(self) -> str:
        if len(self.terms) == 1 and self.terms[0][1] == 1.0 and self.intercept == 0.0:
            return f"the same as {self.terms[0][0]!r}"
        text = f"{self.intercept:.6g}" if self.intercept or not self.terms else ""
        for name, slope in self.terms[:SHOWN_TERMS]:
            sign = (" - " if slope < 0 else " + ") if text else ("-" if slope < 0 else "")
            factor = "" if abs(slope) == 1.0 else f"{abs(slope):.6g} * "
            text += f"{sign}{factor}{name!r}"
        more = len(self.terms) - SHOWN_TERMS
        return text + (f" + {more} more" if more > 0 else "")

    def decode(self, block: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        total = np.full(len(block), self.intercept)
        for name, slope in self.terms:
            total = total + slope * columns[name]
        counts = all(columns[name].dtype.kind == "i" and slope % 1 == 0 for name, slope in self.terms)
        if self.lattice.binned:
            return _integers(total, counts and self.intercept % 1 == 0)
        return _integers(self.lattice.snap(total), self.lattice.whole or (counts and self.intercept % 1 == 0))

    def _wrong(self, column: np.ndarray, source: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        values = _numbers(column, self.name, source)
        parts = [slope * _numbers(columns[name], name, source) for name, slope in self.terms]
        allowed = self.tolerance + self.relative * np.sum(np.abs(parts), axis=0)
        return np.abs(values - self.intercept - np.sum(parts, axis=0)) > allowed


@dataclass(frozen=True)
class Omitted:
    """A column dropped on request; new rows may lack it."""

    name: str

    def dimensions(self) -> list[tuple[str, Lattice]]:
        """No encoded dimension."""
        return []


Rule: TypeAlias = Numeric | OneHot | Constant | Copy | Combination | Omitted
_RULES = {rule.__name__.lower(): rule for rule in (Numeric, OneHot, Constant, Copy, Combination, Omitted)}


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """A rule as plain JSON values."""
    return {"rule": type(rule).__name__.lower(), **asdict(rule)}


def rule_from_json(record: Mapping[str, Any]) -> Rule:
    """The inverse of :func:`rule_to_json`; an unknown rule or field raises ``KeyError`` or ``TypeError``."""
    fields = {key: _tuples(value) for key, value in record.items() if key != "rule"}
    if "lattice" in fields:
        fields["lattice"] = Lattice(**fields["lattice"])
    return _RULES[record["rule"]](**fields)


def _tuples(value: Any) -> Any:
    """What JSON made lists, as it was."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _numbers(column: np.ndarray, name: str, source: str) -> np.ndarray:
    """A column as float64, shape ``n``.

    Raises:
        InputError: for text, naming the first row that holds it.
    """
    if column.dtype != object:
        return column.astype(np.float64)
    refuse(
        np.array([not is_number(cell) for cell in column], dtype=bool),
        source,
        lambda i: (
            f"column {name!r}: {column[i]!r} is not a number, but the model was fitted to numbers there; correct it"
        ),
    )
    return column.astype(np.float64)


def _integers(values: np.ndarray, whole: bool) -> np.ndarray:
    """A column of whole numbers as integers, where floats tell these apart."""
    return values.astype(np.int64) if whole and bool((np.abs(values) < 2.0**53).all()) else values


def _texts(column: np.ndarray) -> list[str]:
    """Text cells; numbers get the spelling that the readers give to numbers in text columns."""
    return [spelled(cell) for cell in column.tolist()]


def on_lattice(values: np.ndarray, lattice: Lattice, name: str, source: str) -> np.ndarray:
    """Values moved onto the lattice, any shape with rows first.

    Raises:
        InputError: for a value that lies off the lattice, naming row, column, value and step.
    """
    off = lattice.off(values)

    def sentence(i: int) -> str:
        place = np.unravel_index(int(off[i].argmax()), values.shape[1:])
        where = f"column {name!r}" if values.ndim == 1 else f"{name} {tuple(map(int, place))}"
        return (
            f"{where}: {values[i][place]:.10g} is off the lattice of step {spoken(lattice.step)} through "
            f"{lattice.offset:.6g} on which the model was fitted; round it, or fit again with such rows"
        )

    refuse(off.reshape(len(off), -1).any(axis=1), source, sentence)
    return lattice.snap(values)
