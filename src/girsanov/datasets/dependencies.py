r"""Columns that are sums of others, within the rounding of all of them.

Columns are standardised and orthogonalised in their order (Gram and Schmidt, twice). One of which almost nothing is
left depends on the columns before it; its coefficients are then brought to few terms and few digits, and hold if every
row obeys them within

.. math:: \sum_j |c_j| \epsilon_j + \epsilon ,

the rounding of the columns. Only some rows are searched, each column's extremes among them; all rows are checked.
"""

__all__ = ["dependent_columns"]

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from girsanov.datasets.columns import Combination
from girsanov.datasets.lattice import Lattice, lattice_of
from girsanov.datasets.recording import FLOAT64, recording_of
from girsanov.datasets.steps import find_grid, shortest

SMALL, NEAR = 2e-2, 2e-3  #: of a spread: what may be rounding alone, and what a model cannot see
COARSE = 1 / 200  #: of a spread: rounding beyond which a column holds more than its sum
SPARE_ROWS = 30  #: more than there are columns; fewer obey some relation by chance
OWN_ROWS = 10  #: of each column, other than its most common value
SEARCHED = 500  #: rows, more than two for each column
MOST_COLUMNS = 1000
SHOWN = 5  #: sentences about near sums
NOISE = 1e-10  #: of a spread: what rounding in floating point leaves


@dataclass(frozen=True)
class _Column:
    """A column, and how far each of its values may be from what was rounded to it."""

    name: str
    values: np.ndarray
    rounding: np.ndarray
    relative: float
    mean: float
    spread: float
    rare: bool

    @classmethod
    def of(cls, name: str, column: np.ndarray) -> "_Column":
        values = column.astype(np.float64)
        levels, counts = np.unique(values, return_counts=True)
        recording = recording_of(column)
        relative = max(16 * recording.precision, recording.relative)
        rare = len(values) - int(counts.max()) < OWN_ROWS
        rounding = recording.rounding(values)
        grid = find_grid(levels, recording.precision) if recording.rounded and len(levels) < len(values) else None
        rounding = rounding if grid is None else np.maximum(rounding, 0.5 * grid.step)
        return cls(name, values, rounding, relative, float(values.mean()), float(values.std()), rare)


def dependent_columns(columns: Mapping[str, np.ndarray]) -> tuple[dict[str, Combination], list[str]]:
    """The columns that others determine, and sentences about those that others nearly do.

    Args:
        columns: finite numbers that vary, by name.

    Returns:
        A rule for each column that is a sum of columns before it, and the sentences.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(200, 2))
        >>> found, _ = dependent_columns({"a": x[:, 0], "b": x[:, 1], "c": 1 + x[:, 0] - 2 * x[:, 1]})
        >>> str(found["c"])
        "1 + 'a' - 2 * 'b'"
    """
    rows = len(next(iter(columns.values()), ()))
    if len(columns) > MOST_COLUMNS or rows < SPARE_ROWS:
        return {}, []
    table = [_Column.of(name, column) for name, column in columns.items()]
    index = _searched(table, rows)
    basis = _Basis(len(index))
    found: dict[str, Combination] = {}
    near = []
    for column in table:
        z = (column.values[index] - column.mean) / column.spread
        rest, coordinates = basis.project(z)
        if float(np.sqrt(np.mean(rest**2))) < SMALL and len(index) >= len(basis.columns) + SPARE_ROWS:
            weights = basis.coefficients(coordinates)
            sums = [_Sum.fit(column, chosen, index) for chosen in _choices(column, basis.columns, weights)]
            rule = next((rule for each in sums if (rule := each.rule()) is not None), None)
            if rule is not None:
                found[column.name] = rule
                continue
            near += [each.said() for each in sums if each.near()][:1]
        basis.append(column, rest, coordinates)
    if len(near) > SHOWN:
        near[SHOWN:] = [f"{len(near) - SHOWN} more columns are nearly sums of others too."]
    return found, near


def _choices(column: _Column, kept: Sequence[_Column], weights: np.ndarray) -> list[list[_Column]]:
    """The columns whose share in a sum exceeds its rounding, and all."""
    least = max(NOISE, 2 * float(column.rounding.mean()) / column.spread)
    found = []
    for share in (50.0 * least, 5.0 * least, least, 0.0):
        some = [other for other, weight in zip(kept, weights, strict=True) if abs(weight) > share]
        if some and [other.name for other in some] not in [[other.name for other in before] for before in found]:
            found.append(some)
    return found


