"""One door for every source: a name, a file, a folder or a Hugging Face dataset id.

Names are data that scikit-learn ships, so they work without a network. What a path is, is decided
by looking at it: regular files by their suffix, folders by what they hold.
"""

__all__ = ["NAMED", "read"]

import difflib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from girsanov.datasets.arrays import is_idx_folder, read_idx_folder, read_npy, read_npz
from girsanov.datasets.frames import framed
from girsanov.datasets.hub import is_dataset_folder, is_dataset_id, read_hub
from girsanov.datasets.images import foreign_images, has_images, read_image_folder
from girsanov.datasets.raw import Raw, guarded
from girsanov.datasets.tables import TEXT_SUFFIXES, read_parquet, read_text
from girsanov.types import InputError

#: data that scikit-learn ships: description in one line, number of rows, shape of a row
NAMED: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "digits": ("handwritten digits, 8 x 8 pixels, 17 grey levels, 10 classes", 1797, (1, 8, 8)),
    "photographs": ("patches of two photographs in colour, decoded JPEGs, split by region", 520, (3, 32, 32)),
    "breast_cancer": ("features of cell nuclei in biopsies", 569, (30,)),
    "diabetes": ("age, sex, body mass, blood pressure and six blood values", 442, (10,)),
    "iris": ("sepals and petals of three kinds of iris, in cm", 150, (4,)),
    "wine": ("chemical analysis of wines of three cultivars", 178, (13,)),
}

PATCH = 32  #: pixels of a side of the photographs' patches
TEST_COLUMNS = 4  #: of patches at the right of each photograph, of 20

_READERS = {
    **dict.fromkeys(TEXT_SUFFIXES, read_text),
    ".parquet": read_parquet,
    ".npy": read_npy,
    ".npz": read_npz,
}


def read(source: str | os.PathLike[str]) -> Raw:
    """Read any source that the command line accepts as DATA.

    Args:
        source: a name (``digits``, ``photographs``, ``breast_cancer``, ``diabetes``, ``iris``, ``wine``); a ``.csv``,
            ``.tsv`` or ``.txt`` file, also packed (``.gz``, ``.bz2``, ``.xz``, ``.zip``); a ``.parquet``, ``.npy``
            or ``.npz`` file; a folder of idx files, of images or of a saved dataset; or a Hugging Face dataset id. A
            name wins over a path; write ``./digits`` for a folder of that name.

    Raises:
        InputError: one sentence that names the source, for everything that can go wrong.

    Example:
        >>> raw = read("digits")
        >>> raw.kind, raw.values.shape, raw.labels[:3]
        ('images', (1797, 1, 8, 8), array([0, 1, 2]))
    """
    name = os.fspath(source)
    if name in NAMED:
        return _read_named(name)
    path = Path(name).expanduser()
    mode = _mode(path, name) if name else None  # an empty path would be the working folder
    if mode is None:
        return _read_absent(name)
    if stat.S_ISDIR(mode):
        return _read_folder(path, name)
    if not stat.S_ISREG(mode):
        raise InputError(f"{name}: is neither a regular file nor a folder; copy the data to a file first.")
    if path.stat().st_size == 0:
        raise InputError(f"{name}: is empty; give a file that holds data.")
    reader = _reader(path)
    if reader is None:
        raise InputError(
            f"{name}: has no suffix that can be read (.csv, .tsv, .txt, also packed as .gz, .bz2, .xz or .zip, "
            ".parquet, .npy, .npz); convert it to one of these, "
            "and give idx and image files as their folder."
        )
    return reader(path, name)


def _reader(path: Path) -> Callable[[Path, str], Raw] | None:
    name = path.name.lower()
    return next((reader for suffix, reader in _READERS.items() if name.endswith(suffix)), None)


def _mode(path: Path, name: str) -> int | None:
    """The file's mode, ``None`` where there is none."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name!r}: cannot be opened ({reason}); check the path.") from error


def _read_absent(name: str) -> Raw:
    if is_dataset_id(name):
        return read_hub(name)
    if _reader(Path(name)) or os.sep in name or name.startswith((".", "~")):
        raise InputError(f"{name}: there is no such file or folder; check the path.")
    near = difflib.get_close_matches(name, NAMED, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(f"{name!r} is neither a file nor a known name; the names are {', '.join(NAMED)}.{hint}")


def _read_folder(folder: Path, name: str) -> Raw:
    with guarded(name, "a folder"):
        if is_idx_folder(folder):
            return read_idx_folder(folder, name)
        if is_dataset_folder(folder):
            return read_hub(str(folder))
        if has_images(folder):
            return read_image_folder(folder, name)
        foreign = foreign_images(folder)
        if foreign:
            raise InputError(f"{name}: holds images that cannot be read ({foreign}); save them as png or jpg.")
    raise InputError(
        f"{name}: holds neither images, nor idx files (train-images-idx3-ubyte), nor a saved dataset; "
        "give the path of a file inside it, or another folder."
    )


def _read_named(name: str) -> Raw:
    from sklearn import datasets

    if name == "digits":
        bunch: Any = datasets.load_digits()
        values = bunch.images.astype(np.uint8)[:, None]
        return Raw(name, "images", values=values, labels=bunch.target.astype(np.int64))
    if name == "photographs":
        bunch = datasets.load_sample_images()
        return _patches(name, bunch.images, [Path(file).stem for file in bunch.filenames])
    # scaled=False: ages in years and not in units of their standard deviation.
    options = {"scaled": False} if name == "diabetes" else {}
    return framed(getattr(datasets, f"load_{name}")(as_frame=True, **options).data, name)


def _patches(name: str, pictures: Sequence[np.ndarray], classes: Sequence[str]) -> Raw:
    """Disjoint patches of pictures ``h w 3``, row by row of patches; the right-hand columns of each are the test set.

    Random patches would not do: of two neighbours, one would tell much about the other.
    """
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for picture in pictures:
        down, across = (side // PATCH for side in picture.shape[:2])
        cut = picture[: down * PATCH, : across * PATCH].reshape(down, PATCH, across, PATCH, 3).transpose(0, 2, 4, 1, 3)
        for part, columns in zip(parts, (cut[:, :-TEST_COLUMNS], cut[:, -TEST_COLUMNS:]), strict=True):
            part.append(columns.reshape(-1, 3, PATCH, PATCH))
    train, test = parts
    labels = [np.repeat(np.arange(len(part)), [len(patches) for patches in part]) for part in parts]
    return Raw(
        name,
        "images",
        values=np.concatenate([*train, *test]).astype(np.uint8),
        labels=np.concatenate(labels),
        classes=tuple(classes),
        n_train=sum(map(len, train)),
        notes=(
            "Decoded JPEGs: their blocks of 8 x 8 pixels show in the likelihood. Test patches are the right-hand fifth "
            "of each photograph.",
        ),
    )
