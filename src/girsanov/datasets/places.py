"""What sentences call a row: people count the rows of a file from 1, and Python those of an array from 0."""

__all__ = ["Given", "row_name"]

from typing import Any


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
