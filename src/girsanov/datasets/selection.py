"""Parts of a source, and two sources as one: rows of some classes, some rows, one schema for both ends of a bridge."""

__all__ = ["joined", "keep_classes", "take"]

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from girsanov.datasets.raw import Raw
from girsanov.types import InputError


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
    named = raw.classes or tuple(str(label) for label in sorted(set(raw.labels.tolist())))
    numbers = range(len(raw.classes)) if raw.classes else sorted(set(raw.labels.tolist()))
    number = dict(zip(named, numbers, strict=True))
    unknown = next((name for name in classes if name not in number), None)
    if unknown is not None:
        raise InputError(f"{raw.name}: has no class {unknown!r}; its classes are {', '.join(named)}.")
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
