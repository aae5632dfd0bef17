"""fastrpn: region proposals and Faster R-CNN with fast, exact C++ and CUDA kernels.

Everything is imported on first use, so that `fastrpn.numpy` never imports torch.
"""

import importlib
from typing import Any

from fastrpn._version import __version__

_SUBMODULES = (
    "analysis",
    "data",
    "deployment",
    "drawing",
    "evaluation",
    "images",
    "inference",
    "models",
    "numpy",
    "ops",
    "training",
)
_NAMES = {
    "Predictor": "fastrpn.inference",
    "TrainConfig": "fastrpn.training",
    "accelerate_torchvision": "fastrpn.ops",
    "evaluate": "fastrpn.evaluation",
    "export": "fastrpn.deployment",
    "faster_rcnn": "fastrpn.models",
    "restore_torchvision": "fastrpn.ops",
    "train": "fastrpn.training",
}

__all__ = ["__version__", *_SUBMODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"fastrpn.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'fastrpn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
