"""Files that are either whole or absent: atomic writes, manifests, verified reading.

A folder of ours (a checkpoint, a saved model) holds tensors in ``*.safetensors``, text in JSON and
a ``manifest.json`` with the sha256 of each file. It is written under a temporary name in the same
parent, flushed to the disk and renamed, so that a kill at any moment leaves the old folder or the
new one. Reading hashes the same bytes that it parses; nothing here unpickles. safetensors alone
notices a truncated file but not a flipped bit, which is why the manifest exists.
"""

__all__ = [
    "CARD",
    "MANIFEST",
    "atomic_directory",
    "lock_directory",
    "pack_tensors",
    "parse_json",
    "parse_tensors",
    "read_file",
    "read_json",
    "read_verified",
    "remove_leftovers",
    "write_atomic",
    "write_json",
    "write_manifest",
]

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from girsanov.types import InputError

MANIFEST = "manifest.json"
CARD = "README.md"  # for people, who may change it: no manifest lists it
MANIFEST_FORMAT = 1
# Every part of a name starts with a letter or digit: neither ".." nor an absolute path can match.
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Replace the content of the file ``path``: a reader sees the old one or the new.

    Args:
        path: the file to write; its folder exists.
        content: the whole of it; text is written in UTF-8.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder) / "note.txt", b"whole")
        ...     (Path(folder) / "note.txt").read_bytes()
        b'whole'
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".tmp-{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        _allow_default_access(Path(temporary), 0o666)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Fill a folder beside ``path`` and rename it to ``path`` when the block ends well.

    The block writes files into the folder that it is given; on leaving, a manifest is added, every
    file and the folder are flushed to the disk, and the folder takes its name. If the block raises,
    nothing is left. A folder that already has this name is moved aside first and removed after, and
    what an earlier kill left under the temporary name is removed.

    Args:
        path: the folder to create or to replace.

    Yields:
        The temporary folder to write into.

    Raises:
        InputError: if ``path`` is a file.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with atomic_directory(Path(parent) / "model") as folder:
        ...         _ = (folder / "config.json").write_text("{}")
        ...     sorted(read_verified(Path(parent) / "model"))
        ['config.json']
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose the name of a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{path.name}.", dir=path.parent))
    try:
        yield temporary
        write_manifest(temporary)
        _sync_tree(temporary)
        _allow_default_access(temporary, 0o777)
        _rename_over(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(parent: Path, name: str = "*") -> None:
    """Remove what a kill has left under a temporary name.

    Args:
        parent: the folder to clean.
        name: only what would have become this name.
    """
    for leftover in parent.glob(f".tmp-{name}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_manifest(directory: str | Path, names: Iterable[str] | None = None) -> None:
    """Write ``manifest.json``: the size and sha256 of each file.

    Args:
        directory: the folder whose files are listed.
        names: which files, relative to the folder with ``/`` between parts; when omitted all of
            them but those that are for people, ``README.md``.

    Raises:
        InputError: if a name has other characters than letters, digits, ``.``, ``_`` and ``-``.
    """
    directory = Path(directory)
    if names is None:
        found = (p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
        names = (name for name in found if name != MANIFEST and Path(name).name != CARD)
    files = {}
    for name in sorted(names):
        _check_name(directory, name)
        files[name] = _fingerprint(read_file(directory / name))
    write_atomic(directory / MANIFEST, _manifest_text(files))


def read_verified(directory: str | Path) -> dict[str, bytes]:
    """Read each file that the manifest lists; the bytes returned are the bytes that were verified.

    Args:
        directory: a folder with a ``manifest.json``.

    Returns:
        File names and contents.

    Raises:
        InputError: if the manifest or a file is missing, damaged or not a plain file.
    """
    directory = Path(directory)
    contents = {}
    for name, entry in _read_manifest(directory).items():
        contents[name] = read_file(_plain(directory / name))
        if entry != _fingerprint(contents[name]):
            raise InputError(f"{directory / name} is damaged (its sha256 differs): restore the folder from a copy")
    return contents


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The safetensors file of named tensors; tensors that share memory are written once each."""
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(copies)


def parse_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """Named tensors of a safetensors file, in memory of their own.

    Args:
        data: content of the file.
        name: what to call the file in an error.

    Raises:
        InputError: if the content is not safetensors; a pickle is refused, never run.

    Example:
        >>> import torch
        >>> parse_tensors(pack_tensors({"weight": torch.ones(2)}), "model.safetensors")
        {'weight': tensor([1., 1.])}
    """
    try:
        loaded = safetensors.torch.load(data)
    except Exception as error:
        reason = "a pickle, which is never loaded" if data[:1] == b"\x80" or data[:2] == b"PK" else "damaged"
        raise InputError(f"{name} is not a safetensors file ({reason}): export it again as safetensors") from error
    # Copies are aligned as torch aligns memory: the last bit of a matrix product can depend on it.
    return {key: tensor.clone() for key, tensor in loaded.items()}


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``data``.

    Args:
        data: content of the file, UTF-8.
        name: what to call the file in an error.

    Raises:
        InputError: if the content is not one JSON object with finite numbers.

    Example:
        >>> parse_json(b'{"step": 3}', "state.json")
        {'step': 3}
    """
    try:
        content = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: restore the file from a copy") from error
    if not isinstance(content, dict):
        raise InputError(f"{name} does not hold a JSON object: restore the file from a copy")
    return content


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: where the system refuses it.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the file and its permissions") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, see :func:`parse_json`."""
    return parse_json(read_file(path), str(path))


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Replace a JSON file, a line at its end, at once; see :func:`write_atomic`."""
    write_atomic(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


@contextlib.contextmanager
def lock_directory(directory: str | Path) -> Iterator[None]:
    """Hold a folder for this process; the system releases it at its end, also after a kill.

    Args:
        directory: an existing folder.

    Raises:
        InputError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no lock, the writes stay atomic
        yield
        return
    with open(Path(directory) / ".lock", "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is training in {directory}: wait or choose another folder") from error
        yield


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _manifest_text(files: Mapping[str, Any]) -> str:
    return json.dumps({"files": files, "format": MANIFEST_FORMAT}, indent=1, sort_keys=True) + "\n"


def _read_manifest(directory: Path) -> dict[str, dict[str, Any]]:
    path = _plain(directory / MANIFEST)
    data = read_file(path)
    files = parse_json(data, str(path)).get("files")
    # One spelling only: whatever bit of the manifest flips, it is no longer what we would write.
    if not isinstance(files, dict) or data != _manifest_text(files).encode():
        raise InputError(f"{path} is damaged or of another version: restore the folder from a copy")
    for name, entry in files.items():
        _check_name(directory, name)
        if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise InputError(f"{path} is damaged: restore the folder from a copy")
    return files


def _check_name(directory: Path, name: str) -> None:
    if not SAFE_NAME.fullmatch(name):
        raise InputError(f"{directory} lists the file name {name!r}: use letters, digits, '.', '_' and '-' only")


def _plain(path: Path) -> Path:
    # A link is followed (a hub cache is made of links) to a plain file, never to a pipe.
    if not path.is_file():
        raise InputError(f"{path} is missing: restore the folder from a copy")
    return path


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _allow_default_access(path: Path, mode: int) -> None:
    # Temporary names are created private; the final name gets the access any new file would have.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(mode & ~mask)


def _rename_over(temporary: Path, path: Path) -> None:
    if path.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".tmp-{path.name}.", dir=path.parent))
        os.rename(path, aside / path.name)
        os.rename(temporary, path)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(temporary, path)
    _sync_directory(path.parent)


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            _sync_directory(path)
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there, and renames are journalled
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
