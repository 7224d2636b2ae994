r"""Which columns are discrete, and on which lattice.

A density on a column whose values repeat is unbounded: a model may put ever narrower spikes on the
values that come again. Such a column is *discrete*: what is modelled is the probability of the bin
of width h around each lattice point :math:`o + h k`. Every other column is a density, recorded to so
many digits, and that it was printed with few of them makes it no lattice.

The rule. The *step* h is that of the coarsest lattice on which all values lie up to the rounding of
their digits (:mod:`girsanov.datasets.steps`). Up to two values that each hold 2 % of the rows (and
ten of them, or a fifth) are *atoms*, as the zeros of rainfall or the median that replaced missing
values; s is the spread of the other rows. A *common* value holds 1/500 of the rows (and five of them,
or a tenth). A column is a lattice when its cells are seen again and again, coarsely enough for a model:

1. :math:`h \ge s/500`, and half of the rows that are no atoms share their value with two more; or
2. :math:`h \ge s/20`, and some value comes twice: tables of few rows; or
3. there are atoms, or a tenth of the rows are at common values; and the values are whole numbers, or
   :math:`h \ge s/1000`, or the common values alone need so fine a step.

The factor 500 is the resolution of a model: at log-SNR 15, where likelihoods stop by default, the
noise has standard deviation 0.00055 s and hides any lattice finer than about four times that. So
a million standard normal draws with three decimals are continuous (h = s/1000), and so are whole
numbers up to a million that seldom repeat; with two decimals they are discrete.

Where only the first half of 3 holds, no lattice is seen, but a density would be unbounded: values are
rounded to bins as wide as the smallest gap between two of them, or about s/1000 if that is more, one
of them around the most common value; every value, new ones too, belongs to the bin it falls in. So it
is where all but a few values lie on a coarse lattice, as whole numbers beside the mean that fills
their gaps.
"""

__all__ = ["Lattice", "atoms", "lattice_of", "levels_of", "spoken", "with_step"]

from dataclasses import replace

import numpy as np

from girsanov.datasets.recording import relative_precision, strays
from girsanov.datasets.steps import BINNED, Lattice, find_grid

ATOM_SHARE, ATOM_ROWS, ATOM_FEW = 0.02, 10, 4
VISIBLE, COARSE, WIDTH = 500, 20, 1000  #: a spread has so many of the finest steps, of coarse ones, of bins
AGAIN, COMMON_ROWS = 3, 5  #: rows of a typical cell, and at least of a common value
COMMON_SHARE = 0.1  #: of the rows on common values


def lattice_of(values: np.ndarray) -> Lattice | None:
    """The lattice of a discrete column, or ``None`` for a continuous one (the rule is above).

    Args:
        values: finite numbers, any shape, not all equal; their dtype says how exact they are.

    Example:
        >>> lattice_of(np.repeat(np.arange(5.0), 10)).step
        1.0
        >>> lattice_of(np.random.default_rng(0).normal(size=100).round(6)) is None
        True
    """
    levels, counts = levels_of(values)
    n, distinct = int(counts.sum()), len(levels)
    if distinct == n or distinct < 2:
        return None
    precision = relative_precision(values)
    atom = _atoms(counts)
    typical, spread = _typical(counts[~atom]), _spread(levels, counts, atom)
    grid = find_grid(levels, precision)
    if grid is not None and _seen(grid.step, spread, typical):
        return _exact(grid, levels)
    main = ~strays(levels, precision)
    coarse = find_grid(levels[main], precision) if not main.all() else None
    if coarse is not None and _seen(coarse.step, spread, typical):
        return Lattice(coarse.step, coarse.offset, BINNED)
    common = counts >= max(n / VISIBLE, min(COMMON_ROWS, n / 10))
    share = counts[common].sum() / n
    if not (atom.any() or share >= COMMON_SHARE):
        return None
    whole = bool((levels == np.rint(levels)).all())
    needed = 0.5 * float(np.diff(levels[common]).min()) if common.sum() > 2 else np.inf
    if grid is not None and (whole or grid.step >= min(needed, spread / WIDTH)):
        return _exact(grid, levels) if whole or share >= 0.5 else Lattice(grid.step, grid.offset, BINNED)
    width = max(float(np.diff(levels).min()), spread / WIDTH)
    step = _short(width) if grid is None else grid.step * _nice(width / grid.step)
    mode = float(levels[counts.argmax()])
    return Lattice(step, mode - step * float(np.rint(mode / step)), BINNED)


