"""How the values of a column were written down: with so many decimals, so many digits, or as floats come.

What was written with few digits was rounded, and everything that is later compared with it (the points of a lattice,
a sum of other columns) can only be expected to agree to half a unit of the last digit.
"""

__all__ = ["Recording", "decimals_of", "recording_of", "relative_precision", "strays"]

from dataclasses import dataclass

import numpy as np

MOST_DECIMALS = 16
FLOAT32 = float(np.finfo(np.float32).eps)
FLOAT64 = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Recording:
    """How values were written.

    Attributes:
        decades: powers of ten in which values lie, increasing.
        decimals: most digits after the point of the values of each decade and the larger ones; empty for floats that
            were never rounded.
        precision: relative rounding error of one stored value.

    Example:
        >>> str(recording_of(np.array([0.25, 1.5, 2.75])))
        '2 decimals'
    """

    decades: tuple[int, ...]
    decimals: tuple[int, ...]
    precision: float

    @property
    def rounded(self) -> bool:
        """Whether the values were written with few digits at all."""
        return bool(self.decimals)

    @property
    def digits(self) -> int | None:
        """Significant digits, where these and not the decimals are the same in most decades."""
        digits = [d + e + 1 for d, e in zip(self.decimals, self.decades, strict=True)]
        return max(digits, key=digits.count) if len(set(self.decimals)) > 1 else None

    @property
    def relative(self) -> float:
        """Units of the last digit of large values, which have fewer decimals than small ones, as shares of these."""
        fewer = [(d, e) for d, e in zip(self.decimals, self.decades, strict=True) if d < self.decimals[0]]
        return max((10.0 ** (-d - e - 1) for d, e in fewer), default=0.0)

    def rounding(self, values: np.ndarray) -> np.ndarray:
        """How far each value may be from what was rounded to it: half a unit of its last digit."""
        sizes = np.abs(np.asarray(values, dtype=np.float64))
        stored = 8 * self.precision * float(sizes.max(initial=0.0))
        if not self.rounded:
            return np.full(sizes.shape, stored)
        place = np.searchsorted(self.decades, _decade(sizes)).clip(max=len(self.decades) - 1)
        return 0.5 * 10.0 ** -np.array(self.decimals, dtype=np.float64)[place] + stored

    def __str__(self) -> str:
        if not self.rounded:
            return "full precision"
        if self.digits is not None:
            return f"{self.digits} digits"
        most = self.decimals[0]
        return f"{most} decimal{'s' if most > 1 else ''}" if most else "whole numbers"


def _decade(sizes: np.ndarray) -> np.ndarray:
    return np.floor(np.log10(np.maximum(sizes, 1e-300)) + 1e-12)


def relative_precision(values: np.ndarray) -> float:
    """Relative rounding error of a stored value; of float32 too where float64 holds nothing else."""
    if values.dtype.kind != "f":
        return FLOAT64
    if values.dtype == np.float64:
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        if (narrow == values).all() and (values != np.rint(values)).any():
            return FLOAT32
    return float(np.finfo(values.dtype).eps)


def recording_of(values: np.ndarray, precision: float | None = None) -> Recording:
    """How values were written, from the shortest decimal numbers that they can be.

    Args:
        values: finite numbers, any shape.
        precision: relative rounding error of a stored value, where the dtype does not say it.
    """
    precision = relative_precision(values) if precision is None else precision
    levels = np.unique(values.astype(np.float64))
    decimals = decimals_of(levels, precision)
    if (decimals < 0).any():
        return Recording((), (), precision)
    decades = _decade(np.abs(levels[levels != 0]))
    of_decade = {int(e): int(decimals[levels != 0][decades >= e].max()) for e in np.unique(decades)}
    return Recording(tuple(of_decade), tuple(of_decade.values()), precision)


def decimals_of(levels: np.ndarray, precision: float) -> np.ndarray:
    """Digits after the point of each level, -1 for floats whose decimals have no end."""
    digits = np.where(levels == np.rint(levels), 0, -1)
    for k in range(1, MOST_DECIMALS):
        if (digits >= 0).all():
            break
        scaled = levels * 10.0**k
        error = 4 * precision * np.abs(scaled)
        digits[(np.abs(scaled - np.rint(scaled)) <= error) & (error < 0.05) & (digits < 0)] = k
    return digits


def strays(levels: np.ndarray, precision: float) -> np.ndarray:
    """The few levels with at least two decimals more than all others, as the mean that replaced missing values.

    Args:
        levels: distinct values, shape ``k``.
        precision: relative rounding error of a stored value.

    Returns:
        Which levels they are, shape ``k``; none where more than three levels and 2 % of them are finer.
    """
    decimals = decimals_of(levels, precision)
    decimals = np.where(decimals < 0, MOST_DECIMALS + 2, decimals)
    allowed = max(3, len(levels) // 50)
    if len(levels) < 2 + allowed:
        return np.zeros(len(levels), dtype=bool)
    return decimals > np.sort(decimals)[-1 - allowed] + 1
