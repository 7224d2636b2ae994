"""What a source holds before any schema: named columns or a stack of arrays, and nothing decided yet.

A :class:`Raw` still has its missing values, text and integers; :mod:`girsanov.datasets.schema`
decides what they mean. Reading foreign bytes can fail in any way a parser can think of, so every
reader runs inside :func:`guarded`, the one place where such failures become one sentence.
"""

__all__ = ["Raw", "framed", "from_array", "guarded"]

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from girsanov.datasets.frames import COMMAS, frame_parts, positional_names, refuse_twins
from girsanov.datasets.labels import label_array
from girsanov.datasets.places import Given
from girsanov.types import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Raw:
    """Data as a source holds them.

    Attributes:
        name: how the user named the source; errors begin with it.
        kind: ``table`` (rows of named columns) or ``images`` (rows of one event shape).
        names: names of the columns of a table; ``None`` for images.
        named: whether the source itself names its columns (else ``x1``, ``x2``, ... by position).
        columns: one array of length n per column, numeric or object (text; ``None`` where missing).
        values: images, shape ``n *event_shape``; ``None`` for tables.
        labels: class of each row, shape ``n``, where the source has classes.
        classes: names of the classes, indexed by ``labels``.
        n_train: the first ``n_train`` rows are the source's own training set, the rest its test set.
        notes: sentences about how the source was read.
        files: names of the files that the rows were, inside the source, where each was one.
    """

    name: str
    kind: Literal["table", "images"]
    names: tuple[str, ...] | None = None
    named: bool = False
    columns: tuple[np.ndarray, ...] = ()
    values: np.ndarray | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    n_train: int | None = None
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.stack if self.kind == "images" else self.columns[0])

    @property
    def stack(self) -> np.ndarray:
        """The images, shape ``n *event_shape``."""
        if self.values is None:
            raise InputError(f"{self.name}: this is a table, where images are needed.")
        return self.values

    @property
    def frame(self) -> "pd.DataFrame":
        """The rows as a data frame with the source's columns; an image is one row of its pixels.

        Example:
            >>> from_array(np.zeros((4, 2))).frame.shape, from_array(np.zeros((4, 3, 8, 8))).frame.shape
            ((4, 2), (4, 192))
        """
        import pandas as pd

        if self.kind == "table":
            return pd.DataFrame(dict(zip(self.names or (), self.columns, strict=True)))
        flat = self.stack.reshape(len(self), -1)
        return pd.DataFrame(flat, columns=pd.Index(positional_names(flat.shape[1])))