def with_step(values: np.ndarray, step: float) -> Lattice:
    """The lattice of a given step through the most common value; values off it are rounded to its points.

    Example:
        >>> with_step(np.array([0.99, 0.99, 1.49]), 0.01).step
        0.01
    """
    levels, counts = levels_of(values)
    mode = float(levels[counts.argmax()])
    offset = mode - step * float(np.rint(mode / step))
    return Lattice(step, 0.0 if abs(offset) <= 1e-6 * step + 4.5e-16 * abs(mode) else offset, BINNED)


def spoken(step: float) -> str:
    """A step as its owner says it.

    Example:
        >>> spoken(0.05), spoken(1 / 12), spoken(2 / 255)
        ('0.05', '1/12', '2/255')
    """
    text = f"{step:.12g}"
    if len(text) > 8 and step < 1:
        for part in (1, 2):
            if abs(part / step - round(part / step)) < 1e-9 * part / step:
                return f"{part}/{round(part / step)}"
    return text


def levels_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values and their counts; values that differ by rounding errors alone are one.

    Where neighbours that near form long chains, they are what the floats themselves can hold, and no errors.
    """
    levels, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    error = 4 * relative_precision(values) * np.abs(levels)
    starts = np.flatnonzero(np.diff(levels, prepend=-np.inf) > error)
    ends = np.append(starts[1:], len(levels)) - 1
    if (levels[ends] - levels[starts] > 4 * error[ends]).any():
        return levels, counts
    return levels[starts], np.add.reduceat(counts, starts)


def atoms(values: np.ndarray) -> list[tuple[float, float]]:
    """The values that hold 2 % of the rows, at most two, and their shares.

    Example:
        >>> atoms(np.concatenate([np.zeros(50), np.linspace(1, 2, 50)]))
        [(0.0, 0.5)]
    """
    levels, counts = levels_of(values)
    return [(float(levels[i]), float(counts[i] / counts.sum())) for i in np.flatnonzero(_atoms(counts))]


def _seen(step: float, spread: float, typical: float) -> bool:
    return step >= spread / COARSE or (step >= spread / VISIBLE and typical >= AGAIN)


def _atoms(counts: np.ndarray) -> np.ndarray:
    n = int(counts.sum())
    least = max(ATOM_SHARE * n, min(ATOM_ROWS, n / 5), ATOM_FEW)
    marks = np.zeros(len(counts), dtype=bool)
    marks[np.argsort(-counts, kind="stable")[:2]] = True
    return marks & (counts >= least)


def _typical(counts: np.ndarray) -> float:
    """The number of rows in the cell of the median row; infinite if there is none."""
    if not len(counts):
        return np.inf
    ordered = np.sort(counts)
    total = np.cumsum(ordered)
    return float(ordered[np.searchsorted(total, 0.5 * total[-1])])


def _spread(levels: np.ndarray, counts: np.ndarray, atom: np.ndarray) -> float:
    """Standard deviation of the rows that are no atoms, or what their quartiles say if that is less."""
    left = ~atom if atom.sum() < len(levels) - 1 else np.ones(len(levels), dtype=bool)
    points, weights = levels[left], counts[left] / counts[left].sum()
    share = np.cumsum(weights)
    low, high = (points[min(int(np.searchsorted(share, q)), len(points) - 1)] for q in (0.25, 0.75))
    deviation = float(np.sqrt(weights @ (points - weights @ points) ** 2))
    return min(deviation, float(high - low) / 1.349) if high > low else deviation


def _exact(grid: Lattice, levels: np.ndarray) -> Lattice:
    """A lattice that never refuses the levels themselves: large ones of few digits had no say in its step."""
    off = levels[grid.off(levels)]
    if not len(off):
        return grid
    needed = 1.1 * float((np.abs(grid.snap(off) - off) / np.abs(off - grid.offset)).max())
    return replace(grid, relative=max(grid.relative, needed))


def _short(width: float) -> float:
    """Two digits of a width, rounded down so that no values merge."""
    unit = 10.0 ** (np.floor(np.log10(width)) - 1)
    return float(f"{np.floor(width / unit) * unit:.2g}")


def _nice(ratio: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... that is no more than a number from 1 on."""
    power = 10.0 ** np.floor(np.log10(max(ratio, 1.0)))
    return float(power) * max(factor for factor in (1, 2, 5) if factor * power <= max(ratio, 1.0))
