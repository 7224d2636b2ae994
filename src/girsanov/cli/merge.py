"""``girsanov merge``: files of ``girsanov score --shard I/N``, joined to the one that one command would have made."""

__all__ = ["merge", "shard_of"]

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from girsanov.cli.lines import as_csv
from girsanov.cli.options import out_option
from girsanov.cli.output import UsageError, check_place, emit, write_file

SHOWN = 5  # missing rows that a sentence names


def shard_of(text: str) -> tuple[int, int]:
    """The number of a shard from 0, and how many there are.

    Raises:
        UsageError: for what is no shard.

    Example:
        >>> shard_of("2/4")
        (1, 4)
    """
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise UsageError(f"--shard {text} is none of several shards: give one as in 2/4, the second of four")
    return int(first) - 1, int(count)


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES", help="What girsanov score --shard wrote, of every shard.")
    ],
    out: Annotated[Path | None, out_option("File to write instead of standard output.")] = None,
) -> None:
    """Join the files of girsanov score --shard I/N, CSV or JSON lines: the bytes that one command would have written.

    Every row must be in one of them, and in one only.
    """
    check_place(out)
    header, found = None, {}
    for path in files:
        columns, lines = _read(path)
        if header is not None and columns != header:
            raise UsageError(f"{path} has other columns than {files[0]}: merge the files of one command")
        header = columns
        for row, line in lines:
            if row in found:
                raise UsageError(f"{path} has row {row}, which another file has too: give every shard once")
            found[row] = line
    missing = sorted(set(range(1, max(found, default=0) + 1)) - set(found))
    if missing:
        some = ", ".join(map(str, missing[:SHOWN])) + (" and more" if len(missing) > SHOWN else "")
        raise UsageError(f"no file has row {some}: give the file of every shard, whole")
    text = (header or "") + "".join(found[row] for row in sorted(found))
    if out is None:
        emit(text, end="")
    else:
        write_file(out, text.encode())


def _read(path: Path) -> tuple[str, Sequence[tuple[int, str]]]:
    """Header, empty for JSON lines, and the rows' numbers and lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): give a file of girsanov score --shard") from error
    try:
        if not text or text.startswith("{"):  # JSON lines, of a shard without rows none
            return "", [(int(json.loads(line)["row"]), line + "\n") for line in text.splitlines()]
        header, *lines = csv.reader(io.StringIO(text), strict=True)
        if header[0] != "row":
            raise ValueError("its first column is not row")
        return as_csv([header]), [(int(line[0]), as_csv([line])) for line in lines]
    except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        raise UsageError(f"{path} has no lines of girsanov score: give a file of girsanov score --shard") from error
