"""Columns whose digits are eaten by an offset: what they vary by is lost, or nearly, in how floats are stored."""

__all__ = ["refuse_swallowed", "swallowed_notes"]

from collections.abc import Mapping

import numpy as np

from girsanov.datasets.recording import relative_precision
from girsanov.types import InputError

COMPUTED = 2000  #: steps of float64 that a spread must have to be computed with
STORED, COARSE = 8, 1000  #: steps of a narrower type below which a spread is lost, and below which that is said


def refuse_swallowed(columns: Mapping[str, np.ndarray], source: str) -> None:
    """Refuse columns that vary by too few steps of the floats that hold them.

    Raises:
        InputError: naming all of them, and the first one's offset and step.
    """
    found = {name: said for name, column in columns.items() if (said := _swallowed(column, refused=True))}
    if found:
        name, said = next(iter(found.items()))
        others = [repr(other) for other in found if other != name]
        also = f" (so do {', '.join(others[:6])}{' and more' if len(others) > 6 else ''})" if others else ""
        raise InputError(
            f"{source}: column {name!r} varies by {said}{also}; subtract an offset before the values are stored as "
            f"floats, or leave the column out with --drop {name}."
        )


def swallowed_notes(columns: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Sentences about columns that have lost digits, but not all."""
    found = {name: said for name, column in columns.items() if (said := _swallowed(column, refused=False))}
    return tuple(
        f"{name!r} varies by {said}; subtract an offset before it is stored so, and its digits are kept."
        for name, said in found.items()
    )


def _swallowed(column: np.ndarray, *, refused: bool) -> str:
    """By how much a column varies, around what, in which steps; nothing where these are fine."""
    if column.dtype == object or column.max() == column.min():
        return ""
    values = column.astype(np.float64)
    spread, size = float(values.std()), float(np.abs(values).max())
    for kind in (np.float64, column.dtype.type if column.dtype.kind == "f" else np.float64):
        step = float(np.spacing(kind(size)))
        lost = COMPUTED if kind is np.float64 else (STORED if refused else COARSE)
        if kind is np.float64 and not refused:
            continue
        offset = refused or abs(float(values.mean())) > spread
        if spread < lost * step and size > 1e-100 and offset and not _rounding_error(values, column):
            return f"about {spread:.2g} around {values.mean():.6g}, where {np.dtype(kind)} keeps steps of {step:.3g}"
    return ""


def _rounding_error(values: np.ndarray, column: np.ndarray) -> bool:
    """Whether the values are one number that was computed in several ways: no whole numbers, a few roundings apart."""
    size = float(np.abs(values).max())
    near = float(np.ptp(values)) <= 8 * relative_precision(column) * size
    return near and bool((values != np.rint(values)).any())
