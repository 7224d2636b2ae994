"""Folders of images: flat, class per subfolder, or ``train`` and ``test`` folders of either kind.

Pixels stay the bytes they are, 0 to 255, grey (1 channel) or RGB (3 channels). Nothing is resized,
cropped or converted in a way that loses something: mixed sizes and modes are refused instead.
"""

__all__ = ["foreign_images", "has_images", "read_image_folder", "stacked", "to_bytes"]

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from girsanov.datasets.raw import Raw, guarded
from girsanov.datasets.refusals import some
from girsanov.types import InputError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".tif", ".tiff", ".tga"}
) | {".ppm", ".pgm", ".pbm", ".pnm"}
#: images that need another program
FOREIGN = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".xcf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf"}
) | {".dcm", ".exr", ".hdr", ".eps", ".ai"}
NO_DATA = frozenset({"thumbs.db", "desktop.ini"})  #: that a system leaves beside images
SHOWN = 3  #: files in one sentence
PARTS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
MAX_PIXELS = 2**24  #: of one image, checked before it is decoded
MAX_BYTES = 2**34  #: of the whole stack


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def has_images(folder: Path) -> bool:
    """Whether a folder, or a folder two levels down, holds image files."""
    return bool(_files(folder)) or any(
        _files(inner) or any(_files(leaf) for leaf in _folders(inner)) for inner in _folders(folder)
    )


def foreign_images(folder: Path) -> str:
    """The images of a folder, or of its folders, that cannot be read, in words; empty where there are none."""
    found = [path for place in (folder, *_folders(folder)) for path in _others(place)]
    return some([path.relative_to(folder).as_posix() for path in found if path.suffix.lower() in FOREIGN], SHOWN)


def _others(folder: Path) -> list[Path]:
    """What lies in a folder of images and is not read: other files, and images of folders inside it."""
    files = set(_files(folder))
    others = [
        path
        for path in folder.iterdir()
        if path not in files
        and not path.is_dir()
        and not path.name.startswith(".")
        and path.name.lower() not in NO_DATA
    ]
    return sorted([*others, *(path for inner in _folders(folder) for path in _files(inner))])


def _left_out(folder: Path, places: list[Path]) -> tuple[str, ...]:
    """A sentence about the files that are not read, where there are some."""
    beside = [path for path in _others(folder) if path.parent == folder]  # images further in are their places'
    others = [*beside, *(path for place in places for path in _others(place))]
    if not others:
        return ()
    count = "1 file" if len(others) == 1 else f"{len(others):,} files"
    names = some([path.relative_to(folder).as_posix() for path in others], SHOWN)
    return (f"Left out {count}, not read as images ({names}): save as png or jpg what belongs to the data.",)


def read_image_folder(folder: Path, name: str) -> Raw:
    """Read every image of a folder, in the order of the file names.

    Subfolders are classes, numbered in the order of their names. Where the only subfolders are
    ``train`` and ``test``, they are the two parts of the data, and ``n_train`` marks the border.

    Raises:
        InputError: an unreadable image, images of different sizes or modes, a mode
            other than grey or RGB, an image of more than 2^24 pixels, an empty class folder, images beside folders of
            images, or folders that are parts of the data by other names.
    """
    with guarded(name, "a folder of images"):
        folders, files = _folders(folder), _files(folder)
        if {path.name for path in folders} == {"train", "test"} and not files:
            train = read_image_folder(folder / "train", f"{name}/train")
            return _joined(train, read_image_folder(folder / "test", f"{name}/test"), name)
        _refuse_mixture(folders, files, name)
        if files:
            names, notes = tuple(path.name for path in files), _left_out(folder, [])
            return Raw(name, "images", values=_stack(files, name), files=names, notes=notes)
        members = [(path.name, _files(path)) for path in folders]
        empty = next((label for label, inside in members if not inside), None)
        if empty is not None:
            raise InputError(
                f"{name}: the class folder {empty!r} holds no images{_but(folder / empty)}; fill or remove it."
            )
        if not members:
            raise InputError(f"{name}: holds no images{_but(folder)}; give a folder of png or jpg files.")
        labels = np.repeat(np.arange(len(members)), [len(inside) for _, inside in members])
        paths = [path for _, inside in members for path in inside]
        values, inner = _stack(paths, name), tuple(f"{path.parent.name}/{path.name}" for path in paths)
        classes = tuple(label for label, _ in members)
        notes = _left_out(folder, folders)
        return Raw(name, "images", values=values, labels=labels, classes=classes, files=inner, notes=notes)


