"""Tables from text and Parquet files: columns with names, parsed but not interpreted.

pandas parses; how a text file is laid out is found here, because every guess is to be said and every fault to have
its line. Rows are numbered from 1 without the header.
"""

__all__ = ["TEXT_SUFFIXES", "read_parquet", "read_text"]

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from girsanov.datasets.frames import COMMAS, GROUPED, MISSING, framed, is_number
from girsanov.datasets.raw import Raw, guarded, positional_names
from girsanov.types import InputError

if TYPE_CHECKING:
    import pandas as pd

PACKED: dict[str, Any] = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress, ".zip": None}
TEXT_SUFFIXES = tuple(kind + packed for kind in (".csv", ".tsv", ".txt") for packed in ("", *PACKED))
#: what begins with bytes that no text does
FOREIGN = {
    b"\x1f\x8b": "is packed by gzip; name it .csv.gz",
    b"PK\x03\x04": "is a zip archive or an Excel workbook; save its table as CSV",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; save its table as CSV",
    b"PAR1": "is a Parquet file; name it .parquet",
}
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
SEPARATORS = "\t;|,"  #: the earlier wins where two explain a file alike
EXACT: Any = "round_trip"  #: a spelling that the stubs of pandas lack
TEXTS = ("string", "mixed", "mixed-integer")  #: what pandas calls columns with text in them
HEAD_LINES = 100  #: what the layout is found from
SPELLINGS = sorted({way(word) for word in MISSING for way in (str, str.upper, str.title)})


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out.

    Attributes:
        separator: of cells; a blank stands for any number of blanks.
        skipped: records before the first row.
        names: of the columns, ``None`` where the file has none; an empty one for a column without.
        width: number of columns.
        notes: sentences on what was guessed.
    """

    separator: str
    skipped: int
    names: tuple[str, ...] | None
    width: int
    notes: tuple[str, ...]


def read_text(path: Path, name: str) -> Raw:
    """Read a ``.csv``, ``.tsv`` or ``.txt`` file, also one packed by gzip, bzip2, xz or zip.

    The separator (tab, semicolon, bar, comma or blanks) is the one that gives most lines the same number of cells. The
    first row is a header when it holds no number and the rows below do, when its numbers count the columns or grow
    from each to the next and the rows below are not like it, or, in a table of text, when none of its cells comes
    again in its column. Lines above it that are comments or titles, and empty rows at the end, are left out, and said.

    Args:
        path: the file, in UTF-8, UTF-16 with its mark, or Windows-1252.
        name: how errors call it.

    Raises:
        InputError: unreadable or truncated file, no rows, a row of another length (naming its line), or a column name
            that occurs twice.
    """
    import pandas as pd

    suffix = path.suffix.lower()
    known = {".gz": "gzip", ".bz2": "bzip2"}.get(suffix, suffix[1:])
    with guarded(name, f"a {known}-compressed text file" if suffix in PACKED else "a text file"):
        text, notes = _decoded(_unpacked(path, suffix, name), name)
        layout = _layout(list(islice(_lines(text), HEAD_LINES)), name)
        frame, left_out = _frame(text, layout, name)
        frame.columns = pd.Index(layout.names or positional_names(layout.width))
        styles = ("thousands", "decimal") if layout.separator == "," else ("decimal", "thousands")
        notes = (*notes, *layout.notes, *left_out)
        return framed(frame, name, commas=styles, named=layout.names is not None, notes=notes)


def _unpacked(path: Path, suffix: str, name: str) -> bytes:
    if suffix != ".zip":
        return PACKED.get(suffix, bytes)(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.namelist() if not member.endswith("/") and "__MACOSX" not in member]
        if len(members) != 1:
            raise InputError(f"{name}: holds {len(members)} files ({', '.join(members[:5])}); give an archive of one.")
        return archive.read(members[0])


def _decoded(data: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    """The text of a file, and a sentence where its encoding had to be guessed."""
    foreign = next((what for mark, what in FOREIGN.items() if data.startswith(mark)), None)
    if foreign is not None:
        raise InputError(f"{name}: {foreign}.")
    marked = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), None)
    for encoding in [marked] if marked else ["utf-8", "cp1252"]:
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if "\0" in text:
                raise InputError(f"{name}: holds zero bytes and is no plain text; save it as UTF-8.")
            guess = "Not in UTF-8, so read as Windows-1252; save the file as UTF-8 if letters look wrong."
            return text, (guess,) if encoding == "cp1252" else ()
    raise InputError(f"{name}: is neither in UTF-8 nor in Windows-1252; save it as UTF-8.")


def _lines(text: str) -> io.StringIO:
    """The lines of a text with the ends that they have."""
    return io.StringIO(text, newline="")


def _records(lines: Iterable[str], separator: str, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every record that is not empty."""
    if separator == " ":
        lines = (" ".join(line.split()) for line in lines)
    reader = csv.reader(lines, delimiter=separator, strict=strict, skipinitialspace=True)
    for row in reader:
        if len(row) > 1 or (row and row[0].strip()):
            yield reader.line_num, [cell.strip() for cell in row]


