"""Wheels that stand in for those of PyPI, in a folder where pip looks instead."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
_WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    about = {
        "METADATA": _METADATA.format(name=name, version=version),
        "WHEEL": _WHEEL,
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        for path, text in about.items():
            archive.writestr(f"{stem}.dist-info/{path}", text)


def offline(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Lets pip find what is in the folder, and nothing else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