def _but(folder: Path) -> str:
    found = foreign_images(folder)
    return f" that can be read (but {found})" if found else ""


def _refuse_mixture(folders: list[Path], files: list[Path], name: str) -> None:
    """Refuse folders whose images could be meant in several ways."""
    inner = [path.name for path in folders if _files(path)]
    if files and inner:
        raise InputError(f"{name}: holds images and a folder of images too, {inner[0]!r}; move one of them elsewhere.")
    parts = [path.name for path in folders if path.name.lower() in PARTS]
    if len(parts) == len(folders) > 1 or (parts and not inner):
        raise InputError(
            f"{name}: holds parts of one data set by their names ({', '.join(parts)}), not classes; call them train "
            "and test and leave no other beside them, or give one of them."
        )


def _joined(train: Raw, test: Raw, name: str) -> Raw:
    if train.stack.shape[1:] != test.stack.shape[1:]:
        raise InputError(
            f"{name}: train and test hold images of shapes {train.stack.shape[1:]} and "
            f"{test.stack.shape[1:]}; keep one shape per folder."
        )
    if train.classes != test.classes:
        raise InputError(f"{name}: train and test have different class folders; give both the same.")
    labels = None
    if train.labels is not None and test.labels is not None:
        labels = np.concatenate([train.labels, test.labels])
    values = np.concatenate([train.stack, test.stack])
    files = tuple(f"{part}/{file}" for part, raw in (("train", train), ("test", test)) for file in raw.files or ())
    notes = tuple(f"{part}: {note}" for part, raw in (("train", train), ("test", test)) for note in raw.notes)
    return replace(train, name=name, values=values, labels=labels, n_train=len(train), files=files, notes=notes)


def _stack(files: list[Path], name: str) -> np.ndarray:
    return stacked(_pictures(files, name), len(files), name, "bring all images to one size and mode")


def _pictures(files: list[Path], name: str) -> Iterator[tuple[str, np.ndarray]]:
    for path in files:
        label = (
            f"{name}/{path.name}" if path.parent.name == Path(name).name else f"{name}/{path.parent.name}/{path.name}"
        )
        with guarded(label, "an image"), Image.open(path) as image:
            pixels = to_bytes(image, label)
        yield label, pixels


def stacked(pictures: Iterable[tuple[str, np.ndarray]], count: int, name: str, advice: str) -> np.ndarray:
    """Pictures of one shape as an array ``n c h w``.

    Args:
        pictures: how errors call each, and its bytes ``c h w``.
        count: how many there are, at least one.
        name: how errors call all.
        advice: what to do where their shapes differ.

    Raises:
        InputError: for another shape than that of the first, or too many.
    """
    stack = np.empty(0)
    for i, (label, pixels) in enumerate(pictures):
        if not i and count * pixels.size > MAX_BYTES:
            raise InputError(f"{name}: {count} images of shape {pixels.shape} are too many; scale them down.")
        stack = stack if i else np.empty((count, *pixels.shape), dtype=np.uint8)
        if pixels.shape != stack.shape[1:]:
            raise InputError(
                f"{label}: has shape {pixels.shape} (channels, height, width), but the images before it have "
                f"{stack.shape[1:]}; {advice}."
            )
        stack[i] = pixels
    return stack


def to_bytes(image: Any, name: str) -> np.ndarray:
    """Decode a pillow image to uint8, shape ``c h w``, after checking its size.

    Raises:
        InputError: too many pixels, several frames, or a mode that grey and RGB cannot hold.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: has {width} x {height} pixels, too many to model; scale it down.")
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{name}: has several frames; save one frame as a png file.")
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):  # pillow would halve it in silence
        raise InputError(f"{name}: has 16 bits per pixel; convert it to 8-bit grey or RGB.")
    lossless = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}
    if image.mode not in lossless or "transparency" in image.info:
        raise InputError(f"{name}: has mode {image.mode}, not grey or RGB; convert it to 8-bit grey or RGB.")
    upright = ImageOps.exif_transpose(image)  # as a viewer shows it
    pixels = np.asarray(upright.convert(lossless[image.mode]), dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
