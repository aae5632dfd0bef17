"""One wheel, built once from the source tree, and one other torch, for all packaging tests."""

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from building import ROOT, clean_environment, run


@dataclass
class BuiltWheel:
    path: Path
    log: str
    seconds: float  # that it takes alone on this machine: of CPU time, shared by the cores


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> BuiltWheel:
    """`pip wheel .` in an isolated build, as `pip install .` would make it."""
    folder = tmp_path_factory.mktemp("wheel")
    start = _cpu_seconds()
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "-w", folder, "."),
        cwd=ROOT,
        env=clean_environment(),
    )
    (path,) = folder.glob("*.whl")
    seconds = (_cpu_seconds() - start) / (os.cpu_count() or 1)
    return BuiltWheel(path, done.stdout + done.stderr, seconds)


def _cpu_seconds() -> float:
    """Of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="session")
def unpacked(wheel, tmp_path_factory) -> Path:
    """Folder that holds the `fastrpn` package of the wheel and nothing else of the source tree."""
    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(wheel.path, folder, "zip")
    return folder


@pytest.fixture(scope="session")
def cpu_torch(tmp_path_factory) -> Path:
    """The Python of an environment with an older torch, for CPUs, and torchvision as on PyPI."""
    folder = tmp_path_factory.mktemp("cpu_torch")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    packages = ["torch==2.13.0", "torchvision==0.28.0", "numpy"]
    pip = [python, "-m", "pip", "install", "--quiet", *packages]
    done = subprocess.run(pip, capture_output=True, text=True, env=clean_environment())
    if done.returncode != 0:
        pytest.skip(f"{packages} cannot be installed: {done.stderr.splitlines()[-1:]}")
    return python
