"""Writing the file that the user named: whole or not at all, and one sentence where it cannot be."""

__all__ = ["check_place", "write_file"]

from pathlib import Path

from girsanov.types import InputError


def check_place(path: Path | None) -> None:
    """Refuse a file that cannot be written because of where it lies, before anything is computed.

    Raises:
        InputError: for a folder, or a file in a folder that is missing.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder: give --out the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path} ({path.parent} is no folder): check that its folder exists")


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, replacing what is there.

    Raises:
        InputError: where the folder is missing or not writable.
    """
    from girsanov.files import write_bytes_atomic

    check_place(path)
    try:
        write_bytes_atomic(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): check that its folder exists") from error
