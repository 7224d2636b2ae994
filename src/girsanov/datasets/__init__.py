"""Named, file and folder data as tensors: one entry, schema checks, seeded splits.

:func:`load` reads a source and fits a schema; :func:`from_array` does the same with data given in
Python. Both return :class:`Data`, whose schema encodes later rows the same way:
``data.schema.encode(read(source))``.
"""

__all__ = [
    "Data",
    "Raw",
    "Reading",
    "Schema",
    "Splits",
    "array_raw",
    "continuous_table",
    "fingerprint",
    "from_array",
    "joined",
    "keep_classes",
    "labelled",
    "load",
    "names",
    "read",
    "split",
    "take",
]

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from torch import Tensor

from girsanov.datasets.arrays import from_array as array_raw
from girsanov.datasets.columns import Numeric
from girsanov.datasets.labels import coded, label_array, label_name
from girsanov.datasets.raw import Raw, joined, keep_classes, take
from girsanov.datasets.refusals import Given
from girsanov.datasets.schema import Reading, Schema
from girsanov.datasets.sources import NAMED, read
from girsanov.datasets.splits import Splits, fingerprint, split
from girsanov.display import Shown, Summary, counted, in_words

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Data(Shown):
    """Encoded data and how they were encoded: rows that every likelihood of a fitted model takes too.

    Attributes:
        x: float64, shape ``n *event_shape``, in data units.
        codes: int64 position of each row's class in ``classes``, or numbers ``n c`` that rows are conditioned on, or
            ``None``: what networks are trained on.
        classes: names of the classes that occur, in order, or ``None``.
        schema: encodes later rows the same way.
        name: how the user named the source.
        n_train: rows from this one on are the source's own test set, or ``None``.
        values: the classes as labels gave them, where these had no names.

    Example:
        >>> data = load("digits")
        >>> data.x.shape, data.schema.notes
        (torch.Size([1797, 1, 8, 8]), ('Discrete pixels, with levels in steps of 1.',))
    """

    x: Tensor
    codes: Tensor | None
    classes: tuple[str, ...] | None
    schema: Schema
    name: str
    n_train: int | None
    values: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.x)

    def _summary(self) -> Summary:
        shape = " × ".join(map(str, self.schema.event_shape))
        things = "image" if self.schema.kind == "images" else "row"
        facts = {
            "columns": "" if self.schema.kind == "images" else in_words(self.schema.columns),
            "values": in_words(self.x),
            "classes": in_words(self.classes),
            "notes": " ".join(self.schema.notes),
        }
        title = f"{self.name}: {counted(len(self), things)} of {shape} numbers"
        return Summary(title, facts, hint="gv.fit(data) fits a density; data.to_pandas() is the table")

    @property
    def labels(self) -> np.ndarray | Tensor | None:
        """Class of each row as the source calls it, shape ``n``: what ``condition=`` and ``labels=`` take.

        Names where the classes have some, else the values as they were given; conditions that are numbers as they are.

        Example:
            >>> from_array(torch.arange(8.0)[:, None] ** 2, labels=[2, 1] * 4).labels
            array([2, 1, 2, 1, 2, 1, 2, 1])
        """
        if self.codes is None or self.codes.is_floating_point():
            return self.codes
        values = label_array(self.values or self.classes or range(int(self.codes.max()) + 1), None, self.name)
        return values[self.codes.cpu().numpy()]

    def to_pandas(self) -> "pd.DataFrame":
        """The rows as a data frame with the source's columns, those that were dropped in encoding included.

        Example:
            >>> load("iris").to_pandas().iloc[0].tolist()
            [5.1, 3.5, 1.4, 0.2]
        """
        return self.schema.decode(self.x, name=self.name).to_pandas()

    def of_present_classes(self) -> "Data":
        """The same rows with the classes that occur among them, numbered anew."""
        if self.codes is None or self.codes.is_floating_point():
            return self
        every = self.classes or tuple(label_name(k) for k in range(int(self.codes.max()) + 1))
        codes, names = coded(self.codes.cpu().numpy(), every, self.name)
        values = None if self.values is None else tuple(self.values[every.index(name)] for name in names)
        return replace(self, codes=torch.from_numpy(codes), classes=names, values=values)

    def __getitem__(self, index: slice | Tensor) -> "Data":
        """Some of the rows, by a slice, numbers or a mask; the border of the source's own test set is forgotten."""
        codes = None if self.codes is None else self.codes[index]
        return replace(self, x=self.x[index], codes=codes, n_train=None)


