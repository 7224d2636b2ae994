"""Hugging Face datasets, by id or from a local folder; the ``datasets`` package is imported here only.

A dataset with an image column gives images, with the first class-label column as labels. Any other
gives a table, whose class-label column becomes the labels and not a feature. ``train`` and ``test``
splits are joined and remembered; other splits are left out. No code from the hub is run.
"""

__all__ = ["is_dataset_folder", "is_dataset_id", "read_hub"]

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from girsanov.datasets.frames import framed
from girsanov.datasets.images import stacked, to_bytes
from girsanov.datasets.raw import Raw, guarded
from girsanov.datasets.tables import TEXT_SUFFIXES
from girsanov.types import InputError

SAVED = ("dataset_dict.json", "state.json")


def is_dataset_id(source: str) -> bool:
    """Whether a source can be a dataset id: an owner, one slash and a name, no file suffix we read.

    Example:
        >>> is_dataset_id("ylecun/mnist"), is_dataset_id("data/table.csv"), is_dataset_id("a/b/c")
        (True, False, False)
    """
    readable = (*TEXT_SUFFIXES, ".parquet", ".npy", ".npz")
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source, re.ASCII)) and not source.endswith(readable)


def is_dataset_folder(folder: Path) -> bool:
    """Whether a folder was saved by ``save_to_disk`` or holds Parquet files, here or under ``data``."""
    if any((folder / mark).is_file() for mark in SAVED):
        return True
    return any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet"))


def read_hub(source: str) -> Raw:
    """Load a dataset by id, or from a folder.

    Raises:
        InputError: ``datasets`` missing, the dataset unreachable or unreadable, no usable split.
    """
    local = Path(source).is_dir()
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        lead = "reading a dataset folder" if local else "is no local path; loading a Hugging Face dataset"
        message = f"{source}: {lead} needs the datasets package; run pip install 'girsanov[data]'."
        raise InputError(message) from error
    what = "a dataset folder" if local else "a Hugging Face dataset, and there is no such local path"
    advice = "check that its files are complete" if local else "check the id and the network"
    with guarded(source, what, advice):
        saved = local and any((Path(source) / mark).is_file() for mark in SAVED)
        loaded: Any = datasets.load_from_disk(source) if saved else datasets.load_dataset(source)
        splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
        parts = [splits[key] for key in ("train", "test") if key in splits]
        if not parts:
            raise InputError(
                f"{source}: has the splits {', '.join(splits) or '(none)'}, but train or test is needed; "
                "save the split you want as a file."
            )
        whole = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        if not len(whole):
            raise InputError(f"{source}: holds no rows; give some rows.")
        n_train = len(parts[0]) if len(parts) > 1 else None
        return _read_features(whole, source, n_train, datasets)


def _read_features(whole: Any, source: str, n_train: int | None, datasets: Any) -> Raw:
    features = whole.features
    target = next((key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)), None)
    labels = np.asarray(whole[target][:], dtype=np.int64) if target else None
    classes = tuple(features[target].names) if target else None
    picture = next((key for key, kind in features.items() if isinstance(kind, datasets.Image)), None)
    if labels is not None and (labels < 0).any():
        # By convention a test set without public labels has -1 everywhere.
        labels, classes = None, None
    if picture is not None:
        values = stacked(_pictures(whole, picture, source), len(whole), source, "choose a dataset of one size")
        return Raw(source, "images", values=values, labels=labels, classes=classes, n_train=n_train)
    names = tuple(key for key in whole.column_names if key != target)
    if not names:
        raise InputError(f"{source}: has no column besides its labels; choose a dataset with features.")
    frame = whole.with_format("arrow")[:].select(list(names)).to_pandas()
    return framed(frame, source, labels=labels, classes=classes, n_train=n_train)


def _pictures(whole: Any, picture: str, source: str) -> Iterator[tuple[str, np.ndarray]]:
    for i, row in enumerate(whole.select_columns([picture])):
        label = f"{source}: row {i + 1}"
        if row[picture] is None:
            raise InputError(f"{label} has no image; choose a dataset without gaps.")
        yield label, to_bytes(row[picture], label)
