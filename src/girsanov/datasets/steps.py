r"""The step of a lattice from its points, as the data's owner would say it.

All decimal numbers lie on some lattice exactly, but its step may be no more than the printing's own, and
the values the rounded points of a coarser one: thirds, whole numbers less their mean, or over their
standard deviation. A step h fits if one offset o puts every value within its own rounding
:math:`\epsilon_i` of a point,

.. math:: |x_i - o - h k_i| \le \epsilon_i ,

and it is believed if so many values would not all do that by chance. Of the steps that fit, the one with the fewest
digits, or 1/k, is the owner's.
"""

__all__ = ["BINNED", "Lattice", "find_grid", "shortest"]

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from girsanov.datasets.recording import Recording, decimals_of, recording_of

DIVISORS = (1, 2, 3, 4, 5, 6, 8, 10, 12)  #: of the smallest gap, that may be the step
ROUNDINGS = (1.05, 2.1)  #: values were rounded once, or twice
SHORT = 3  #: digits of a step that is an owner's own
SMALL_PART, LARGEST_PART = 1 / 61, 1000  #: 1/k comes before three digits up to 60, and is the owner's own to 1000
EXACT, ROUNDED, BINNED = 1e-3, 0.45, 0.5  #: how far from a lattice point a value may lie, in steps
CHANCE, LEFT = 8.0, 2.5  #: minus the log-probabilities from which a lattice, and a finer one, are believed


@dataclass(frozen=True)
class Lattice:
    """The points ``offset + step k``, and how far from one a value may lie.

    Attributes:
        step: distance of neighbouring points, 0 for a continuous column.
        offset: one of the points: the nearest to 0, or amid the data where the step is known to few digits.
        slack: in steps; twice the rounding of the data, or 0.5 where values are binned.
        relative: and so much of the distance from the offset: digits that large values lack, or the step's own error.

    Example:
        >>> Lattice(step=0.5, offset=0.0, slack=0.001).snap(np.array([0.5, 1.0000001]))
        array([0.5, 1. ])
    """

    step: float = 0.0
    offset: float = 0.0
    slack: float = 0.0
    relative: float = 0.0

    @property
    def binned(self) -> bool:
        """Whether values off the points are rounded to them, as bins were laid over the column."""
        return self.slack == BINNED

    @property
    def whole(self) -> bool:
        """Whether its points are whole numbers."""
        return self.step > 0.0 and self.step % 1 == self.offset % 1 == 0.0

    def snap(self, values: np.ndarray) -> np.ndarray:
        """The nearest lattice points; a value that is one to float64's precision is left as it is."""
        if not self.step:
            return values
        points = self.offset + self.step * np.rint((values - self.offset) / self.step)
        same = np.abs(points - values) <= 1e-9 * self.step + 4.5e-16 * np.abs(values)
        return np.where(same, values, points)

    def off(self, values: np.ndarray) -> np.ndarray:
        """Which values lie farther from every point than the rounding of the data explains."""
        if not self.step or self.binned:
            return np.zeros(values.shape, dtype=bool)
        distance = np.abs(self.snap(values) - values)
        allowed = self.slack * self.step + self.relative * np.abs(values - self.offset)
        return distance > allowed + 4.5e-16 * np.abs(values)


def find_grid(levels: np.ndarray, precision: float) -> Lattice | None:
    """The coarsest grid that holds sorted distinct levels, or ``None``.

    Args:
        levels: at least two, increasing.
        precision: relative rounding error of a stored value.

    Example:
        >>> find_grid(np.array([0.33, 0.67, 1.0, 1.33, 1.67, 2.0, 2.33, 2.67, 3.0, 3.33]), 2.2e-16).step == 1 / 3
        True
    """
    if len(levels) < 2:
        return None
    recording = recording_of(levels, precision)
    if not recording.rounded:
        return _rounded(levels, recording)
    exact = _decimal(levels, precision)
    if recording.decimals[0] == 0:
        return exact
    rounded = _rounded(levels, recording)
    if exact is None or rounded is None:
        return exact or rounded
    shorter = len(f"{rounded.step:.12g}") < len(f"{exact.step:.12g}")
    return rounded if rounded.step > (0.9 if shorter else 1.5) * exact.step else exact


def _decimal(levels: np.ndarray, precision: float) -> Lattice | None:
    """The grid of decimal numbers."""
    decimals = int(decimals_of(levels, precision).max())
    scaled = np.rint(levels * 10.0**decimals)
    if np.abs(scaled).max() > 2**53:
        return None
    whole = scaled.astype(np.int64)
    common = int(np.gcd.reduce(np.diff(whole)))
    # Dividing whole numbers rounds once, so 0.1 comes out as the float 0.1.
    offset = int(whole[0]) - common * round(int(whole[0]) / common)
    return Lattice(common / 10**decimals, offset / 10**decimals, EXACT, relative=4 * precision)


