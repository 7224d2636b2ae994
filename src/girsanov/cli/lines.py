"""Lines of rows that are computed block by block, as CSV or JSON, refused rows among them."""

__all__ = ["RowLines", "as_csv"]

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

from girsanov.cli.output import as_json, emit, write_file

#: what is said of one row, by column
Cells: TypeAlias = dict[str, Any]


@final
@dataclass(frozen=True)
class RowLines:
    """A line for every row: its number, its file where rows are files, what was found, and why nothing was.

    Attributes:
        columns: of what is found.
        number: the one of them that is ``nan`` where a row was refused; the others are empty.
        errors: whether there is a column for what is wrong with a row.
        only_json: columns that CSV leaves out.
        shown: the cells of a row as CSV shows them.
    """

    columns: Sequence[str]
    number: str
    errors: bool
    only_json: Sequence[str] = ()
    shown: Callable[[Cells], Cells] = dict

    def write(self, rows: Any, compute: Callable[[slice], Any], *, size: int, out: Path | None, json: bool) -> None:
        """Write lines as they are computed, to a file when all are.

        Args:
            rows: :class:`girsanov.runs.Rows`.
            compute: a data frame of a block's rows, with their numbers as its index; ``nan`` is an empty cell.
            size: rows of a block.
            out: the file; standard output if ``None``.
            json: JSON lines instead of CSV.
        """
        names = ("row", *(["file"] if rows.files else []), *self.columns, *(["error"] if self.errors else []))
        header = [name for name in names if name not in self.only_json]
        parts = []
        put = parts.append if out is not None else lambda text: emit(text, end="")
        if not json:
            put(as_csv([header]))
        for block, span in rows.blocks(size):
            found = compute(block).to_dict("index") if len(rows) else {}
            lines = [self._line(row, found.get(row), rows) for row in span]
            if json:
                put("".join(as_json(line) + "\n" for line in lines))
            else:
                put(as_csv([self._csv_line(line, header) for line in lines]))
        if out is not None:
            write_file(out, "".join(parts).encode())

    def _line(self, row: int, found: Cells | None, rows: Any) -> Cells:
        line = {"row": row + 1} | ({"file": rows.files[row]} if rows.files else {})
        # of what is not the number, NaN (the only one that is not itself) is an empty cell
        cells = found or dict.fromkeys(self.columns)
        line |= {name: cell if name == self.number or cell == cell else None for name, cell in cells.items()}
        return line | ({"error": rows.refused.get(row)} if self.errors else {})

    def _csv_line(self, line: Cells, header: Sequence[str]) -> list[Any]:
        cells = {**line, self.number: "nan"} if line.get("error") is not None else self.shown(line)
        return [cells[name] for name in header]


def as_csv(lines: Sequence[Sequence[Any]]) -> str:
    r"""Lines of cells as CSV.

    Example:
        >>> as_csv([["row", "file"], [1, "a,b"]])
        'row,file\n1,"a,b"\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
