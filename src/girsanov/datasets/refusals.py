"""Rows that a model cannot have: missing and infinite values, and one sentence that names row, column and remedy."""

__all__ = ["RefusedRowsError", "refuse", "refuse_bad_pixels", "refuse_missing"]

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from girsanov.datasets.places import row_name
from girsanov.types import InputError


class RefusedRowsError(InputError):
    """Rows that a model cannot have; the message is on the first of them.

    Attributes:
        bad: which rows, bool, shape ``n``.
        sentence: what is wrong with a row, given its position, without its number.
    """

    def __init__(self, source: str, bad: np.ndarray, sentence: Callable[[int], str], advice: str = "") -> None:
        first, more = int(bad.argmax()), int(bad.sum()) - 1
        also = f" ({more + 1} such rows)" if more and not advice else ""
        super().__init__(f"{source}: {row_name(source, first)}, {sentence(first)}{advice}{also}")
        self.bad, self.sentence = bad, sentence


def refuse(bad: Any, source: str, sentence: Callable[[int], str], advice: str = "") -> None:
    """Raise where any row is bad, see :class:`RefusedRowsError`."""
    if bad.any():
        raise RefusedRowsError(source, bad, sentence, advice)


def refuse_missing(columns: Mapping[str, np.ndarray], source: str, advice: str) -> None:
    """Refuse missing and infinite values.

    Raises:
        InputError: naming the first row and column of the first kind found, and how many there are.
    """
    import pandas as pd

    gaps = {name: np.asarray(pd.isna(column)) for name, column in columns.items()}
    _refuse_cells(gaps, "is missing", "missing value", source, advice)
    infinite = {name: np.isinf(column) for name, column in columns.items() if column.dtype.kind == "f"}
    _refuse_cells(infinite, "is infinite", "infinite value", source, advice)


def _refuse_cells(marks: Mapping[str, np.ndarray], what: str, plural: str, source: str, advice: str) -> None:
    counts = {name: int(mark.sum()) for name, mark in marks.items() if mark.any()}
    if not counts:
        return
    bad = np.logical_or.reduce([marks[name] for name in counts])
    name = next(name for name in counts if marks[name][bad.argmax()])
    total, several = sum(counts.values()), "s" if len(counts) > 1 else ""
    summary = f"{total} {plural}{'s' if total > 1 else ''} in {len(counts)} column{several}: {_listed(list(counts))}"
    advice = f" ({summary}); {advice.format(column=name)}"
    refuse(bad, source, lambda i: f"column {next(name for name in counts if marks[name][i])!r} {what}", advice)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def refuse_bad_pixels(values: np.ndarray, source: str) -> None:
    """Refuse images with NaN or infinite pixels.

    Raises:
        InputError: naming the first image and pixel.
    """
    if values.dtype.kind != "f":
        return
    bad = ~np.isfinite(values).reshape(len(values), -1)

    def sentence(i: int) -> str:
        place = np.unravel_index(int(bad[i].argmax()), values.shape[1:])
        return f"pixel {tuple(map(int, place))} is {values[i][place]}"

    refuse(bad.any(1), source, sentence, f" ({int(bad.sum())} such values); remove such rows or impute the values")
