r"""Which columns are discrete, and on which lattice.

A density on a column whose values repeat is unbounded: a model may put ever narrower spikes on the
values that come again. Such a column is *discrete*: what is modelled is the probability of the bin
of width h around each lattice point :math:`o + h k`. A column without repeats is continuous,
whatever its decimals say, and so is one that was merely printed with few decimals.

The rule. A column of n rows and standard deviation s is discrete when some value comes twice, and

1. one value holds at least 2 % of the rows (and ten of them): an atom, as the zeros of rainfall; or
2. there are at most n/3 distinct values: three rows or more share each; or
3. all values lie on a lattice of step h with :math:`h \ge s/500` and at most n/2 distinct values; or
4. all values lie on a lattice of step :math:`h \ge s/20`.

The factor 500 is the resolution of a model: at log-SNR 15, where likelihoods stop by default, the
noise has standard deviation 0.00055 s and hides any lattice finer than about four times that. So
10,000 standard normal draws with three decimals are continuous (h = s/1000, 0.37 n distinct), as are
whole numbers up to a million that seldom repeat; with two decimals they are discrete.

The step is the largest lattice that holds every value, up to the rounding of printed digits (tables
that were centred and then printed with five digits lie on their lattice only to about that). Where
there is none, values are binned to the smallest gap between two of them, or to s/1000 if that is
more; then every value, new ones too, belongs to the bin it falls in.
"""

__all__ = ["Lattice", "find_lattice", "lattice_of"]

from dataclasses import dataclass

import numpy as np

ATOM_SHARE, ATOM_ROWS = 0.02, 10
EXACT, ROUNDED, BINNED = 1e-3, 0.25, 0.5  #: how far from a lattice point a value may lie, in steps


@dataclass(frozen=True)
class Lattice:
    """The points ``offset + step k``; ``slack`` steps is how far from one a value may lie.

    Attributes:
        step: distance of neighbouring points, 0 for a continuous column.
        offset: one of the points, the nearest to 0.
        slack: 0.001 on an exact lattice, 0.25 where digits were rounded, 0.5 where values are binned.

    Example:
        >>> Lattice(step=0.5, offset=0.0, slack=0.001).snap(np.array([0.5, 1.0000001]))
        array([0.5, 1. ])
    """

    step: float = 0.0
    offset: float = 0.0
    slack: float = 0.0

    @property
    def binned(self) -> bool:
        """Whether the values lie on no lattice, so that bins were laid over them."""
        return self.slack == BINNED

    def snap(self, values: np.ndarray) -> np.ndarray:
        """The nearest lattice points; a value that is one to float64's precision is left as it is."""
        if not self.step:
            return values
        points = self.offset + self.step * np.rint((values - self.offset) / self.step)
        same = np.abs(points - values) <= 1e-9 * self.step + 4.5e-16 * np.abs(values)
        return np.where(same, values, points)

    def off(self, values: np.ndarray) -> np.ndarray:
        """Which values lie farther from every point than ``slack`` steps."""
        if not self.step or self.binned:
            return np.zeros(values.shape, dtype=bool)
        distance = np.abs(self.snap(values) - values)
        return distance > self.slack * self.step + 4.5e-16 * np.abs(values)


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
    precision = _precision(values)
    levels, counts = _levels(np.asarray(values, dtype=np.float64), precision)
    n, distinct = int(counts.sum()), len(levels)
    if distinct == n or distinct < 2:
        return None
    gap = float(np.diff(levels).min())
    spread = float(np.std(values, dtype=np.float64))
    atom = counts.max() >= max(ATOM_ROWS, ATOM_SHARE * n)
    repeated = bool(atom or distinct <= n / 3)
    resolution = spread / 500 if distinct <= n / 2 else spread / 20
    if not repeated and gap < resolution:
        return None
    lattice = find_lattice(levels, precision)
    # A fraction of the smallest gap, finer than any model sees, is an accident of the digits.
    fraction = lattice is not None and lattice.step < min(gap / 1.5, spread / 1000)
    if lattice is None or (fraction and (levels != np.rint(levels)).any()):
        return _bins(levels, max(gap, spread / 1000)) if repeated else None
    return lattice if repeated or lattice.step >= resolution else None


def _precision(values: np.ndarray) -> float:
    """Relative rounding error of one stored value."""
    return float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else float(np.finfo(np.float64).eps)


