"""Drives CMakeLists.txt with Ninja. Metadata is in pyproject.toml.

FASTRPN_CUDA=0|1|auto   compile the CUDA kernels: never, always, or (default) when nvcc is found
FASTRPN_CUDA_ARCHS      e.g. "86;120"; default: the GPUs of this machine, else 75, 80, 90 and PTX
MAX_JOBS                how many compilers run at once
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from build_backend import DEFAULT_CUDA_ARCHS, find_torch  # noqa: E402

if sys.platform != "linux":
    raise SystemExit(
        f"fastrpn is built on Linux alone, this is {sys.platform}. On macOS and Windows its "
        "kernels do not compile; a Linux container or WSL runs it."
    )


def find_tool(name: str) -> str:
    """Path of a build tool: on PATH, or beside a Python whose environment is not activated."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        raise SystemExit(f"{name} is needed to build fastrpn: `pip install {name}`")
    return path


def find_nvcc() -> str | None:
    """Path of nvcc, or None when the CUDA kernels are not to be compiled."""
    wanted = os.environ.get("FASTRPN_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        raise SystemExit(f"FASTRPN_CUDA must be 0, 1 or auto, got {wanted!r}")
    if wanted == "0":
        return None
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [Path(home, "bin", "nvcc") for home in homes if home]
    nvcc = next((str(path) for path in places if path.exists()), None) or shutil.which("nvcc")
    if nvcc is None and wanted == "1":
        raise SystemExit("FASTRPN_CUDA=1, but nvcc is neither in CUDA_HOME/bin nor on PATH")
    return nvcc


def cuda_archs() -> str:
    """CUDA architectures in CMake's notation."""
    if named := os.environ.get("FASTRPN_CUDA_ARCHS"):
        return named.replace(",", ";").replace(" ", ";")
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        found = []
    present = sorted({f"{capability.replace('.', '')}-real" for capability in found})
    return ";".join(present) or DEFAULT_CUDA_ARCHS


class CMakeBuild(build_ext):
    """Builds both libraries into the package: the source tree's if in place or editable."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = ROOT / "fastrpn" if in_place else Path(self.build_lib).resolve() / "fastrpn"
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        self._cmake("-S", ROOT, "-B", build, *self._options())
        jobs = os.environ.get("MAX_JOBS")
        self._cmake("--build", build, *(["--parallel", jobs] if jobs else []))
        self._cmake("--install", build, "--prefix", package)

    def _options(self) -> list[str]:
        import pybind11

        torch_dir = find_torch()
        if torch_dir is None:
            raise SystemExit("torch >= 2.10 is needed to build fastrpn and was not found")
        nvcc = find_nvcc()
        options = {
            "CMAKE_MAKE_PROGRAM": find_tool("ninja"),
            "FASTRPN_VERSION": self.distribution.get_version(),
            "FASTRPN_TORCH_DIR": torch_dir,
            "FASTRPN_PYTHON_INCLUDE": sysconfig.get_path("include"),
            "FASTRPN_PYBIND11_INCLUDE": pybind11.get_include(),
            "FASTRPN_EXT_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
            "FASTRPN_CUDA": "ON" if nvcc else "OFF",
        }
        if nvcc:
            options |= {"CMAKE_CUDA_COMPILER": nvcc, "FASTRPN_CUDA_ARCHS": cuda_archs()}
        return ["-G", "Ninja", *(f"-D{name}={value}" for name, value in options.items())]

    def _cmake(self, *arguments: object) -> None:
        subprocess.run([find_tool("cmake"), *map(str, arguments)], check=True)

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(ext_modules=[Extension("fastrpn._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
