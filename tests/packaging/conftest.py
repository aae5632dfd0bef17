"""One wheel, built once from the source tree, that every packaging test uses."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class BuiltWheel:
    path: Path
    log: str
    seconds: float


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Runs a command with captured output and fails with that output when it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without what would lead Python back to the source tree."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | extra


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
