"""Rows and columns that a model cannot have, and one sentence for each that names row, column and remedy.

Values may be missing or infinite, too large or too small to square, or have lost their digits: to one value far from
all others, or to an offset, where what a column varies by is lost in how floats are stored.
"""

__all__ = [
    "LARGEST",
    "MAX_LEVELS",
    "Given",
    "RefusedRowsError",
    "refuse",
    "refuse_bad_pixels",
    "refuse_columns",
    "refuse_missing",
    "refuse_swallowed",
    "row_name",
    "some",
    "swallowed_notes",
]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from girsanov.datasets.frames import is_code, is_number, looks_missing
from girsanov.datasets.recording import relative_precision
from girsanov.types import InputError

MAX_LEVELS = 256  #: of a column of text
SHOWN = 5  #: problems and columns in one message
ALONE = 1e12  #: times as far out as the others: what a sum with it leaves of their digits
LARGEST = 1e100  #: squares of larger values overflow
COMPUTED = 2000  #: steps of float64 that a spread must have to be computed with
STORED, COARSE = 8, 1000  #: steps of a narrower type below which a spread is lost, and below which that is said
#: columns of objects by kind: what is wrong with them, and what to do
TEXTS = {
    "strange": ", not numbers; convert them, or leave them out with {drop}",
    "odd": " where most rows hold numbers; correct it, leave its row out, or leave the column out with {drop}",
    "text": ", not a number; use --categorical to one-hot encode text, or {drop}",
    "names": ", not a number, and seldom comes twice; convert it, or leave it out with {drop}",
    "codes": ", a name by its leading zeros; use --categorical to one-hot encode it, leave it out with {drop}, or read "
    "it as a number with {lattice}",
    "many codes": ", a name by its leading zeros; leave it out with {drop}, or read it as a number with {lattice}",
}
OPTIONS = ((" ", "--drop ", ""), (",", "", "=1"))  #: how columns are joined, and what stands before and after each
GAPS = (
    "impute the values or drop the rows, or leave the column out with --drop {column}.",
    "impute the values or drop the rows, leave the column out with --drop {column}, or read such cells as a level "
    "with --missing-as-level {column}.",
)


class Given(str):
    """The name of rows that were given in Python.

    Attributes:
        place: a row of them as Python writes it, with braces for its index.

    Example:
        >>> import numpy as np
        >>> row_name(Given("mine", np.zeros((3, 2))), 1), row_name("mine.csv", 1)
        ('x[1]', 'row 2')
    """

    place: str

    def __new__(cls, name: str, rows: Any) -> "Given":
        """Name these rows."""
        given = super().__new__(cls, name)
        given.place = "x.iloc[{}]" if hasattr(rows, "iloc") else "x[{}]"
        return given

    def __getnewargs__(self) -> tuple[str, None]:
        """What a copy is made from, to which the attributes are added."""
        return str(self), None


def row_name(source: str, row: int) -> str:
    """What a sentence calls a row of a source, from its index."""
    return source.place.format(row) if isinstance(source, Given) else f"row {row + 1}"


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
        refuse(bad, source, sentence, f" ({summary}: {some(list(counts))}); {advice.format(column=first)}")