def _rounded(levels: np.ndarray, recording: Recording) -> Lattice | None:
    """The grid whose rounded points the levels are; large values of few digits have no say in its step."""
    rounding = recording.rounding(levels)
    for limit in np.unique(rounding)[::-1]:
        some = rounding <= limit
        if some.sum() < max(2, len(levels) / 2):
            return None
        points, errors = levels[some], rounding[some]
        gaps = np.diff(points)
        guess = float(gaps[gaps <= 1.5 * gaps.min()].mean())
        for divisor in DIVISORS:
            grid = _fitted(points, errors, guess / divisor, recording)
            if grid is not None and _holds(grid, levels, rounding):
                return grid
    return None


def _holds(grid: Lattice, levels: np.ndarray, rounding: np.ndarray) -> bool:
    distance = np.abs((levels - grid.offset + 0.5 * grid.step) % grid.step - 0.5 * grid.step)
    return bool((distance <= 2 * ROUNDINGS[-1] * rounding + grid.relative * np.abs(levels - grid.offset)).all())


def _fitted(levels: np.ndarray, errors: np.ndarray, step: float, recording: Recording) -> Lattice | None:
    if step < 8 * float(errors.max()):
        return None
    index = _index(levels, step)
    centred = index - index.mean()
    step = float(centred @ levels / (centred @ centred))
    if len(levels) > 2 and not _believed(errors, step, index):
        return None
    for candidate in _candidates(step):
        for factor in ROUNDINGS:
            low, high = _offsets(levels, factor * errors, candidate, index)
            if low <= high:
                return _grid(candidate, low, high, levels, factor * float(errors.max()), recording)
    return None


def _index(levels: np.ndarray, step: float) -> np.ndarray:
    """Which point each level is, from a guessed step that is refined on ever longer gaps."""
    gaps = np.diff(levels)
    reach = 4 * step
    while True:
        near = gaps[gaps <= reach] if reach < gaps.max() else gaps
        if len(near):
            step = float(near.sum() / np.maximum(np.rint(near / step), 1.0).sum())
        if len(near) == len(gaps):
            return np.concatenate([[0.0], np.cumsum(np.rint(gaps / step))])
        reach *= 4


def _believed(errors: np.ndarray, step: float, index: np.ndarray) -> bool:
    """Whether levels of no lattice would not fit by chance, nor those that a coarser one leaves over."""
    gains = -np.log(np.minimum(4 * errors / abs(step), 1.0))
    if np.sort(gains)[:-2].sum() < CHANCE:  # two levels fix offset and step
        return False
    for divisor in DIVISORS[1:]:
        classes, counts = np.unique(index % divisor, return_counts=True)
        left = np.sort(gains[index % divisor != classes[counts.argmax()]])
        if left[:-1].sum() < LEFT:  # one fixes the divisor
            return False
    return True


def _candidates(step: float) -> Iterator[float]:
    """The numbers near a step, an owner's first: of one and two digits, 1/k, and then of ever more digits."""
    yield from _own(step)
    for digits in range(SHORT + 1, 17):
        yield float(f"{step:.{digits}g}")
    yield step


def _own(step: float) -> Iterator[float]:
    for digits in range(1, SHORT):
        yield float(f"{step:.{digits}g}")
    inverse = [part / round(part / step) for part in (1.0, 2.0) if 1 < part / step < LARGEST_PART]
    yield from (part for part in inverse if part > SMALL_PART)
    yield float(f"{step:.{SHORT}g}")
    yield from inverse


def _offsets(levels: np.ndarray, errors: np.ndarray, step: float, index: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest offset that put every level within its error of its point."""
    rest = levels - step * index
    return float((rest - errors).max()), float((rest + errors).min())


def _grid(step: float, low: float, high: float, levels: np.ndarray, error: float, recording: Recording) -> Lattice:
    relative = max(4 * recording.precision, recording.relative)
    slack = min(max(EXACT, 2 * error / step), ROUNDED)
    if step in _own(step):
        middle = -step * round(0.5 * (low + high) / step)
    else:  # the step is only known to the digits that the data have: stay amid them
        middle = step * round((float(np.median(levels)) - low) / step)
        relative = max(relative, 4 * error / max(float(np.ptp(levels)), step))
    return Lattice(step, _shortest(low + middle, high + middle), slack, relative)


def _shortest(low: float, high: float) -> float:
    """The number with the fewest decimals between two."""
    middle = 0.5 * (low + high)
    for decimals in range(16):
        value = round(middle, decimals)
        if low <= value <= high:
            return value + 0.0
    return middle


def shortest(value: float, error: float) -> float:
    """The number of fewest digits that is within an error of a value.

    Example:
        >>> shortest(2.99993, 1e-3), shortest(0.3333, 1e-5), shortest(1e-12, 1e-9)
        (3.0, 0.3333, 0.0)
    """
    if abs(value) <= error:
        return 0.0
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 17))
    return next((candidate for candidate in candidates if abs(candidate - value) <= error), value)
