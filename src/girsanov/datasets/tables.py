"""Tables from text and Parquet files: columns with names, parsed but not interpreted.

A CSV column is numeric when every cell is a number or missing (empty, ``nan``, ``NA``, ``N/A``,
``null``, ``none``, ``?``), else it is text; missing cells become NaN or ``None`` and are refused
later, where the schema can say which column to drop. Rows are numbered from 1 without the header.
"""

__all__ = ["read_csv", "read_parquet"]

import csv
import gzip
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from girsanov.datasets.raw import Raw, guarded, positional_names
from girsanov.types import InputError

MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "?"})
CHUNK = 20_000  #: rows parsed at a time, so that a numeric file is never held as strings


def read_csv(path: Path, name: str) -> Raw:
    """Read a ``.csv`` or ``.csv.gz`` file.

    The separator is the tab where the first line has one, else the semicolon, else the comma. The
    first row is a header when it holds no number and the rows below do, or, in a table of text,
    when none of its cells comes again in its column.

    Args:
        path: the file, UTF-8 with or without a byte-order mark.
        name: how errors call it.

    Raises:
        InputError: unreadable or truncated file, no rows, a row of another length (naming its
            line), or a column name that occurs twice.
    """
    gzipped = path.suffix == ".gz"
    with guarded(name, "a gzip-compressed CSV file" if gzipped else "a CSV file in UTF-8"):
        opened = gzip.GzipFile if gzipped else io.FileIO
        with opened(path) as data, io.TextIOWrapper(data, "utf-8-sig", newline="") as text:  # type: ignore[arg-type]
            return _parse(_rows(text, name), name)


def _rows(text: io.TextIOWrapper, name: str) -> Iterator[list[str]]:
    first = text.readline()
    while first and not first.strip():
        first = text.readline()
    delimiter = next((mark for mark in "\t;" if mark in first), ",")
    text.seek(0)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    width = 0
    for row in reader:
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        width = width or len(row)
        if len(row) != width:
            raise InputError(
                f"{name}: line {reader.line_num} has {len(row)} cells where the first line has "
                f"{width}; repair that line."
            )
        yield row


def _parse(rows: Iterator[list[str]], name: str) -> Raw:
    head = list(islice(rows, CHUNK))
    if not head:
        raise InputError(f"{name}: holds no rows; give a table with at least one row of numbers.")
    named = _is_header(head)
    if named and len(head) == 1:
        raise InputError(f"{name}: holds a header and no rows; give at least one row of numbers.")
    names = _header(head.pop(0), name) if named else positional_names(len(head[0]))
    columns = _columns(head, rows)
    return Raw(name, "table", names=names, named=named, columns=columns)


def _columns(head: list[list[str]], rows: Iterator[list[str]]) -> tuple[np.ndarray, ...]:
    blocks: list[np.ndarray | list[list[str]]] = []
    while head:
        try:
            blocks.append(np.array(head, dtype=np.float64))
        except ValueError:
            blocks.append(head)
        head = list(islice(rows, CHUNK))
    if all(isinstance(block, np.ndarray) for block in blocks):
        return tuple(np.ascontiguousarray(column) for column in np.concatenate(blocks).T)
    return tuple(_column(blocks, j) for j in range(len(blocks[0][0])))


def _column(blocks: list[np.ndarray | list[list[str]]], j: int) -> np.ndarray:
    """Column j over all blocks: float64 with NaN where missing, or text with ``None``."""
    parts = [block[:, j] if isinstance(block, np.ndarray) else [row[j] for row in block] for block in blocks]
    try:
        return np.concatenate([_floats(part) for part in parts])
    except ValueError:
        return np.concatenate([_texts(part) for part in parts])


def _floats(cells: np.ndarray | list[str]) -> np.ndarray:
    if isinstance(cells, np.ndarray):
        return cells
    return np.array(["nan" if _missing(cell) else cell for cell in cells], dtype=np.float64)


def _texts(cells: np.ndarray | list[str]) -> np.ndarray:
    texts = np.empty(len(cells), dtype=object)
    if isinstance(cells, np.ndarray):
        texts[:] = [None if np.isnan(cell) else f"{cell:.15g}" for cell in cells.tolist()]
    else:
        texts[:] = [None if _missing(cell) else _plain(cell) for cell in cells]
    return texts


def _plain(cell: str) -> str:
    """One spelling per number, so that ``1`` and ``1.0`` are one level of a text column."""
    return f"{float(cell):.15g}" if _is_number(cell) else cell.strip()


def _missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_header(rows: list[list[str]]) -> bool:
    first, rest = rows[0], rows[1:]
    if any(_is_number(cell) for cell in first) or all(_missing(cell) for cell in first):
        return False
    if not rest or any(_is_number(cell) for cell in rest[0]):
        return True
    return not any(first[j] in {row[j] for row in rest} for j in range(len(first)))


def _header(cells: list[str], name: str) -> tuple[str, ...]:
    spare = positional_names(len(cells))
    names = tuple(cell.strip() or spare[j] for j, cell in enumerate(cells))
    _require_unique(names, name)
    return names


def _require_unique(names: tuple[str, ...], name: str) -> None:
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice is not None:
        raise InputError(f"{name}: has two columns named {twice!r}; rename one.")


def read_parquet(path: Path, name: str) -> Raw:
    """Read a ``.parquet`` file of numbers, booleans and text.

    Columns of other types are kept as objects: the schema refuses them unless they are dropped.

    Raises:
        InputError: pyarrow missing, unreadable or truncated file, no rows or no columns.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        message = f"{name}: reading Parquet needs pyarrow; run pip install 'girsanov[data]'."
        raise InputError(message) from error
    with guarded(name, "a Parquet file"):
        table = parquet.read_table(path)
        if not table.num_columns or not table.num_rows:
            raise InputError(f"{name}: holds no rows; give a table with at least one row of numbers.")
        names = tuple(str(column) for column in table.column_names)
        _require_unique(names, name)
        columns = tuple(arrow_column(column) for column in table.columns)
    return Raw(name, "table", names=names, named=True, columns=columns)


def arrow_column(column: Any) -> np.ndarray:
    """One Arrow column as numbers (NaN where null), or as an object array of text or anything else."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_boolean(kind):
        column, kind = pc.cast(column, pa.uint8()), pa.uint8()
    if pa.types.is_decimal(kind):
        column, kind = pc.cast(column, pa.float64()), pa.float64()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if column.null_count:
            column = pc.fill_null(pc.cast(column, pa.float64(), safe=False), float("nan"))
        return np.asarray(column.to_numpy())
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values
