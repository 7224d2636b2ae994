"""Columns that hold one value, or that others determine: copies, sums, and what a text determines.

Of a text that may be its numeric code, its other names, and what holds for all of one level.
"""

__all__ = ["constant_value", "copies", "determined_columns", "is_constant"]

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from girsanov.datasets.columns import Combination, Copy, Rule
from girsanov.datasets.dependencies import dependent_columns
from girsanov.datasets.steps import shortest

FIRST = 1000  #: rows that rule out most pairs of columns
CHANCE = 20.0  #: minus the log-probability from which a column is not determined by chance
RARE_ROWS = 10  #: of other than the most common level, fewer of which are in order by chance


def is_constant(column: np.ndarray) -> bool:
    """Whether a column holds one value, but for rounding errors."""
    if column.dtype == object:
        return len(set(column)) == 1
    if column.dtype.kind in "bu" and column.dtype.itemsize <= 4:  # pixels, of which there are many
        return bool(column.min() == column.max())
    values = column.astype(np.float64)
    precision = np.finfo(column.dtype).eps if column.dtype.kind == "f" else 2.2e-16
    spread = float(np.ptp(values))
    # A spread below 1e-100 cannot be squared either.
    return spread <= max(8.0 * float(precision) * float(np.abs(values).max()), 1e-100)


def constant_value(column: np.ndarray) -> float | str:
    """The one value of a constant column."""
    return str(column[0]) if column.dtype == object else float(column[0])


def determined_columns(columns: Mapping[str, np.ndarray]) -> tuple[dict[str, Rule], list[str]]:
    """Rules of the columns that others determine, and sentences about those that others nearly do.

    Args:
        columns: finite numbers and text, none constant, by name.

    Example:
        >>> kinds = np.array(["ash", "elm", "oak"] * 20, dtype=object)
        >>> found, _ = determined_columns({"code": np.array([7, 3, 5] * 20), "kind": kinds})
        >>> found["code"].values
        (('ash', 7), ('elm', 3), ('oak', 5))
    """
    found: dict[str, Rule] = {**copies(columns)}
    coded, ranges = _coded_columns({name: column for name, column in columns.items() if name not in found})
    found |= coded
    sums, near = dependent_columns({n: c for n, c in columns.items() if n not in found and c.dtype != object})
    return found | sums, [*near, *ranges]


def copies(columns: Mapping[str, np.ndarray]) -> dict[str, Copy | Combination]:
    """Text that repeats an earlier column, and numbers that are an exact affine function of one.

    Once standardised, copies have the same absolute inner product with any fixed vector: d numbers
    show which pairs can be copies, and only those are compared row by row.
    """
    found: dict[str, Copy | Combination] = {}
    texts = [name for name, column in columns.items() if column.dtype == object]
    for i, name in enumerate(texts):
        twin = next((t for t in texts[:i] if t not in found and (columns[t] == columns[name]).all()), None)
        if twin is not None:
            found[name] = Copy(name, twin, tuple((level, level) for level in sorted(set(columns[name]))))
    numeric = [name for name, column in columns.items() if column.dtype != object]
    products: dict[str, float] = {}
    for name in numeric:
        values = columns[name].astype(np.float64)
        values = values - values.mean()
        values = values / np.sqrt(np.mean(values**2))
        product = abs(float(values @ np.cos(np.arange(len(values)) ** 2))) / len(values)
        near = [twin for twin, other in products.items() if abs(other - product) <= 1e-4]
        copy = next((copy for twin in near if (copy := _copy(name, twin, columns)) is not None), None)
        if copy is None:
            products[name] = product
        else:
            found[name] = copy
    return found


def _copy(name: str, twin: str, columns: Mapping[str, np.ndarray]) -> Combination | None:
    a, b = columns[twin].astype(np.float64), columns[name].astype(np.float64)
    if (a == b).all():
        return Combination(name, ((twin, 1.0),), tolerance=1e-6 * float(b.std()))
    precision = max(
        float(np.finfo(column.dtype).eps) if column.dtype.kind == "f" else 2.2e-16
        for column in (columns[name], columns[twin])
    )
    low, high = int(a.argmin()), int(a.argmax())
    slope = float((b[high] - b[low]) / (a[high] - a[low]))
    intercept = float(b.mean() - slope * a.mean())
    tolerance = max(1e-9, 64 * precision) * float(b.std())
    tolerance += 8 * precision * float(np.abs(b).max() + abs(slope) * np.abs(a).max())
    if np.abs(b - intercept - slope * a).max() > tolerance:
        return None
    fine = 0.25 * tolerance
    slope, intercept = shortest(slope, fine / float(np.abs(a).max())), shortest(intercept, fine)
    return Combination(name, ((twin, slope),), intercept, max(4 * tolerance, 1e-6 * float(b.std())), 16 * precision)


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


def _coded_columns(columns: Mapping[str, np.ndarray]) -> tuple[dict[str, Copy], list[str]]:
    """The columns that a text column determines, and sentences about text that a number determines.

    Of columns that determine each other the first text is kept.
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
