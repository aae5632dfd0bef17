"""Files that are written whole or not at all, whatever happens in the middle."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["UNFINISHED", "check_archive", "replacing", "require_writable", "write_atomically"]

UNFINISHED = ".fastrpn-unfinished-"  # how the names of temporary files and folders begin


def write_atomically(path: str | Path, content: bytes, durable: bool = True) -> Path:
    """Writes `content` as :func:`replacing` does."""
    with replacing(path, durable) as temporary:
        temporary.write_bytes(content)
    return Path(path)


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Gives the name of an empty file beside `path`, which takes its place when all went well.

    A crash at any moment leaves the old file or the new one. Makes the folder. The name begins with
    `UNFINISHED` and ends as `path` does, for writers that go by the suffix.

    Args:
        durable: flush the file to the disk before it is renamed, and the folder after that, so that
            a power cut, too, leaves the old file or the new one. Costs some milliseconds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(path.suffix, f"{UNFINISHED}{path.stem}-", path.parent)
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)  # mkstemp's files are private
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        _flush(path.parent)


def require_writable(name: str, path: str | Path, is_folder: bool = False) -> None:
    """Raises ValueError if a file, or a folder with its files, cannot be written there; for use
    before hours of work. Makes nothing.

    Args:
        name: of the setting that gave the path.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != is_folder:
        wanted, there = ("a folder", "a file") if is_folder else ("a file", "a folder")
        raise ValueError(f"{name} {path}: must be {wanted}, but there is {there}")
    nearest = path if is_folder else path.parent
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ValueError(f"{name} {path}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{name} {path}: the folder {nearest} cannot be written to")


def check_archive(path: str | os.PathLike) -> None:
    """Raises ValueError if a file of `torch.save` has changed since it was written: it is a zip
    archive, whose checksums torch writes and does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.testzip()
    except Exception as error:  # what zipfile meets where the archive's directory is damaged
        raise ValueError(f"not a whole zip archive: {error}") from error
    if entry is not None:
        raise ValueError(f"the checksum of {entry} does not hold")


def _flush(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
