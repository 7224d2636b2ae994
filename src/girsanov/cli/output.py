"""What commands print: results on standard output, or in a file whole or not at all; notes on standard error."""

__all__ = [
    "UsageError",
    "as_json",
    "check_place",
    "emit",
    "note_refused",
    "print_result",
    "stderr_note",
    "write_file",
]

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class UsageError(Exception):
    """Options that cannot work together or here; printed like any other bad input."""


def emit(text: str, *, end: str = "\n") -> None:
    """Print to standard output; a reader that has gone away ends the output, not the command."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        # so that the flush at exit finds a place to write
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_place(path: Path | None) -> None:
    """Refuse a file that cannot be written because of where it lies, before anything is computed.

    Raises:
        UsageError: for a folder, or a file in a folder that is missing.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give --out the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path} ({path.parent} is no folder): check that its folder exists")


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, replacing what is there.

    Raises:
        UsageError: where the folder is missing or not writable.
    """
    from girsanov.files import write_atomic

    check_place(path)
    try:
        write_atomic(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): check that its folder exists") from error


def as_json(content: Any) -> str:
    """One line of JSON."""
    return json.dumps(content, allow_nan=False)


def stderr_note(quiet: bool) -> Callable[[str], None]:
    """A function that prints sentences to standard error, or none."""
    if quiet:
        return lambda _: None
    return lambda text: print(text, file=sys.stderr, flush=True)


def note_refused(refused: Mapping[int, str], note: Callable[[str], None], *, column: bool = True) -> None:
    """How many rows a model cannot have, what is wrong with the first, and whether a column says it of the others."""
    if refused:
        count, whose = ("1 row has", "its") if len(refused) == 1 else (f"{len(refused):,} rows have", "their")
        where = f", see {whose} column error" if column else ""
        note(f"{count} no value{where}: {refused[min(refused)]}")


def print_result(metrics: Mapping[str, Any]) -> None:
    """The tables of a result, its paired differences, and what both say."""
    from girsanov.reports import conclusions, differences, result_tables

    for table in result_tables(metrics):
        emit(_table(table.title, table.header, table.rows))
    gaps = differences(metrics)
    if gaps:
        rows = [
            (name, *(f"{value:+.3f}".replace("-", "−") for value in (gap.nats, gap.low, gap.high)))
            for name, gap in gaps.items()
        ]
        title = "Paired differences: nats per row by which girsanov is ahead"
        emit(_table(title, ("of", "nats/row", "95 % from", "to"), rows))
    for sentence in conclusions(metrics):
        emit(sentence + "\n")


def _table(title: str, header: Any, rows: Any) -> str:
    """A table as text, in colour where standard output is a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else 120, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(header):
        numeric = position > 0 and name != "kind"
        table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=True, overflow="fold")
    for row in rows:
        style = "bold" if row[0].startswith("girsanov") else None
        table.add_row(*(Text(cell) for cell in row), style=style)
    with console.capture() as captured:
        console.print(Text(title, style="bold"), soft_wrap=True)
        console.print(table)
    return captured.get().rstrip() + "\n"
