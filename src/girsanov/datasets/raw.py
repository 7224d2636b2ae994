"""What a source holds before any schema: named columns or a stack of arrays, and nothing decided yet.

A :class:`Raw` still has its missing values, text and integers; :mod:`girsanov.datasets.schema`
decides what they mean. Reading foreign bytes can fail in any way a parser can think of, so every
reader runs inside :func:`guarded`, the one place where such failures become one sentence.
"""

__all__ = ["Raw", "guarded", "joined", "keep_classes", "positional_names", "take"]

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

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

    def __post_init__(self) -> None:
        twice = next((column for column, count in Counter(self.names or ()).items() if count > 1), None)
        if twice is not None:
            raise InputError(f"{self.name}: has two columns named {twice!r}; rename one.")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.stack if self.kind == "images" else self.columns[0])

    @property
    def stack(self) -> np.ndarray:
        """The images, shape ``n *event_shape``."""
        if self.values is None:
            raise InputError(f"{self.name}: this is a table, where images are needed.")
        return self.values

    def to_pandas(self) -> "pd.DataFrame":
        """The rows as a data frame with the source's columns; an image is one row of its pixels.

        Example:
            >>> Raw("stack", "images", values=np.zeros((4, 3, 8, 8))).to_pandas().shape
            (4, 192)
        """
        import pandas as pd

        if self.kind == "table":
            return pd.DataFrame(dict(zip(self.names or (), self.columns, strict=True)))
        flat = self.stack.reshape(len(self), -1)
        return pd.DataFrame(flat, columns=pd.Index(positional_names(flat.shape[1])))


def positional_names(count: int) -> tuple[str, ...]:
    """Names of columns that have none.

    Example:
        >>> positional_names(3)
        ('x1', 'x2', 'x3')
    """
    return tuple(f"x{i + 1}" for i in range(count))


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


def keep_classes(raw: Raw, classes: Sequence[str]) -> np.ndarray:
    """Numbers of the rows whose class is one of these, in their order.

    Args:
        raw: a source with classes.
        classes: their names; the numbers themselves where the source has no names.

    Raises:
        InputError: if the source has no classes, not this one, or no row of them.

    Example:
        >>> from girsanov.datasets.sources import read
        >>> keep_classes(read("digits"), ("0", "1"))[:5]
        array([ 0,  1, 10, 11, 20])
    """
    if raw.labels is None:
        raise InputError(f"{raw.name}: has no classes to choose from; leave the choice of classes out.")
    number = {name: k for k, name in enumerate(raw.classes or ())}
    number = number or {str(label): label for label in sorted(set(raw.labels.tolist()))}
    unknown = next((name for name in classes if name not in number), None)
    if unknown is not None:
        raise InputError(f"{raw.name}: has no class {unknown!r}; its classes are {', '.join(number)}.")
    found = np.flatnonzero(np.isin(raw.labels, [number[name] for name in classes]))
    if not len(found):
        raise InputError(f"{raw.name}: has no row of the classes {', '.join(classes)}; choose others.")
    return found


def take(raw: Raw, index: np.ndarray) -> Raw:
    """These rows of a source, in increasing order of their numbers.

    Args:
        raw: the source.
        index: increasing row numbers, shape ``n``.

    Example:
        >>> from girsanov.datasets.sources import read
        >>> len(take(read("iris"), np.arange(50)))
        50
    """
    border = None if raw.n_train is None else int((index < raw.n_train).sum())
    return replace(
        raw,
        columns=tuple(column[index] for column in raw.columns),
        values=None if raw.values is None else raw.values[index],
        labels=None if raw.labels is None else raw.labels[index],
        files=None if raw.files is None else tuple(raw.files[i] for i in index),
        n_train=border if border and border < len(index) else None,
    )


def joined(first: Raw, second: Raw) -> Raw:
    """The rows of both sources, without labels: what a schema for both is fitted to.

    Columns that both sources name are matched by name, in any order; others by position.

    Raises:
        InputError: one is a table and the other images, or their shapes or columns differ.

    Example:
        >>> from girsanov.datasets.sources import read
        >>> len(joined(read("iris"), read("iris")))
        300
    """
    name = first.name if first.name == second.name else f"{first.name} and {second.name}"
    if first.kind != second.kind:
        raise InputError(
            f"{second.name}: holds {second.kind}, but {first.name} holds {first.kind}; give two of a kind."
        )
    if first.kind == "images":
        shapes = [raw.stack.shape[1:] for raw in (first, second)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{second.name}: holds images of shape {shapes[1]}, but {first.name} of {shapes[0]}; "
                "bring them to one shape."
            )
        return Raw(name, "images", values=np.concatenate([first.stack, second.stack]))
    columns = zip(first.columns, _matched(first, second), strict=True)
    both = tuple(_concatenated(*pair) for pair in columns)
    return Raw(name, "table", names=first.names, named=first.named, columns=both, notes=first.notes)


def _matched(first: Raw, second: Raw) -> tuple[np.ndarray, ...]:
    """The columns of the second in the order of the first."""
    ours, theirs = first.names or (), second.names or ()
    if not (first.named and second.named):
        if len(ours) != len(theirs):
            raise InputError(f"{second.name}: has {len(theirs)} columns, but {first.name} has {len(ours)}.")
        return second.columns
    for names, others, raw, other in ((ours, theirs, second, first), (theirs, ours, first, second)):
        lacking = next((name for name in names if name not in others), None)
        if lacking is not None:
            raise InputError(
                f"{raw.name}: lacks column {lacking!r} of {other.name}; both need the same columns, "
                "so remove it there or add it here."
            )
    return tuple(second.columns[theirs.index(name)] for name in ours)


def _concatenated(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Text beside numbers stays text, so that the schema can name the cell."""
    if (first.dtype == object) != (second.dtype == object):
        first, second = first.astype(object), second.astype(object)
    return np.concatenate([first, second])
