"""fastrpn: region proposals and Faster R-CNN with fast, exact C++ and CUDA kernels.

Submodules are imported on first use, so that `fastrpn.numpy` never imports torch.
"""

import importlib

from fastrpn._version import __version__

__all__ = [
    "__version__",
    "accelerate_torchvision",
    "analysis",
    "data",
    "engine",
    "models",
    "numpy",
    "ops",
    "restore_torchvision",
    "viz",
]

_SUBMODULES = {"analysis", "data", "engine", "models", "numpy", "ops", "viz"}
_OPS = {"accelerate_torchvision", "restore_torchvision"}


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"fastrpn.{name}")
    if name in _OPS:
        return getattr(importlib.import_module("fastrpn.ops"), name)
    raise AttributeError(f"module 'fastrpn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