def _layout(lines: list[str], name: str) -> Layout:
    separator = _separator([line for line in lines if line.strip() and not line.lstrip().startswith("#")])
    records = list(_records(lines, separator))
    widths = Counter(len(cells) for _, cells in records if not cells[0].startswith("#"))
    if not widths:
        raise InputError(f"{name}: holds no rows; give a table with at least one row of numbers.")
    width = widths.most_common(1)[0][0]
    above, comment = _titles([cells for _, cells in records], width)
    (line, first), rest = records[above], [cells for _, cells in records[above + 1 :]]
    _refuse_ruled(records[above + 1 :], name)
    names, note = _names(first, rest, comment, width)
    if len(first if names is None else names) != width:
        raise _ragged(name, line, len(first), width)
    own = names is not None and names != comment
    if own and not rest:
        raise InputError(f"{name}: holds a header and no rows; give at least one row of numbers.")
    lines_above = [str(line) for line, _ in records[: above - (comment == names)]]
    if lines_above:
        note.append(f"Left out line {', '.join(lines_above)}: a comment or title.")
    return Layout(separator, above + own, names, width, tuple(note))


def _names(
    first: list[str], rest: list[list[str]], comment: tuple[str, ...], width: int
) -> tuple[tuple[str, ...] | None, list[str]]:
    """The names of the columns, ``None`` where there are none, and a sentence on how they were found."""
    start = ", ".join(first[:3])
    if _is_header(first, rest):
        short = len(first) == width - 1 and width > 2 and all(cells[-1] for cells in rest)
        guessed = [f"Read the first row ({start}, ...) as the names of the columns."]
        guessed = guessed if any(map(_like_number, first)) else []
        return (("", *first) if short else tuple(first)), guessed  # R gives no name to the names of rows
    if len(comment) == width and not any(map(_like_number, comment)):
        return comment, ["Took the names of the columns from the comment above them."]  # as numpy.savetxt writes
    return None, [f"Read the first row ({start}, ...) as data; name the columns if it is not."] if _counts(
        first
    ) else []


def _separator(lines: list[str]) -> str:
    """What stands between the cells of the first lines."""
    best, found = (0.0, 0.0), ","
    for mark in SEPARATORS:
        rows = [cells for _, cells in _records(lines, mark)]
        width, count = Counter(map(len, rows)).most_common(1)[0] if rows else (1, 0)
        cells = [cell for row in rows[1:] for cell in row]
        score = (round(count / max(len(rows), 1), 1), sum(map(_like_number, cells)) / max(len(cells), 1))
        if width > 1 and 2 * count >= len(rows) and score > best:
            best, found = score, mark
    rows = [line.split() for line in lines]
    widths = Counter(map(len, rows[1:] or rows))
    cells = [cell for row in rows[1:] or rows for cell in row]
    if found == "," and len(lines) > 1 and _one_column(lines):
        return ";"
    blanks = bool(widths) and widths.most_common(1)[0][0] > 1 and 2 * sum(map(_like_number, cells)) > len(cells)
    return " " if blanks and not best[0] else found


