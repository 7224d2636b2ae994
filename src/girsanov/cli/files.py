"""Writing the file that the user named: whole or not at all, and one sentence where it cannot be."""

__all__ = ["write_file"]

from pathlib import Path

from girsanov.types import InputError


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, replacing what is there.

    Raises:
        InputError: where the folder is missing or not writable.
    """
    from girsanov.training import write_bytes_atomic

    if path.is_dir():
        raise InputError(f"{path} is a folder: give --out the name of a file")
    try:
        write_bytes_atomic(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): check that its folder exists") from error
