"""Classes: the values that occur, by name, in order. Labels may be numbers, text, booleans or pandas categories."""

__all__ = ["coded", "label_array", "label_name"]

from typing import Any

import numpy as np
from torch import Tensor

from girsanov.datasets.refusals import row_name
from girsanov.types import InputError


def label_array(labels: Any, rows: int | None, name: str) -> np.ndarray:
    """Labels of any kind as an array of shape ``n``: int64 where all are whole numbers, else booleans or text.

    Args:
        labels: a tensor, an array, a list, a series or categories, of shape ``n`` or ``n 1``.
        rows: how many there must be; ``None`` for any number.
        name: how errors call the data.

    Raises:
        InputError: for another number or shape, missing labels, or numbers that are not whole.

    Example:
        >>> label_array(["b", "a"], 2, "rows"), label_array(np.array([[2.0], [1.0]]), 2, "rows")
        (array(['b', 'a'], dtype=object), array([2, 1]))
    """
    import pandas as pd

    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = labels.double() if labels.is_floating_point() else labels
    values = np.asarray(labels)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1 or (rows is not None and len(values) != rows):
        needed = "one label for each row is" if rows is None else f"one for each of the {rows} rows is"
        raise InputError(f"{name}: the labels have shape {values.shape}, but {needed} needed.")
    missing = np.asarray(pd.isna(values))
    if missing.any() or (values.dtype.kind == "f" and np.isinf(values).any()):
        row = int((missing if missing.any() else np.isinf(values)).argmax())
        raise InputError(f"{name}: the label of {row_name(name, row)} is missing or infinite; remove such rows.")
    if values.dtype.kind == "O":  # nullable columns and categories hold numbers as objects
        plain = pd.Series(values).infer_objects().to_numpy()
        values = plain if plain.dtype.kind in "biuf" else values
    if values.dtype.kind in "iuf":
        return _whole(values, name)
    return values if values.dtype.kind == "b" else values.astype(str).astype(object)


def _whole(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers as int64, where these tell them apart."""
    if values.dtype.kind == "u" and values.max(initial=0) >= 2**63:
        raise InputError(f"{name}: a label is {values.max()}, more than 2^63 - 1; give such labels as text.")
    if (values != np.rint(values)).any():
        raise InputError(f"{name}: labels that are numbers must be whole; give names or whole numbers.")
    if values.dtype.kind == "f" and (large := np.abs(values) >= 2.0**53).any():
        row = int(large.argmax())
        raise InputError(
            f"{name}: the label of {row_name(name, row)} is {values[row]:g}, and decimal numbers from 2^53 on are not "
            "told apart; give such labels as whole numbers or text."
        )
    return values.astype(np.int64)


def label_name(value: Any) -> str:
    """The name of a class: whole numbers without a point.

    Example:
        >>> label_name(2.0), label_name(True), label_name("oak")
        ('2', 'True', 'oak')
    """
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def coded(labels: np.ndarray, classes: tuple[str, ...] | None, name: str) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Positions of labels among the classes that occur, int64 ``n``, and these classes in order.

    Args:
        labels: as :func:`label_array` returns them.
        classes: names that whole-numbered labels are positions in; ``None`` where labels stand for themselves.
        name: how errors call the data.

    Raises:
        InputError: for a label that has no name among ``classes``.

    Example:
        >>> coded(np.array([2, 1, 1_000_000]), None, "rows")
        (array([1, 0, 2]), (1, 2, 1000000))
    """
    if classes is not None and labels.dtype.kind != "i":
        named = {label: k for k, label in enumerate(classes)}
        labels = np.array([named.get(label_name(label), -1) for label in labels.tolist()], dtype=np.int64)
    present, codes = np.unique(labels, return_inverse=True)
    if classes is None:
        return codes.reshape(-1).astype(np.int64), tuple(present.tolist())
    if len(present) and not 0 <= present[0] <= present[-1] < len(classes):
        raise InputError(f"{name}: has labels that are none of its {len(classes)} classes; name every class.")
    return codes.reshape(-1).astype(np.int64), tuple(classes[k] for k in present.tolist())