def _one_column(lines: list[str]) -> bool:
    """Whether one name stands above numbers with decimal commas, or with thousands that stand apart."""
    numbers = [line.strip() for line in lines[1:]]
    if "," in lines[0]:
        return False
    if all(re.fullmatch(r"[+-]?\d+,\d+", number) for number in numbers):
        return True
    lone = len(lines[0].split()) == 1 and not _like_number(lines[0].strip())
    return lone and any(map(GROUPED.fullmatch, numbers)) and all(map(_like_number, numbers))


def _refuse_ruled(records: list[tuple[int, list[str]]], name: str) -> None:
    for line, cells in records:
        if set("".join(cells)) <= set("-+=:| ") and any(len(cell) > 2 for cell in cells):
            raise InputError(f"{name}: line {line} is a ruled line, as in printed tables; save the data as plain CSV.")


def _titles(records: list[list[str]], width: int) -> tuple[int, tuple[str, ...]]:
    """How many records stand above the table, and the cells of the last one if it is a comment."""
    count, comment = 0, ()
    for cells, following in pairwise(records):
        marked = cells[0].startswith("#")
        alone = bool(cells[0]) and not any(cells[1:]) and not _like_number(cells[0])
        above = len(cells) < width or (width > 1 and all(following) and not any(map(_like_number, following)))
        if not marked and not (alone and above):
            break
        comment = tuple(cell for cell in (cells[0].lstrip("# "), *cells[1:]) if cell) if marked else ()
        count += 1
    return count, comment


def _like_number(cell: str) -> bool:
    patterns = (GROUPED, *(pattern for pattern, _ in COMMAS.values()))
    return is_number(cell) or (bool(cell) and any(pattern.fullmatch(cell) for pattern in patterns))


def _counts(cells: list[str]) -> bool:
    """Whether the numbers among cells are 0, 1, 2, ..., or 1, 2, 3, ..., or years one after the other."""
    numbers = [cell for cell in cells if is_number(cell)]
    if len(numbers) < 2 or not all(cell.isdecimal() for cell in numbers):
        return False
    first = int(numbers[0])
    return (first < 2 or 1000 <= first < 3000) and [int(cell) for cell in numbers] == [
        *range(first, first + len(numbers))
    ]


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    numbers = [j for j, cell in enumerate(first) if _like_number(cell)]
    if numbers:
        return (_counts(first) and _unlike(first, numbers, rest)) or _axis(first, numbers, rest)
    if all(cell.lower() in MISSING for cell in first):
        return False
    if not rest or any(map(_like_number, rest[0])):
        return True
    return not any(first[j] in {row[j] for row in rest if j < len(row)} for j in range(len(first)))


def _below(j: int, rest: list[list[str]]) -> list[float]:
    return [float(row[j]) for row in rest if j < len(row) and is_number(row[j])]


def _axis(first: list[str], numbers: list[int], rest: list[list[str]]) -> bool:
    """Whether five numbers or more grow from each to the next, most of them far from all that stands below them."""
    if len(numbers) < 5 or len(rest) < 5 or not all(is_number(first[j]) for j in numbers):
        return False
    far = 0
    for j in numbers:
        below = _below(j, rest)
        low, high = min(below, default=0.0), max(below, default=0.0)
        far += max(low - float(first[j]), float(first[j]) - high) > high - low
    return 2 * far > len(numbers) and all(float(first[i]) < float(first[j]) for i, j in pairwise(numbers))


