"""What was built and what was found at run time: the answer to "why is my GPU not used?"."""

import ctypes
import platform
from importlib import metadata

from fastrpn._library import core, load_torch_operators

OLDEST_DRIVER = {13: "580", 12: "525"}  # by CUDA major version of a static runtime


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
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        "torchvision": _version_of("torchvision"),
        "NumPy": _version_of("numpy"),
        "OpenCV": _opencv(),
        "CUDA driver": _cuda_driver(),
        "GPUs": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "GPU used": _why_no_gpu(build) or "yes",
    }


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


def _why_no_gpu(build: dict[str, object]) -> str | None:
    """The first reason that keeps the CUDA kernels from running, in words; None if nothing does."""
    import torch

    if build["cuda_version"] is None:
        return "no: fastrpn was built without CUDA (no nvcc was found, or FASTRPN_CUDA=0)"
    if _cuda_driver() is None:
        return "no: there is no NVIDIA driver on this machine (libcuda.so.1 is missing)"
    built, driver = (
        tuple(int(part) for part in str(version).split(".")[:2])
        for version in (build["cuda_version"], _cuda_driver())
    )
    if driver[0] < built[0]:
        needed = OLDEST_DRIVER.get(built[0])
        hint = f", {needed} or newer" if needed else ""
        return f"no: the driver is too old for CUDA {build['cuda_version']}: update it{hint}"
    if torch.version.cuda is None:
        return f"no: torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return "no: torch finds no usable GPU (torch.cuda.is_available() is False)"
    return None
