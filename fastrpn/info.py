"""What was built and what was found at run time: the answer to "why is my GPU not used?"."""

import ctypes
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from fastrpn._library import core, load_torch_operators

OLDEST_DRIVER = {13: "580", 12: "525"}  # by CUDA major version of a static runtime
DRIVER_FILE = Path("/proc/driver/nvidia/version")


def collect() -> dict[str, object]:
    """Build information of `fastrpn._C` and what this machine offers.

    Returns:
        Ordered names and values, all plain Python objects (JSON-serialisable).

    Raises:
        ImportError: the compiled libraries cannot be loaded.
    """
    import torch

    build = core().build_info()
    load_torch_operators()
    return {
        "fastrpn": build["version"],
        "compiler": build["compiler"],
        "SIMD compiled": build["simd_levels"],
        "SIMD in use": build["simd_level"],
        "torch target": f">= {build['torch_target']} (stable ABI)",
        "CUDA kernels": build["cuda_version"] or "not compiled",
        "CUDA architectures": build["cuda_archs"],
        "driver needed": _driver_needed(build),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        "torchvision": _version_of("torchvision"),
        "NumPy": _version_of("numpy"),
        "OpenCV": _opencv(),
        "platform": platform.platform(),
        "CPU": cpu_name(),
        "CPU threads": os.cpu_count(),
        "NVIDIA driver": _driver(),
        "CUDA of the driver": _cuda_driver(),
        "GPUs": [f"{name} (sm_{a}{b})" for name, (a, b) in _gpus()],
        "GPU used": _why_no_gpu(build) or "yes",
    }


def show(as_json: bool = False) -> None:
    """Prints it, a line a fact: what `fastrpn info` does."""
    facts = collect()
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
        print(f"{name:20}{text if text is not None else 'not found'}")


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


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _opencv() -> str | None:
    """Version of the first distribution of OpenCV that is installed, whichever it is."""
    names = ("opencv-python", "opencv-contrib-python")
    versions = (_version_of(name + kind) for kind in ("", "-headless") for name in names)
    return next((version for version in versions if version), None)


def _driver_needed(build: dict[str, Any]) -> str:
    """What the statically linked CUDA runtime asks for; "none" for a build without CUDA."""
    if build["cuda_version"] is None:
        return "none"
    oldest = OLDEST_DRIVER.get(_major(build["cuda_version"]), "one")
    return f"{oldest} or newer, for CUDA {build['cuda_version']}"


def _major(version: object) -> int:
    return int(str(version).split(".")[0])


def _driver() -> str | None:
    """The installed driver's version, e.g. "580.65.06"; None without one."""
    try:
        found = re.search(r"\s(\d+\.\d+[.\d]*)\s", DRIVER_FILE.read_text())
    except OSError:
        found = None
    return found[1] if found else _driver_by_nvml()


def _driver_by_nvml() -> str | None:
    """The same where the kernel does not say it, as in some containers."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    version = ctypes.create_string_buffer(81)
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlSystemGetDriverVersion(version, len(version)) != 0:
        return None
    return version.value.decode()


def _gpus() -> list[tuple[str, tuple[int, int]]]:
    """(name, compute capability) of each device that torch finds."""
    import torch

    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(of.name, (of.major, of.minor)) for of in properties]


def holds_code_for(capability: tuple[int, int], archs: list[str]) -> bool:
    """Whether a build for these architectures runs on a GPU of this compute capability.

    Args:
        capability: (8, 6) for sm_86.
        archs: in CMake's notation: "80-real" is machine code, "90-virtual" PTX, "90" both. Machine
            code runs on the same major version from its minor one on, PTX on all that is newer.
            A name that is no number ("native") is taken to fit.
    """
    for arch in archs:
        found = re.fullmatch(r"(\d+)(\d)[af]?(-real|-virtual)?", arch)
        if found is None:
            return True
        built, kind = (int(found[1]), int(found[2])), found[3]
        if kind != "-real" and built <= capability:
            return True
        if kind != "-virtual" and built[0] == capability[0] and built <= capability:
            return True
    return False


def _cuda_driver() -> str | None:
    """Newest CUDA version the installed driver supports, e.g. "13.0"; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _why_no_gpu(build: dict[str, Any]) -> str | None:
    """The first reason that keeps the CUDA kernels from running, in words; None if nothing does."""
    import torch

    if build["cuda_version"] is None:
        return "no: fastrpn was built without CUDA (no nvcc was found, or FASTRPN_CUDA=0)"
    if _cuda_driver() is None:
        return "no: there is no NVIDIA driver on this machine (libcuda.so.1 is missing)"
    if _major(_cuda_driver()) < _major(build["cuda_version"]):
        return (
            f"no: the NVIDIA driver ({_driver() or 'version unknown'}) is too old; needed: "
            f"{_driver_needed(build)}"
        )
    if torch.version.cuda is None:
        return f"no: torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return "no: torch finds no usable GPU (torch.cuda.is_available() is False)"
    for name, (major, minor) in _gpus():
        if not holds_code_for((major, minor), build["cuda_archs"]):
            arch = f"{major}{minor}"
            return f"no: no code for {name} (sm_{arch}): reinstall with FASTRPN_CUDA_ARCHS={arch}"
    return None