def _levels(values: np.ndarray, precision: float) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values and their counts; values that differ by rounding errors alone are one."""
    levels, counts = np.unique(values, return_counts=True)
    fresh = np.diff(levels, prepend=-np.inf) > 4 * precision * np.abs(levels)
    starts = np.flatnonzero(fresh)
    return levels[starts], np.add.reduceat(counts, starts)


def find_lattice(levels: np.ndarray, precision: float) -> Lattice | None:
    """The coarsest lattice that holds sorted distinct levels, or ``None``.

    First exactly, as decimal numbers; if there is none, or one much finer than decimal fractions
    need, up to the rounding of their last printed digit.

    Args:
        levels: at least two, increasing.
        precision: relative rounding error of a stored value.
    """
    decimals = _decimals(levels, precision)
    if decimals is not None:
        lattice = _exact(levels, int(decimals.max()))
        fine = lattice and levels[-1] - levels[0] > 50 * len(levels) * lattice.step
        if lattice and (not fine or not decimals.any()):
            return lattice
    printed = _print_error(levels, decimals)
    tolerance = printed + 8 * precision * float(np.abs(levels).max())
    for divisor in (1, 2, 3, 4, 5, 6, 8, 10, 12):
        fitted = _fit(levels, float(np.diff(levels).min()) / divisor, tolerance)
        if fitted is not None:
            return Lattice(*fitted, ROUNDED if printed else EXACT)
    return None


def _decimals(levels: np.ndarray, precision: float) -> np.ndarray | None:
    """Digits after the point of each level, or ``None`` where full-precision floats have no end."""
    digits = np.full(len(levels), -1)
    for k in range(16):
        scaled = levels * 10.0**k
        error = 4 * precision * np.abs(scaled)
        done = (np.abs(scaled - np.rint(scaled)) <= error) & (error < 0.05) & (digits < 0)
        digits[done] = k
        if (digits >= 0).all():
            return digits
    return None


def _exact(levels: np.ndarray, decimals: int) -> Lattice | None:
    scaled = np.rint(levels * 10.0**decimals)
    if np.abs(scaled).max() > 2**53:
        return None
    whole = scaled.astype(np.int64)
    common = int(np.gcd.reduce(np.diff(whole)))
    # Dividing whole numbers rounds once, so 0.1 comes out as the float 0.1.
    offset = int(whole[0]) - common * round(int(whole[0]) / common)
    # A lattice off zero comes from centring, and then the digits of the values were cut somewhere.
    slack = ROUNDED if offset else EXACT
    return Lattice(common / 10**decimals, offset / 10**decimals, slack)


def _print_error(levels: np.ndarray, decimals: np.ndarray | None) -> float:
    """Half a unit in the last printed digit of the largest level, if few digits were printed."""
    if decimals is None or not decimals.any():
        return 0.0
    size = np.floor(np.log10(np.maximum(np.abs(levels), 1e-300)))
    digits = float((decimals + size + 1).max())
    return 0.5 * 10.0 ** (float(size.max()) - digits + 1) if digits <= 8 else 0.0


def _fit(levels: np.ndarray, step: float, tolerance: float) -> tuple[float, float] | None:
    """Step and offset from a guessed step, refined on ever longer gaps; ``None`` if a level misses."""
    gaps = np.diff(levels)
    reach = 4 * step
    while True:
        near = gaps[gaps <= reach] if reach < gaps.max() else gaps
        if len(near):
            step = float(near.sum() / np.rint(near / step).sum())
        if len(near) == len(gaps):
            break
        reach *= 4
    index = np.concatenate([[0.0], np.cumsum(np.rint(gaps / step))])
    centred = index - index.mean()
    step = float(centred @ levels / (centred @ centred))
    limit = min(2 * tolerance, step / 5)
    if _miss(levels, step, index) > limit:
        return None
    step = _rounded(step, levels, index)
    offset = float(np.mean(levels - step * index))
    offset -= step * round(offset / step)
    return step, 0.0 if abs(offset) <= max(tolerance, 1e-9 * step) else offset


def _miss(levels: np.ndarray, step: float, index: np.ndarray) -> float:
    """Largest distance of a level from its point, on the lattice through their middle."""
    rest = levels - step * index
    return float(np.abs(rest - rest.mean()).max())


def _rounded(step: float, levels: np.ndarray, index: np.ndarray) -> float:
    """The step as a decimal of few digits or as 1/k, if that fits as well: 1 instead of 0.999997."""
    limit = max(min(1.5 * _miss(levels, step, index), 0.22 * step), 1e-12 * step)
    short, long = ([float(f"{step:.{digits}g}") for digits in some] for some in (range(1, 5), range(5, 16)))
    for candidate in (*short, 1.0 / max(1, round(1.0 / step)), *long):
        if _miss(levels, candidate, index) <= limit:
            return candidate
    return step


def _bins(levels: np.ndarray, width: float) -> Lattice:
    """Bins over levels of no lattice, their width rounded down to two digits so that none merge."""
    unit = 10.0 ** (np.floor(np.log10(width)) - 1)
    step = float(f"{np.floor(width / unit) * unit:.2g}")
    offset = float(levels[0]) - step * float(np.rint(levels[0] / step))
    return Lattice(step, offset, BINNED)
