"""Build backend: setuptools, plus torch as a build requirement only where none is installed.

The kernels need torch's headers and libtorch_cpu. In pip's isolated builds the target environment
is not on sys.path, but sysconfig still knows where it is, so a torch that is installed there is
used as it is: no second torch is downloaded.
"""

import os
import re
import site
import sys
import sysconfig
from pathlib import Path

from setuptools.build_meta import *  # noqa: F403
from setuptools.build_meta import get_requires_for_build_wheel as _requires_for_build_wheel

OLDEST_TORCH = (2, 10)
# Where no GPU says what it needs: machine code from Turing to Hopper (a T4 is 75; 80 serves 86 and
# 89), and PTX that the driver compiles for what is newer.
DEFAULT_CUDA_ARCHS = "75-real;80-real;90"


def find_torch() -> Path | None:
    """Folder of the first torch package found that is new enough, or None."""
    for folder in _site_folders():
        torch_dir = Path(folder, "torch")
        if _version(torch_dir) >= OLDEST_TORCH:
            return torch_dir
    return None


def _site_folders() -> list[str]:
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path]
    if sys.prefix != sys.base_prefix:
        config = Path(sys.prefix, "pyvenv.cfg")
        sees_base = config.exists() and "include-system-site-packages = true" in config.read_text()
    else:
        sees_base = True
    if sees_base:
        folders.append(site.getusersitepackages())
        folders.append(sysconfig.get_path("purelib", vars={"base": sys.base_prefix}))
    return [folder for folder in dict.fromkeys(folders) if folder and os.path.isdir(folder)]


def _version(torch_dir: Path) -> tuple[int, ...]:
    """torch's version, read from version.py without importing it; () where there is no torch."""
    try:
        text = (torch_dir / "version.py").read_text()
    except OSError:
        return ()
    found = re.search(r"__version__ = '(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


def _with_torch(requirements: list[str]) -> list[str]:
    return requirements if find_torch() else [*requirements, "torch>=2.10"]


def get_requires_for_build_wheel(config_settings=None):
    return _with_torch(_requires_for_build_wheel(config_settings))


get_requires_for_build_editable = get_requires_for_build_wheel
