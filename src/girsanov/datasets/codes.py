"""Columns that a text column determines: its numeric code, its other names, and what holds for all of one level."""

__all__ = ["coded_columns"]

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from girsanov.datasets.columns import Copy

FIRST = 1000  #: rows that rule out most pairs of columns
CHANCE = 20.0  #: minus the log-probability from which a column is not determined by chance
RARE_ROWS = 10  #: of other than the most common level, fewer of which are in order by chance


@dataclass(frozen=True)
class _Levels:
    """A column as positions of its distinct values."""

    name: str
    values: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, name: str, column: np.ndarray) -> "_Levels":
        import pandas as pd

        codes, values = pd.factorize(column.astype(str).astype(object) if column.dtype == object else column)
        return cls(name, np.asarray(values), codes)

    def determines(self, other: "_Levels") -> bool:
        """Whether every value here stands beside one value there, so often that chance does not explain it."""
        repeats = len(self.codes) - len(self.values)
        share = float(np.bincount(other.codes).max()) / len(other.codes)
        return repeats * -math.log(share) > CHANCE and all(
            bool((self.beside(other, rows)[self.codes[rows]] == other.codes[rows]).all())
            for rows in (slice(FIRST), slice(None))
        )

    def beside(self, other: "_Levels", rows: slice = slice(None)) -> np.ndarray:
        """Position of the value that stands beside each value here."""
        found = np.zeros(len(self.values), dtype=np.int64)
        found[self.codes[rows]] = other.codes[rows]
        return found

    def copy(self, other: "_Levels") -> Copy:
        """The rule of a column that is determined."""
        values = other.values[self.beside(other)].tolist()
        return Copy(other.name, self.name, tuple(zip(map(str, self.values), values, strict=True)))


def coded_columns(columns: Mapping[str, np.ndarray]) -> tuple[dict[str, Copy], list[str]]:
    """The columns that a text column determines, and sentences about text that a number determines.

    Of columns that determine each other the first text is kept.

    Args:
        columns: finite numbers and text, none constant, by name.

    Returns:
        A rule for each column that is determined, and the sentences.

    Example:
        >>> kinds = np.array(["ash", "elm", "oak"] * 20, dtype=object)
        >>> found, _ = coded_columns({"code": np.array([7, 3, 5] * 20), "kind": kinds})
        >>> found["code"].values
        (('ash', 7), ('elm', 3), ('oak', 5))
    """
    texts = [_Levels.of(name, column) for name, column in columns.items() if column.dtype == object]
    found: dict[str, Copy] = {}
    kept: list[_Levels] = []
    for text in sorted(texts, key=lambda text: -len(text.values)):  # what has more levels may determine the others
        finer = next((other for other in kept if other.determines(text)), None)
        if finer is None:
            kept.append(text)
        else:
            found[text.name] = finer.copy(text)
    notes = []
    for name, column in columns.items() if kept else ():
        if column.dtype == object:
            continue
        numbers = _Levels.of(name, column)
        text = next((text for text in kept if text.determines(numbers)), None)
        if text is not None:
            found[name] = text.copy(numbers)
            continue
        notes += [
            f"{other.name!r} is a range of {name!r} in every row: leave it out with --drop {other.name} unless it says "
            "more."
            for other in kept
            if _in_order(column, other)
        ]
    return found, notes


def _in_order(column: np.ndarray, text: _Levels) -> bool:
    """Whether the levels of a text are ranges of a number that do not overlap."""
    if len(text.codes) - int(np.bincount(text.codes).max()) < RARE_ROWS or 2 * len(text.values) > len(text.codes):
        return False
    for rows in (slice(FIRST), slice(None)):
        values, codes = column[rows], text.codes[rows]
        order = np.lexsort((codes, values))
        if np.count_nonzero(np.diff(codes[order])) != len(np.unique(codes)) - 1:
            return False
        if any(np.diff(codes[order])[np.diff(values[order]) == 0]):
            return False
    return True