def _unlike(first: list[str], numbers: list[int], rest: list[list[str]]) -> bool:
    """Whether the rows below hold other kinds of numbers than a row that counts: fractions, or of another size."""
    columns = [_below(j, rest) for j in numbers]
    fractions = sum(any(value % 1 for value in column) for column in columns)
    if 2 * fractions > len(columns) and rest:
        return True
    values = {value for column in columns for value in column}
    if int(first[numbers[0]]) >= 1000:
        return bool(values) and not any(1000 <= value < 3000 for value in values)
    pairs = [(float(first[j]), column) for j, column in zip(numbers, columns, strict=True)]
    outside = sum(not min(values) <= value <= max(values) for value, _ in pairs) if values else 0
    absent = sum(value not in column for value, column in pairs) if len(rest) > 20 else 0
    return len(numbers) > 4 and 2 * max(outside, absent) > len(numbers)


def _frame(text: str, layout: Layout, name: str) -> tuple["pd.DataFrame", tuple[str, ...]]:
    """The rows, parsed by pandas, less empty ones at the end; a record of another width is refused with its line."""
    import pandas as pd
    from pandas.api.types import infer_dtype

    try:
        frame = _parsed(text, layout, dtype=dict.fromkeys(_coded(text, layout), str))
    except pd.errors.ParserError:
        _check_widths(text, layout, name)
        raise
    if frame.shape[1] != layout.width or frame.iloc[:, -1].hasnans:  # pandas fills what a short record lacks
        _check_widths(text, layout, name)
    empty = 0
    if layout.width > 1 and frame.iloc[-1].isna().all():
        for _, cells in _records(_lines(text), layout.separator):
            empty = 0 if any(cells) else empty + 1
        frame = frame.iloc[: len(frame) - empty].infer_objects()
    words = [j for j in frame if frame[j].hasnans and (frame[j].isna().all() or infer_dtype(frame[j]) in TEXTS)]
    if words:  # among texts NA may be a name, and stays as it is written
        frame[words] = _parsed(text, layout, na_values=[""], dtype=str, usecols=words).iloc[: len(frame)]
    note = f"Left out {empty} empty row{'s' if empty > 1 else ''} at the end."
    return frame, (note,) if empty else ()


def _parsed(text: str, layout: Layout, **options: Any) -> Any:
    import pandas as pd

    rows = _lines(text)
    list(islice(_records(rows, layout.separator), layout.skipped))
    return pd.read_csv(
        rows,
        header=None,
        sep=r"\s+" if layout.separator == " " else layout.separator,
        keep_default_na=False,
        float_precision=EXACT,
        skipinitialspace=True,
        **{"na_values": SPELLINGS, **options},
    )


def _coded(text: str, layout: Layout) -> list[int]:
    """Columns in which whole numbers have leading zeros, which no number keeps."""
    if not re.search(rf'(?<![^\s"{re.escape(layout.separator)}])0[0-9]', text):
        return []
    with _parsed(text, layout, dtype=str, chunksize=2**16) as parts:
        found = {j for part in parts for j in part if part[j].str.fullmatch(r"\s*0[0-9]+\s*").fillna(False).any()}
    return sorted(found)


def _check_widths(text: str, layout: Layout, name: str) -> None:
    for line, cells in islice(_records(_lines(text), layout.separator, strict=True), layout.skipped, None):
        if len(cells) != layout.width:
            raise _ragged(name, line, len(cells), layout.width)


def _ragged(name: str, line: int, cells: int, width: int) -> InputError:
    count = f"{cells} cell{'s' if cells != 1 else ''}"
    return InputError(f"{name}: line {line} has {count} where other lines have {width}; repair that line.")


def read_parquet(path: Path, name: str) -> Raw:
    """Read a ``.parquet`` file of numbers, booleans and text.

    Columns of other types are kept as objects: the schema refuses them unless they are dropped. The index of a data
    frame is no column.

    Raises:
        InputError: unreadable or truncated file, no rows, no columns, or a column name that occurs twice.
    """
    from pyarrow import parquet

    with guarded(name, "a Parquet file"):
        return framed(parquet.read_table(path).to_pandas(), name)