def load(source: str | os.PathLike[str], **reading: Unpack[Reading]) -> Data:
    """Read a source and fit a schema to it.

    Args:
        source: see :func:`read`.
        **reading: what becomes of columns, see :meth:`Schema.infer`: ``categorical``, ``discrete``, ``drop``,
            ``continuous``, ``lattice``, ``missing_as_level``.

    Raises:
        InputError: one sentence, for everything that can be wrong with the data.

    Example:
        >>> load("iris").schema.bin_width
        tensor([0.1000, 0.1000, 0.1000, 0.1000], dtype=torch.float64)
    """
    return _data(read(source), reading)


def from_array(
    x: Tensor | Any,
    *,
    labels: Tensor | Any | None = None,
    classes: tuple[str, ...] | None = None,
    names: tuple[str, ...] | None = None,
    name: str = "array",
    **reading: Unpack[Reading],
) -> Data:
    """Fit a schema to a tensor, an array or a data frame.

    Args:
        x: shape ``n d`` for a table, with the lattice rule applied to each column, or a data frame (of pandas, polars
            or Arrow), read as a file would be; any longer shape ``n *d`` is kept, with one lattice for all entries.
        labels: class of each row, shape ``n`` or ``n 1``: whole numbers, text, booleans or categories.
        classes: names of the classes.
        names: names of the columns of a table, ``x1``, ``x2``, ... by default.
        name: how errors call the data.
        **reading: what becomes of columns, as in :func:`load`.

    Raises:
        InputError: one sentence, for everything that can be wrong with the data.

    Example:
        >>> from_array(torch.randn(100, 2)).x.shape
        torch.Size([100, 2])
    """
    return _data(array_raw(x, labels=labels, classes=classes, names=names, name=Given(name, x)), reading)


def continuous_table(x: Any, *, name: str = "array") -> Data:
    """Rows ``n d`` as they are: every column continuous, none dropped, no lattice looked for.

    Args:
        x: real numbers without missing values.
        name: how errors call the data.

    Example:
        >>> continuous_table(torch.zeros(5, 2)).schema.discrete
        False
    """
    raw = array_raw(x, name=Given(name, x))
    schema = Schema("table", (len(raw.columns),), tuple(Numeric(column) for column in raw.names or ()), raw.named)
    return Data(schema.encode(raw), None, None, schema, name, None)


def _data(raw: Raw, reading: Reading) -> Data:
    schema = Schema.infer(raw, **reading)
    return labelled(schema.encode(raw), raw, schema)


def labelled(x: Tensor, raw: Raw, schema: Schema, kept: np.ndarray | None = None) -> Data:
    """Encoded rows of a source with the classes that occur in it.

    Args:
        x: the rows, ``m *event_shape``.
        raw: the source.
        schema: that encoded them.
        kept: their numbers, shape ``m``; default all.
    """
    if raw.labels is None:
        return Data(x, None, None, schema, raw.name, raw.n_train)
    codes, values = coded(raw.labels, raw.classes, raw.name)
    chosen, names = torch.from_numpy(codes if kept is None else codes[kept]), tuple(map(label_name, values))
    return Data(x, chosen, names, schema, raw.name, raw.n_train, None if raw.classes else values)


def names() -> list[tuple[str, str, int, tuple[int, ...]]]:
    """The data sets that have names: name, description, rows and event shape of each.

    Example:
        >>> names()[0]
        ('digits', 'handwritten digits, 8 x 8 pixels, 17 grey levels, 10 classes', 1797, (1, 8, 8))
    """
    return [(name, *described) for name, described in NAMED.items()]
