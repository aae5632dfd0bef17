"""What one needs to compare two result files: versions, commit, date, CPU and threads."""

import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from fastrpn import __version__
from fastrpn._library import core
from fastrpn.info import cpu_name

PACKAGES = ["torch", "torchvision", "numpy", "lsnms", "powerboxes", "opencv-python", "ultralytics"]


def environment() -> dict[str, object]:
    """Everything, ready for JSON."""
    return {
        "versions": {"fastrpn": __version__} | {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "simd_level": core().build_info()["simd_level"],
        "python": platform.python_version(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the clone that holds this file; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
