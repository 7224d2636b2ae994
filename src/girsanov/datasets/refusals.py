"""Rows that a model cannot have: missing and infinite values, and one sentence that names row, column and remedy."""

__all__ = ["RefusedRowsError", "refuse", "refuse_bad_pixels", "refuse_missing"]

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from girsanov.datasets.frames import looks_missing
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


def refuse_missing(columns: Mapping[str, np.ndarray], source: str, of_numbers: str, of_text: str = "") -> None:
    """Refuse missing and infinite values.

    Args:
        columns: by name; of text, words such as NA count as missing.
        source: how errors call it.
        of_numbers: what to do, with braces for the column.
        of_text: what to do where the column is text, if that is more.

    Raises:
        InputError: naming the first row and column of the first kind found, and how many there are.
    """
    gaps = {name: looks_missing(column) for name, column in columns.items()}
    infinite = {name: np.isinf(column) for name, column in columns.items() if column.dtype.kind == "f"}
    for kind, marks in (("missing", gaps), ("infinite", infinite)):
        counts = {name: int(mark.sum()) for name, mark in marks.items() if mark.any()}
        if not counts:
            continue

        def sentence(i: int, marks: Mapping[str, np.ndarray] = marks, kind: str = kind) -> str:
            name = next(name for name in marks if marks[name][i])
            cell = columns[name][i]
            found = f"holds {cell!r}, which is read as missing" if isinstance(cell, str) else f"is {kind}"
            return f"column {name!r} {found}"

        bad = np.logical_or.reduce([marks[name] for name in counts])
        first = next(name for name in counts if marks[name][bad.argmax()])
        total, several = sum(counts.values()), "s" if len(counts) > 1 else ""
        summary = f"{total} {kind} value{'s' if total > 1 else ''} in {len(counts)} column{several}"
        advice = (columns[first].dtype == object and of_text) or of_numbers
        refuse(bad, source, sentence, f" ({summary}: {_listed(list(counts))}); {advice.format(column=first)}")


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
