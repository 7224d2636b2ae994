"""Rows in the units and columns of their source: as CSV, JSON lines, an array or a picture."""

__all__ = ["check_suffix", "write_rows"]

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from girsanov.cli.output import UsageError, as_json, emit

SUFFIXES = (".csv", ".npy", ".png")


def check_suffix(out: Path | None) -> None:
    """Refuse a file whose kind is unknown or whose folder is missing, before anything is computed."""
    from girsanov.cli.files import check_place

    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out}: has none of the suffixes {', '.join(SUFFIXES)}")
    check_place(out)


def write_rows(
    out: Path | None,
    rows: Any,
    schema: Any,
    *,
    json: bool,
    note: Callable[[str], None],
    refused: Mapping[int, str] | None = None,
) -> None:
    """Write rows in data units to a file, or print them as CSV or JSON lines.

    Args:
        out: the file.
        rows: encoded rows.
        schema: decodes them.
        json: whether to print JSON lines.
        note: what prints sentences.
        refused: rows that are not there, by their numbers among all; they become lines of nan, or ``null`` and their
            sentence in JSON, and are missing in pictures.

    Raises:
        UsageError: for images without a file, text in an array, or rows without a picture.
    """
    if out is not None:
        _save(out, rows, schema, refused or {})
        note(f"wrote {len(rows)} rows to {out}")
    elif json:
        emit(_json_lines(rows, schema, refused or {}), end="")
    elif schema.kind == "images":
        raise UsageError("these rows are images: give --out FILE.png or --out FILE.npy")
    else:
        emit(_csv(rows, schema, refused or {}), end="")


def _save(out: Path, rows: Any, schema: Any, refused: Mapping[int, str]) -> None:
    from girsanov.cli.files import write_file

    suffix = out.suffix.lower()
    if suffix == ".csv":
        write_file(out, _csv(rows, schema, refused).encode())
    elif suffix == ".npy":
        write_file(out, _npy(rows, schema, refused))
    else:
        write_file(out, _png(rows, schema))


def _png(rows: Any, schema: Any) -> bytes:
    from girsanov.reports import samples_png

    picture = samples_png(rows, schema)
    if picture is None:
        raise UsageError(f"rows of shape {schema.event_shape} have no picture: use .npy")
    return picture


def _npy(rows: Any, schema: Any, refused: Mapping[int, str]) -> bytes:
    import numpy as np

    raw = schema.decode(rows)
    if raw.kind == "images":
        values = raw.stack
    elif any(column.dtype.kind not in "buif" for column in raw.columns):
        raise UsageError("some columns hold text, which .npy cannot: use .csv")
    else:
        values = np.stack(raw.columns, axis=1)
    if refused:
        values = _with_gaps(list(values.astype(np.float64)), refused, np.full(values.shape[1:], np.nan))
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _table(rows: Any, schema: Any) -> tuple[list[str], list[list[Any]]]:
    """Names and lines of cells, as the source would hold them; an image is one line of its pixels."""
    from girsanov.datasets.frames import positional_names

    raw = schema.decode(rows)
    if raw.kind == "images":
        flat = raw.stack.reshape(len(raw), -1)
        names, columns = positional_names(flat.shape[1]), tuple(flat.T)
    else:
        names, columns = raw.names or (), raw.columns
    return list(names), [list(line) for line in zip(*(column.tolist() for column in columns), strict=True)]


def _with_gaps(lines: list[Any], refused: Mapping[int, str], gap: Any) -> list[Any]:
    """The lines with a gap at the number of every refused row."""
    rest = iter(lines)
    return [gap if i in refused else next(rest) for i in range(len(lines) + len(refused))]


def _csv(rows: Any, schema: Any, refused: Mapping[int, str]) -> str:
    names, lines = _table(rows, schema)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for line in _with_gaps(lines, refused, ["nan"] * len(names)):
        # twelve digits: networks compute with seven, and 0.30000000000000004 is 0.3
        writer.writerow([f"{cell:.12g}" if isinstance(cell, float) else cell for cell in line])
    return text.getvalue()


def _json_lines(rows: Any, schema: Any, refused: Mapping[int, str]) -> str:
    names, lines = _table(rows, schema)
    content = [dict(zip(names, line, strict=True)) for line in lines]
    content = _with_gaps(content, refused, dict.fromkeys(names))
    return "".join(
        as_json(line | ({"error": refused[i]} if i in refused else {})) + "\n" for i, line in enumerate(content)
    )