@dataclass(frozen=True)
class _Sum:
    """A column as a sum of others, by least squares over some rows."""

    column: _Column
    terms: tuple[_Column, ...]
    slopes: tuple[float, ...]

    @classmethod
    def fit(cls, column: _Column, terms: Sequence[_Column], index: np.ndarray) -> "_Sum":
        z = np.column_stack([(term.values[index] - term.mean) / term.spread for term in terms])
        z = np.column_stack([z, np.ones(len(index))])
        target = (column.values[index] - column.mean) / column.spread
        weights = np.linalg.lstsq(z, target, rcond=None)[0][:-1]
        slopes = (float(w) * column.spread / term.spread for w, term in zip(weights, terms, strict=True))
        return cls(column, tuple(terms), tuple(slopes))

    def rest(self) -> np.ndarray:
        """What of the column is left."""
        return self.column.values - sum(c * t.values for c, t in zip(self.slopes, self.terms, strict=True))

    def bound(self) -> np.ndarray:
        """How far rounding may bring each row from the sum."""
        return self.column.rounding + sum(abs(c) * t.rounding for c, t in zip(self.slopes, self.terms, strict=True))

    def rule(self) -> Combination | None:
        """With the fewest digits in its slopes that every row bears; ``None`` if none does."""
        if any(column.rare for column in (self.column, *self.terms)):
            return None
        for share in (30.0, 10.0, 3.0, 1.0, 0.1, 0.01):
            shorter = dataclasses.replace(self, slopes=tuple(self._shorter(share)))
            rule = shorter.checked()
            if rule is not None:
                return rule
        return self.checked()

    def _shorter(self, share: float) -> Iterator[float]:
        fine = share * max(float(self.column.rounding.min()), NOISE * self.column.spread) / len(self.terms)
        for slope, term in zip(self.slopes, self.terms, strict=True):
            yield shortest(slope, fine / float(np.abs(term.values - term.mean).max()))

    def checked(self) -> Combination | None:
        """The rule, if it holds in every row."""
        pairs = list(zip(self.slopes, self.terms, strict=True))
        rest, spread, bound = self.rest(), self.column.spread, self.bound()
        low, high = float(rest.min()), float(rest.max())
        size = max(abs(c) * float(np.abs(t.values).max()) for c, t in pairs)
        noise = NOISE * spread + 64 * FLOAT64 * size
        rounded = float(np.max(bound)) <= COARSE * spread
        if high - low > 2 * noise and not (rounded and bool((np.abs(rest - 0.5 * (low + high)) <= 1.05 * bound).all())):
            return None
        lattice = lattice_of(self.column.values) or Lattice()
        step = lattice.step or float((self.column.values == np.rint(self.column.values)).all())
        if step and high - low >= (1.0 - 1e-9) * step:
            return None  # the others leave open which cell it is: what is dropped would be missed in its log-mass
        intercept = shortest(0.5 * (low + high), noise if high - low <= 2 * noise else 0.1 * float(np.min(bound)))
        return Combination(
            self.column.name,
            tuple((t.name, c) for c, t in pairs if c),
            intercept,
            tolerance=max(2.1 * float(np.max(bound)) if rounded else 4 * noise, 1e-6 * spread),
            relative=max(column.relative for column in (self.column, *self.terms)),
            lattice=lattice,
            seen=(min(self.column.values), max(self.column.values)) if lattice.step and not lattice.binned else None,
        )

    def near(self) -> bool:
        """Whether a model could not see what is left, or it may be rounding."""
        if self.column.rare:
            return False
        rest = self.rest()
        low, high = np.quantile(self.column.values, (0.25, 0.75))
        # a few rows far from all others make any two columns alike that share them
        typical = min(self.column.spread, float(high - low) / 1.349) if high > low else self.column.spread
        size = float(rest.std()) / typical
        rounded = bool((np.abs(rest - 0.5 * (rest.min() + rest.max())) <= 1.05 * self.bound()).all())
        return size > NOISE and (size < NEAR or rounded)

    def said(self) -> str:
        """The sentence about a column that is nearly determined."""
        name, left = self.column.name, self.rest()
        noise = float(left.std())
        terms = tuple(
            (term.name, shortest(slope, noise / float(np.ptp(term.values))))
            for term, slope in zip(self.terms, self.slopes, strict=True)
        )
        rule = Combination(name, terms, shortest(float(left.mean()), noise))
        return (
            f"{name!r} is nearly {rule} (but for {noise / self.column.spread:.1g} of its spread), of which a model "
            f"sees little or nothing; leave it out with --drop {name} unless that matters."
        )


class _Basis:
    """Orthonormal directions of the columns kept so far, and their coefficients in these."""

    def __init__(self, rows: int) -> None:
        self.columns: list[_Column] = []
        self._q = np.full((rows, 1), rows**-0.5)
        self._r = np.ones((1, 1))

    def project(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What of a column is left, and its coordinates."""
        rest, total = z, np.zeros(self._q.shape[1])
        for _ in range(2):
            part = self._q.T @ rest
            rest, total = rest - self._q @ part, total + part
        return rest, total

    def append(self, column: _Column, rest: np.ndarray, coordinates: np.ndarray) -> None:
        size = float(np.sqrt(rest @ rest))
        if size < NOISE * len(rest) ** 0.5:
            return  # nothing of its own in the searched rows
        k = len(coordinates)
        grown = np.zeros((k + 1, k + 1))
        grown[:k, :k], grown[:k, k], grown[k, k] = self._r, coordinates, size
        self._r, self._q = grown, np.column_stack([self._q, rest / size])
        self.columns.append(column)

    def coefficients(self, coordinates: np.ndarray) -> np.ndarray:
        """Of the standardised columns, from coordinates."""
        return np.linalg.solve(self._r, coordinates)[1:]


def _searched(table: Sequence[_Column], rows: int) -> np.ndarray:
    ends = [int(place) for column in table for place in (column.values.argmin(), column.values.argmax())]
    count = min(rows, SEARCHED + 2 * len(table))
    some = np.random.default_rng(0).choice(rows, count, replace=False)
    return np.unique(np.concatenate([some, np.array(ends, dtype=np.int64)]))
