"""What one needs to compare two result files: versions, commit, date, CPU and threads."""

import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from fastrpn import __version__
from fastrpn._library import core

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


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The model name; with family and model where it has no number, as in virtual machines."""
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    fields: dict[str, str] = {}
    for key, _, value in pairs:
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.machine()
    if "cpu family" in fields and not any(character.isdigit() for character in name):
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return name


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
