"""Arrays given in Python, ``.npy``, ``.npz`` and the idx format of MNIST. Nothing is ever unpickled.

Axes in files: ``(n, d)`` is a table, ``(n, h, w)`` grey images, ``(n, c, h, w)`` images. A four-axis array
whose last axis is 1 or 3 while its second is not is taken as ``(n, h, w, c)``, and said so.
"""

__all__ = ["from_array", "is_idx_folder", "read_idx_folder", "read_npy", "read_npz"]

import gzip
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from torch import Tensor

from girsanov.datasets.frames import framed
from girsanov.datasets.labels import label_array
from girsanov.datasets.raw import Raw, guarded, positional_names
from girsanov.datasets.refusals import Given
from girsanov.types import InputError

if TYPE_CHECKING:
    import pandas as pd

DATA_NAMES = ("x", "data", "images")
LABEL_NAMES = ("y", "labels")
IDX = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[-.]idx[13][-.]ubyte(?:\.gz)?")  #: set, part and kind
PICKLED = "holds Python objects, which would run code when loaded; save it as a plain numeric array."


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
    held: Any = _rows(x, name) if frame is None else frame
    target = None if labels is None else label_array(labels, len(held), name)
    if held.ndim > 2:
        return Raw(name, "images", values=held, labels=target, classes=classes)
    unnamed = frame is None or (isinstance(x, np.ndarray) and not x.dtype.names)
    given = positional_names(held.shape[1]) if names is None and unnamed else names
    if given is not None and len(given) != held.shape[1]:
        raise InputError(f"{name}: has {held.shape[1]} columns but {len(given)} names; give as many.")
    known: Any = {"named": names is not None or not unnamed, "labels": target, "classes": classes}
    if frame is None:  # not by way of pandas, which is slow where columns are many
        return Raw(name, "table", given, columns=tuple(np.ascontiguousarray(column) for column in held.T), **known)
    with guarded(name, "a table", "check its columns"):
        return framed(frame if given is None else frame.set_axis(list(given), axis=1), name, **known)


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


def _rows(x: Any, name: str) -> np.ndarray:
    """Rows of real numbers, shape ``n d`` or longer."""
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
    if values.ndim < 2:
        raise InputError(
            f"{name}: has shape {values.shape}, but rows of at least one column are needed; reshape it to (n, 1)."
        )
    if 0 in values.shape:
        raise InputError(f"{name}: has shape {values.shape}, which holds no values; give some rows.")
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


# ---------------------------------------------------------------------------------------- numpy


def read_npy(path: Path, name: str) -> Raw:
    """Read a ``.npy`` file as a table or as images.

    Raises:
        InputError: pickled, truncated, complex, text, fewer than two or more than four axes.
    """
    with guarded(name, "a .npy file"):
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            _require_complete(file, version, path.stat().st_size, name)
        return _shaped(np.load(path, allow_pickle=False), None, name)


