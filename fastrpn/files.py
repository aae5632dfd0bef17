"""Files that are written whole or not at all, whatever happens in the middle."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["UNFINISHED", "replacing", "write_atomically"]

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


def _flush(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
