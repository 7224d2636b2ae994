"""Rows in the units and columns of their source: as CSV, JSON lines, an array or a picture."""

__all__ = ["check_suffix", "write_rows"]

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from girsanov.cli.output import UsageError, as_json, check_place, emit, write_file

SUFFIXES = (".csv", ".npy", ".png")


def check_suffix(out: Path | None) -> None:
    """Refuse a file whose kind is unknown or whose folder is missing, before anything is computed."""
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out} is of no kind that can be written: give a name that ends in {', '.join(SUFFIXES)}")
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
        raise UsageError(f"rows of shape {schema.event_shape} have no picture: give --out FILE.npy")
    return picture


def _frame(raw: Any, refused: Mapping[int, str]) -> Any:
    """The rows as a data frame, with an empty line at the number of every refused row."""
    import numpy as np

    total = len(raw) + len(refused)
    return raw.to_pandas().set_axis(np.delete(np.arange(total), list(refused))).reindex(range(total))


def _npy(rows: Any, schema: Any, refused: Mapping[int, str]) -> bytes:
    import numpy as np

    raw = schema.decode(rows)
    frame = _frame(raw, refused)
    if not all(kind.kind in "buif" for kind in frame.dtypes):
        raise UsageError("some columns hold text, which .npy cannot: give --out FILE.csv")
    values = frame.to_numpy()
    buffer = io.BytesIO()
    np.save(buffer, values.reshape(-1, *schema.event_shape) if raw.kind == "images" else values, allow_pickle=False)
    return buffer.getvalue()


def _csv(rows: Any, schema: Any, refused: Mapping[int, str]) -> str:
    from girsanov.datasets.frames import csv_text

    return csv_text(_frame(schema.decode(rows), refused))


def _json_lines(rows: Any, schema: Any, refused: Mapping[int, str]) -> str:
    frame = _frame(schema.decode(rows), refused)
    gap = dict.fromkeys(frame)
    lines = (gap | {"error": refused[i]} if i in refused else line for i, line in enumerate(frame.to_dict("records")))
    return "".join(as_json(line) + "\n" for line in lines)