def some(names: Sequence[str], shown: int = 6) -> str:
    """The first names, and how many more there are.

    Example:
        >>> some(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")


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


def refuse_columns(
    columns: Mapping[str, np.ndarray], source: str, *, categorical: bool, levels: Sequence[str] = ()
) -> None:
    """Refuse columns that cannot be modelled: missing values, text unasked, values too large, digits lost.

    Args:
        columns: by name.
        source: how errors call it.
        categorical: whether text is to be one-hot encoded.
        levels: columns in which what looks missing is a level.

    Raises:
        InputError: one sentence on the first kind of fault.
    """
    refuse_missing({name: columns[name] for name in columns if name not in levels}, source, *GAPS)
    _refuse_text(columns, source, categorical)
    for name, column in columns.items():
        _refuse_huge(name, column, source)
    refuse_swallowed(columns, source)


def _refuse_text(columns: Mapping[str, np.ndarray], source: str, categorical: bool) -> None:
    """Refuse what is neither number nor text, odd cells among numbers, and text unless it is to be one-hot encoded."""
    found: dict[str, list[tuple[str, str]]] = {kind: [] for kind in TEXTS}
    for name, column in columns.items():
        problem = _problem(name, column, source, categorical) if column.dtype == object else None
        if problem is not None:
            found[problem[0]].append((name, problem[1]))
    problems = []
    for kind, entries in found.items():
        if entries:
            shown = [name for name, _ in entries[:SHOWN]]
            drop, lattice = (joint.join(f"{before}{name}{after}" for name in shown) for joint, before, after in OPTIONS)
            advice = TEXTS[kind].format(drop=drop, lattice=f"--lattice {lattice}")
            problems.append(some([text for _, text in entries], SHOWN) + advice)
    if problems:
        raise InputError(f"{source}: {'; '.join(problems)}.")


def _problem(name: str, column: np.ndarray, source: str, categorical: bool) -> tuple[str, str] | None:
    """Why a column of objects cannot be modelled, a kind of :data:`TEXTS` and what was found."""
    codes = [row for row, cell in enumerate(column) if is_code(cell)]
    odd = [row for row, cell in enumerate(column) if not is_number(cell)] or codes or [*range(len(column))]
    cell, distinct = column[odd[0]], len(set(map(str, column)))
    few = distinct <= MAX_LEVELS and (2 * distinct <= len(column) or categorical)
    if not isinstance(cell, str):
        kind = "list" if isinstance(cell, np.ndarray) else type(cell).__name__
        return "strange", f"column {name!r} holds values of type {kind}"
    held = f"{row_name(source, odd[0])}, column {name!r} holds {_short(cell)}"
    if 2 * len(odd) <= len(column) and not (codes or (categorical and few and 20 * len(odd) > len(column))):
        return "odd", held + (f" ({len(odd)} such cells)" if len(odd) > 1 else "")
    if categorical:
        return None
    if odd is codes:
        return ("codes" if few else "many codes"), held
    return ("text" if few else "names"), f"{row_name(source, odd[0])}, column {name!r} is text ({_short(cell)})"


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


def _refuse_huge(name: str, column: np.ndarray, source: str) -> None:
    """Refuse values that cannot be squared, and one beside which no model sees the others: it ends their digits."""
    if column.dtype.kind != "f":
        return
    sizes, values = np.abs(column), column.astype(np.float64)
    if float(sizes.max()) > LARGEST:
        row = int(sizes.argmax())
        raise InputError(
            f"{source}: {row_name(source, row)}, column {name!r}: {column[row]} is too large to square; rescale "
            f"the column, or leave it out with --drop {name}."
        )
    distances = np.abs(values / 2 - float(np.median(values)) / 2)
    others, row = distances[distances > 0], int(distances.argmax())
    if len(others) and float(distances[row]) > ALONE * max(float(np.median(others)), 1e-300):
        raise InputError(
            f"{source}: {row_name(source, row)}, column {name!r}: {values[row]:.6g} is so far from the other values "
            "that these are all alike beside it; remove such rows if it marks missing values, else take logarithms, or "
            f"leave the column out with --drop {name}."
        )
    if column.max() != column.min() and float(sizes.max()) < 1.0 / LARGEST:
        raise InputError(f"{source}: column {name!r} is too small to square; rescale it, or use --drop {name}.")


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
    limits = {np.float64: COMPUTED} if refused else {}
    if column.dtype.kind == "f" and column.dtype != np.float64:
        limits[column.dtype.type] = STORED if refused else COARSE
    for kind, lost in limits.items():
        step = float(np.spacing(kind(size)))
        offset = refused or abs(float(values.mean())) > spread
        if spread < lost * step and size > 1e-100 and offset and not _rounding_error(values, column):
            return f"about {spread:.2g} around {values.mean():.6g}, where {np.dtype(kind)} keeps steps of {step:.3g}"
    return ""


def _rounding_error(values: np.ndarray, column: np.ndarray) -> bool:
    """Whether the values are one number that was computed in several ways: no whole numbers, a few roundings apart."""
    size = float(np.abs(values).max())
    near = float(np.ptp(values)) <= 8 * relative_precision(column) * size
    return near and bool((values != np.rint(values)).any())
