"""One wheel, built once from the source tree, that every packaging test uses."""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from building import ROOT, clean_environment, run


@dataclass
class BuiltWheel:
    path: Path
    log: str
    seconds: float


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> BuiltWheel:
    """`pip wheel .` in an isolated build, as `pip install .` would make it."""
    folder = tmp_path_factory.mktemp("wheel")
    start = time.monotonic()
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "-w", folder, "."),
        cwd=ROOT,
        env=clean_environment(),
    )
    (path,) = folder.glob("*.whl")
    return BuiltWheel(path, done.stdout + done.stderr, time.monotonic() - start)


@pytest.fixture(scope="session")
def unpacked(wheel, tmp_path_factory) -> Path:
    """Folder that holds the `fastrpn` package of the wheel and nothing else of the source tree."""
    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(wheel.path, folder, "zip")
    return folder
