"""Data frames as named columns: whatever holds a table comes through here, files too.

A column is numeric when every cell is a number or missing, else it is text. Missing cells become NaN or ``None``; words
for them, as NA, stay as they are in text, where they may be names. Both are refused later, where the schema can say
what to do. An index of pandas is never data.
"""

__all__ = [
    "COMMAS",
    "GROUPED",
    "MISSING",
    "MISSING_LEVEL",
    "as_levels",
    "csv_text",
    "framed",
    "is_code",
    "is_number",
    "looks_missing",
    "spelled",
]

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from girsanov.datasets.raw import Raw
from girsanov.types import InputError

if TYPE_CHECKING:
    import pandas as pd

#: in any column, in any case
MISSING = frozenset(
    {"", "nan", "na", "n/a", "null", "none", "?", "<na>", "nat", "-nan", "1.#qnan", "-1.#ind", "n.a.", "\\n", "(null)"}
) | {f"#{error}" for error in ("n/a", "na", "div/0!", "value!", "ref!", "num!", "null!", "name?")}
MISSING_LEVEL = "NA"  #: the level of cells with nothing in them, where these are one
DASHES = frozenset({"-", "--", "–", "—", ".", "*"})  #: missing among numbers, a level among texts
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE)
#: how a comma may stand in a number: what the cells look like, and what is to be removed from them
COMMAS = {
    "thousands": (re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(,\d{3})+)(\.\d*)?", re.ASCII), ","),
    "decimal": (re.compile(r"[+-]?(\d*|[1-9]\d{0,2}(\.\d{3})+)(,\d+)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE), "."),
}
#: a number whose thousands stand apart by blanks or apostrophes
GROUPED = re.compile("[+-]?[1-9]\\d{0,2}([ \u00a0\u2009\u202f'\u2019])\\d{3}(\\1\\d{3})*([.,]\\d*)?", re.ASCII)
READ_MARKS = {
    "thousands": "Commas before three digits were read as thousands separators",
    "decimal": "Commas were read as decimal points",
    "blanks": "Blanks before three digits were read as thousands separators",
    "apostrophes": "Apostrophes before three digits were read as thousands separators",
}
CODE = re.compile(r"0\d+", re.ASCII)
#: names that pandas gives to columns without one, and to an index
NAMELESS = re.compile(r"(Unnamed: \d+(_level_\d+)?|__index_level_\d+__)?")


def csv_text(frame: "pd.DataFrame") -> str:
    r"""Rows as CSV; numbers have twelve digits, as networks compute with seven, and 0.30000000000000004 is 0.3.

    Example:
        >>> import pandas as pd
        >>> csv_text(pd.DataFrame({"a": [0.1 + 0.2, None], "b": ["u", "v, w"]}))
        'a,b\n0.3,u\nnan,"v, w"\n'
    """
    return frame.to_csv(index=False, float_format="%.12g", na_rep="nan", lineterminator="\n")


def is_number(cell: Any) -> bool:
    """Whether a cell is a number, or the decimal spelling of one; ``1_000``, ``0x1A`` and ``1+2j`` are identifiers.

    Example:
        >>> [is_number(cell) for cell in (1, " -2.5e3", "1_000", "0x1A", None)]
        [True, True, False, False, False]
    """
    if isinstance(cell, str):
        return NUMBER.fullmatch(cell.strip()) is not None
    return isinstance(cell, (Real, Decimal, np.bool_))


def is_code(cell: Any) -> bool:
    """Whether a cell is written with zeros before a whole number, as zip codes and other names are.

    Example:
        >>> [is_code(cell) for cell in ("00039", " 01", "0", "-01", "00.5", 39)]
        [True, True, False, False, False, False]
    """
    return isinstance(cell, str) and CODE.fullmatch(cell.strip()) is not None


def looks_missing(column: np.ndarray) -> np.ndarray:
    """Which cells are missing, or text that mostly says so: bool, shape ``n``.

    Example:
        >>> looks_missing(np.array(["oak", "NA", None, "n/a", "none of these"], dtype=object)).tolist()
        [False, True, True, True, False]
    """
    import pandas as pd

    gaps = np.asarray(pd.isna(column))
    if column.dtype != object:
        return gaps
    return gaps | np.array([isinstance(cell, str) and cell.lower() in MISSING for cell in column], dtype=bool)


def as_levels(column: np.ndarray) -> np.ndarray:
    """Cells as names, those with nothing in them as NA.

    Example:
        >>> as_levels(np.array(["oak", "None", None], dtype=object)).tolist()
        ['oak', 'None', 'NA']
    """
    import pandas as pd

    pairs = zip(column.tolist(), np.asarray(pd.isna(column)), strict=True)
    return np.array([MISSING_LEVEL if gap else spelled(cell) for cell, gap in pairs], dtype=object)


def spelled(cell: Any) -> str:
    """One spelling per number, so that ``1`` and ``1.0`` are one level of a text column; ``01`` is another name.

    Example:
        >>> spelled("1.0"), spelled(1), spelled("0.10"), spelled(" red "), spelled("01")
        ('1', '1', '0.1', 'red', '01')
    """
    text = str(cell).strip()
    if isinstance(cell, (bool, np.bool_)) or not is_number(text) or is_code(text):
        return text
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return str(int(text))
    value = float(text)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def framed(frame: "pd.DataFrame", name: str, *, commas: tuple[str, ...] = tuple(COMMAS), **known: Any) -> Raw:
    """A data frame as :class:`Raw`.

    Args:
        frame: columns of any type; those that are neither numbers nor text stay objects.
        name: how errors call it.
        commas: what commas in numbers may be, the likelier first.
        **known: further attributes of the result; sentences about what was left out or read in a special way follow its
            notes.

    Raises:
        InputError: two columns of one name, no rows or no columns.

    Example:
        >>> import pandas as pd
        >>> framed(pd.DataFrame({"a": ["1.5", "?"], "b": [True, False]}), "frame").columns
        (array([1.5, nan]), array([1, 0], dtype=uint8))
    """
    if 0 in frame.shape:
        raise InputError(f"{name}: holds no rows; give a table with at least one row of numbers.")
    names = tuple(_label(label) for label in frame.columns)
    read = [_column(series, commas) for _, series in frame.items()]
    styles = {style for _, found in read for style in found}
    if {"thousands", "decimal"} <= styles:  # a file has one way to write numbers: 1,234 beside 0,5 is 1.234
        return framed(frame, name, commas=commas[1:], **known)
    columns = {j: column for j, (column, _) in enumerate(read)}
    index = [str(label) for label in frame.index.names if label is not None and not NAMELESS.fullmatch(str(label))]
    notes = [f"The index {label!r} is not data; reset_index() makes it a column." for label in index]
    notes += _leave_out(names, columns)
    taken = {names[j] for j in columns}
    final = tuple(names[j] or _fresh(j, taken) for j in columns)
    notes += _marks({label: read[j] for label, j in zip(final, columns, strict=True)})
    known = {"named": True, **known, "notes": (*known.get("notes", ()), *notes)}
    return Raw(name, "table", names=final, columns=tuple(columns.values()), **known)


def _marks(read: Mapping[str, tuple[np.ndarray, tuple[str, ...]]]) -> list[str]:
    """Sentences on how the marks in numbers were read."""
    notes = []
    for style in sorted({style for _, found in read.values() for style in found}):
        names = [name for name, (_, found) in read.items() if style in found]
        notes.append(f"{READ_MARKS[style]}: {', '.join(names)}.")
        plain = {name: column for name, (column, found) in read.items() if not found and column.dtype.kind == "f"}
        pointed = [name for name, column in plain.items() if (np.nan_to_num(column) % 1 != 0).any()]
        if style == "decimal" and pointed:
            notes.append(f"Points were too: {', '.join(pointed)}; write all numbers in one way if they are not.")
    return notes


def _label(label: Any) -> str:
    """A column's name as text; the levels of a longer one are joined."""
    if isinstance(label, tuple):
        return "_".join(part for part in map(_label, label) if part)
    return "" if label is None or label != label else str(label).strip()


def _fresh(j: int, taken: set[str]) -> str:
    """A name for a column without one."""
    name = f"x{j + 1}"
    while name in taken:
        name += "_"
    return name


def _leave_out(names: Sequence[str], columns: dict[int, np.ndarray]) -> list[str]:
    """Remove columns that are no data: an index that was written as a column, and empty ones without a name."""
    notes = []
    for j, name in enumerate(names):
        if len(columns) == 1 or not NAMELESS.fullmatch(name):
            continue
        called = repr(name) if name else f"{j + 1}, which has no name"
        column = columns[j]
        if bool(looks_missing(column).all()):
            notes.append(f"Left out column {called}: it is empty.")
        elif (j == 0 or name.startswith("__")) and (
            column.dtype.kind != "f" or bool((column == np.rint(column)).all())
        ):
            notes.append(f"Left out column {called}: it is the index of the rows; give it a name if it is data.")
        else:
            continue
        del columns[j]
    return notes


def _column(series: "pd.Series", commas: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column as numbers or objects, and how the marks in its numbers were read."""
    import pandas as pd

    kind: Any = series.dtype
    if isinstance(kind, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(kind):
        return _cells(series, commas)
    if series.hasnans and not isinstance(kind, np.dtype):
        return series.to_numpy(dtype=np.float64, na_value=np.nan), ()
    plain = kind if isinstance(kind, np.dtype) else getattr(kind, "numpy_dtype", getattr(kind, "subtype", None))
    if plain is None or plain.kind not in "buif":
        return _cells(series, commas)
    return np.ascontiguousarray(series.to_numpy(dtype=np.uint8 if plain.kind == "b" else plain)), ()


def _cells(series: "pd.Series", commas: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column of objects: numbers where all cells are, else text, else whatever they are."""
    import pandas as pd

    declared = isinstance(series.dtype, pd.CategoricalDtype)
    try:
        codes, found = pd.factorize(series.astype(object).to_numpy())
    except TypeError:  # lists and the like
        return series.to_numpy(dtype=object), ()
    written = [(cell.strip() or None) if isinstance(cell, str) else cell for cell in found]
    cells = [None if isinstance(cell, str) and cell.lower() in MISSING else cell for cell in written]
    words = any(cell is not None for cell in written) and all(cell is None for cell in cells)  # NA and nothing else
    numbers, styles = (None, ()) if declared or words or _are_codes(cells) else _numbers(cells, commas)
    if numbers is not None:
        return np.append(numbers, np.nan)[codes] if (codes < 0).any() else numbers[codes], styles
    texts = np.empty(len(cells) + 1, dtype=object)
    known = declared or all(cell is None or isinstance(cell, str) or is_number(cell) for cell in cells)
    texts[:-1] = [spelled(cell) if known and cell is not None else cell for cell in written]
    return texts[codes], ()


def _are_codes(cells: list[Any]) -> bool:
    """Whether whole numbers are written with leading zeros, which no owner of numbers writes."""
    return any(map(is_code, cells)) and all(
        cell is None or str(cell).isdecimal() or (isinstance(cell, str) and cell in DASHES) for cell in cells
    )


def _numbers(cells: list[Any], commas: tuple[str, ...]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Distinct cells as numbers, ``None`` where some are none, and how their marks were read."""
    cells = ["nan" if cell is None or (isinstance(cell, str) and cell in DASHES) else cell for cell in cells]
    cells = [cell.replace("\N{MINUS SIGN}", "-") if isinstance(cell, str) else cell for cell in cells]
    if all(map(is_number, cells)):
        if cells and all(isinstance(cell, int) and abs(cell) < 2**63 for cell in cells):
            return np.array([int(cell) for cell in cells], dtype=np.int64), ()
        return np.array([float(cell) for cell in cells], dtype=np.float64), ()
    texts = [str(cell) for cell in cells]
    marks = {found[1] for text in texts if (found := GROUPED.fullmatch(text))}
    if len(marks) == 1:
        (mark,) = marks
        numbers, styles = _numbers([t.replace(mark, "") if GROUPED.fullmatch(t) else t for t in texts], ("decimal",))
        return numbers, (*styles, "apostrophes" if mark in "'\u2019" else "blanks")
    for style in commas:
        pattern, removed = COMMAS[style]
        if all(text == "nan" or (text and pattern.fullmatch(text)) for text in texts):
            plain = [text.replace(removed, "").replace(",", ".") for text in texts]
            return np.array([float(text) for text in plain], dtype=np.float64), (style,)
    return None, ()