def _require_complete(file: BinaryIO, version: tuple[int, int], size: int, name: str) -> None:
    """Compare the header's promise with the file's size before anything is allocated."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        return
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise InputError(f"{name}: {PICKLED}")
    if math.prod(shape) * dtype.itemsize > size:
        raise InputError(f"{name}: ends early: its header promises shape {shape}; copy the file again.")


def read_npz(path: Path, name: str) -> Raw:
    """Read a ``.npz`` file: its only array, or the one named x, data or images, with y or labels.

    Raises:
        InputError: as :func:`read_npy`, and where no array or several could be meant.
    """
    with guarded(name, "a .npz file"):
        if not zipfile.is_zipfile(path):
            raise InputError(f"{name}: is not a .npz archive, or ends early; save it again.")
        # Opened here, because numpy leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            keys = list(archive.files)
            target = next((key for key in LABEL_NAMES if key in keys), None)
            data = [key for key in keys if key != target]
            chosen = next((key for key in DATA_NAMES if key in data), data[0] if len(data) == 1 else None)
            if chosen is None:
                raise InputError(
                    f"{name}: holds the arrays {', '.join(sorted(keys)) or '(none)'}; "
                    "name the data x (and the labels y)."
                )
            labels = _member(archive, target, name) if target else None
            return _shaped(_member(archive, chosen, name), labels, name)


def _member(archive: np.lib.npyio.NpzFile, key: str, name: str) -> np.ndarray:
    try:
        values = archive[key]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise InputError(f"{name}: array {key!r} {PICKLED}") from error
        raise
    if not isinstance(values, np.ndarray):
        raise InputError(f"{name}: member {key!r} is no array; save the file with numpy.savez.")
    return values


def _shaped(values: np.ndarray, labels: np.ndarray | None, name: str) -> Raw:
    if values.ndim > 4:
        raise InputError(f"{name}: has shape {values.shape}; give (n, d), (n, h, w) or (n, c, h, w).")
    raw = from_array(values, labels=labels, name=name)
    if values.ndim == 3:
        return replace(raw, values=raw.stack[:, None])
    if values.ndim == 4 and values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        notes = (f"{name}: the last axis was taken as the channels.",)
        return replace(raw, values=raw.stack.transpose(0, 3, 1, 2), notes=notes)
    return raw


# ---------------------------------------------------------------------------------------- idx


def _idx_files(folder: Path) -> dict[tuple[str, str, str], Path]:
    """The idx files of a folder by set, part (train, t10k or test) and kind; a packed one only where it is alone."""
    named = [(IDX.fullmatch(path.name), path) for path in sorted(folder.iterdir(), reverse=True)]
    return {(found[1], found[2], found[3]): path for found, path in named if found and path.is_file()}


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds an idx file of images (``train-images-idx3-ubyte`` and its kin)."""
    return any(kind == "images" for _, _, kind in _idx_files(folder))


def read_idx_folder(folder: Path, name: str) -> Raw:
    """Read a folder of idx files: train, test (``t10k``) or both, the training rows first.

    Labels are used when every part has them. With both parts, ``n_train`` marks the border.

    Raises:
        InputError: truncated or foreign files, several sets, parts of different image sizes, or labels that are of
            another set or not one per image.
    """
    found = _idx_files(folder)
    sets = sorted({which for which, _, kind in found if kind == "images"})
    both = {"t10k", "test"} <= {part for _, part, kind in found if kind == "images"}
    if len(sets) > 1 or both:
        files = ", ".join(sorted(path.name for (_, _, kind), path in found.items() if kind == "images"))
        raise InputError(f"{name}: holds the images of several sets ({files}); give one set a folder of its own.")
    foreign = [path.name for (which, _, kind), path in found.items() if kind == "labels" and which != sets[0]]
    if foreign and not any(kind == "labels" and which == sets[0] for which, _, kind in found):
        raise InputError(f"{name}: {foreign[0]} are labels of another set than its images; remove or rename them.")
    images = ((part, found.get((sets[0], part, "images"))) for part in ("train", "t10k", "test"))
    parts = {part: path for part, path in images if path is not None}
    stacks = [_read_idx(file, 3, f"{name}/{file.name}") for file in parts.values()]
    if len({stack.shape[1:] for stack in stacks}) > 1:
        sizes = " and ".join(str(stack.shape[1:]) for stack in stacks)
        raise InputError(f"{name}: its parts hold images of sizes {sizes}; keep one size per folder.")
    files = [found.get((sets[0], part, "labels")) for part in parts]
    labels = [
        label_array(_read_idx(file, 1, f"{name}/{file.name}"), len(stack), f"{name}/{file.name}")
        for file, stack in zip(files, stacks, strict=True)
        if file is not None
    ]
    whole = np.concatenate(labels) if len(labels) == len(stacks) else None
    n_train = len(stacks[0]) if "train" in parts and len(stacks) > 1 else None
    values = np.concatenate(stacks)[:, None]
    return Raw(name, "images", values=values, labels=whole, n_train=n_train)


def _read_idx(path: Path, axes: int, name: str) -> np.ndarray:
    with guarded(name, "an idx file"):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        start = 4 + 4 * axes
        if len(data) < start or data[:4] != bytes([0, 0, 8, axes]):
            raise InputError(f"{name}: is not an idx file of bytes with {axes} axes; download it again.")
        shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
        if len(data) - start != math.prod(shape):
            raise InputError(
                f"{name}: promises shape {shape}, {math.prod(shape)} bytes, but holds "
                f"{len(data) - start}; download it again."
            )
        if 0 in shape:
            raise InputError(f"{name}: has shape {shape}, which holds no values; give some rows.")
        return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
