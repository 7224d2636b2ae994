"""Rows of a long benchmark, kept as they are finished, so that a stopped command goes on where it was."""

__all__ = ["Rows"]

from pathlib import Path

from benchmarks._record import append_line, read_lines


class Rows:
    """Dictionaries in a file, one a line, found again by the values of some of their keys.

    Args:
        path: the file; made where it is absent.
        options: of the command; rows that were made with other numbers among them are left aside.
        without: names of numbers that only choose which rows are made.
    """

    def __init__(self, path, options, *, without=()):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        numbers = {k: v for k, v in sorted(vars(options).items()) if isinstance(v, int | float) and k not in without}
        self.settings = {k: v for k, v in numbers.items() if not isinstance(v, bool)}
        self.all = [row for row in read_lines(self.path) if row.pop("made_with", None) == self.settings]

    def has(self, **keys):
        """Whether a row with these values is there."""
        return any(all(row.get(key) == value for key, value in keys.items()) for row in self.all)

    def add(self, row):
        """Keep and print a row."""
        self.all.append(row)
        append_line(self.path, {**row, "made_with": self.settings})
        shown = (f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items())
        print(" ".join(shown), flush=True)