@contextmanager
def guarded(name: str, what: str, advice: str = "check that the file is complete") -> Iterator[None]:
    """Turn whatever a parser raises into one sentence that names the file.

    Args:
        name: file or source.
        what: what it should have been, as in "a gzip-compressed CSV file".
        advice: what to do about it.

    Raises:
        InputError: for every failure inside the block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{name}: does not fit into memory; use fewer rows.") from error
    except Exception as error:
        # Parsers of foreign formats raise anything (zlib.error, SyntaxError, struct.error, ...).
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        message = f"{name}: cannot be read as {what} ({reason}); {advice}."
        raise InputError(message) from error


def from_array(
    x: Tensor | np.ndarray | Any,
    *,
    labels: Any | None = None,
    classes: tuple[str, ...] | None = None,
    names: tuple[str, ...] | None = None,
    name: str | None = None,
) -> Raw:
    """Tensors and arrays as :class:`Raw`: ``(n, d)`` is a table, every longer shape is kept.

    Args:
        x: real numbers, shape ``n *d`` with at least two axes; or a table with columns of its own: a data frame of
            pandas or polars, an Arrow table, a structured array, a dict of columns. Masked and null
            entries are missing.
        labels: class of each row, shape ``n`` or ``n 1``: whole numbers, text, booleans or categories.
        classes: names of the classes.
        names: names of the columns of an ``(n, d)`` array.
        name: how errors call the data; by default rows given in Python.

    Raises:
        InputError: for complex values, text outside tables, fewer than two axes, no rows, no columns, or two columns
            of one name.

    Example:
        >>> from_array(np.zeros((4, 2))).names
        ('x1', 'x2')
        >>> from_array(np.zeros((4, 3, 8, 8))).kind
        'images'
    """
    name = Given("array", x) if name is None else name
    with guarded(name, "a table", "check its columns"):
        frame = _as_frame(x)
    named = names is not None or (frame is not None and not (isinstance(x, np.ndarray) and x.dtype.names is None))
    held: Any = _rows(x, name) if frame is None else frame
    target = None if labels is None else label_array(labels, len(held), name)
    if held.ndim > 2:
        return Raw(name, "images", values=held, labels=target, classes=classes)
    width = held.shape[1]
    given = names if named else positional_names(width)
    if given is not None and len(given) != width:
        raise InputError(f"{name}: has {width} columns but {len(given)} names; give as many.")
    if frame is None:  # not by way of pandas, which is slow where columns are many
        refuse_twins(given or (), name)
        columns = tuple(np.ascontiguousarray(column) for column in held.T)
        return Raw(name, "table", given, named, columns, labels=target, classes=classes)
    with guarded(name, "a table", "check its columns"):
        frame = frame if given is None else frame.set_axis(list(given), axis=1)
        return framed(frame, name, named=named, labels=target, classes=classes)


def framed(frame: "pd.DataFrame", name: str, *, commas: Iterable[str] = COMMAS, **known: Any) -> Raw:
    """A data frame as :class:`Raw`.

    Args:
        frame: columns of any type, see :func:`girsanov.datasets.frames.frame_parts`.
        name: how errors call it.
        commas: what commas in numbers may be, the likelier first.
        **known: further attributes of the result; sentences on how the frame was read follow its notes.
    """
    names, columns, notes = frame_parts(frame, name, commas=tuple(commas))
    notes = (*known.pop("notes", ()), *notes)
    return Raw(name, "table", names=names, columns=columns, notes=notes, **{"named": True, **known})


def _rows(x: Any, name: str) -> np.ndarray:
    """Rows of real numbers, shape ``n d`` or longer."""
    values = _real_array(x, name)
    if values.ndim < 2:
        raise InputError(
            f"{name}: has shape {values.shape}, but rows of at least one column are needed; reshape it to (n, 1)."
        )
    if 0 in values.shape:
        raise InputError(f"{name}: has shape {values.shape}, which holds no values; give some rows.")
    return values


def _as_frame(x: Any) -> "pd.DataFrame | None":
    """A table with columns of its own, or an array of text, as a data frame; ``None`` for anything else."""
    if isinstance(x, Tensor) or (
        isinstance(x, np.ndarray) and not x.dtype.names and (x.ndim != 2 or x.dtype.kind != "O")
    ):
        return None
    import pandas as pd

    if isinstance(x, pd.DataFrame):
        return x
    if isinstance(x, Mapping):
        return pd.DataFrame(dict(x))
    if not isinstance(x, (np.ndarray, pd.Series)) and hasattr(x, "to_pandas"):  # polars, Arrow and others
        frame = x.to_pandas()
        return frame if isinstance(frame, pd.DataFrame) else None
    return pd.DataFrame(x) if isinstance(x, np.ndarray) else None


def _real_array(x: Any, name: str) -> np.ndarray:
    if isinstance(x, Tensor):
        # numpy has no bfloat16 and no float8.
        x = x.detach().cpu().to_dense()
        x = x.float() if x.is_floating_point() and x.element_size() < 4 else x
    with guarded(name, "an array of numbers", "give rows of numbers, all of one length"):
        x = x.toarray() if hasattr(x, "toarray") else x  # sparse matrices
        values = np.ma.filled(x.astype(np.float64), np.nan) if np.ma.isMaskedArray(x) else np.asarray(x)
    if values.dtype.kind not in "buif":
        raise InputError(
            f"{name}: holds values of type {values.dtype}, but only real numbers can be modelled; "
            "convert it to floats or integers."
        )
    return values.astype(np.uint8) if values.dtype.kind == "b" else values
