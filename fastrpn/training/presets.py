"""The training-side numbers that belong to the presets of :mod:`fastrpn.models.config`."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any

__all__ = ["TRAINING_PRESETS", "training_preset"]

# Stochastic gradient descent with no warm-up and no clipping, one image a batch: the RPN's of the
# paper, and all of py-faster-rcnn's joint training.
_CAFFE = {
    "batch_size": 1,
    "lr": 0.001,
    "lr_schedule": "steps",
    "lr_gamma": 0.1,
    "warmup_steps": 0,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "clip_grad_norm": None,
    "flip": 0.5,
}
# Fast R-CNN takes its 128 regions from two images; 40k steps, 30k of them at the first rate.
_ALTERNATING = {
    **_CAFFE,
    "rpn_stage": {"steps": 80_000, "lr_steps": (60 / 80,)},
    "box_stage": {
        "steps": 40_000,
        "lr_steps": (30 / 40,),
        "batch_size": 2,
        "model_options": {"box_batch_size": 64},
    },
}
_TORCHVISION = {
    "batch_size": 16,
    "epochs": 26,
    "lr": 0.02,
    "lr_schedule": "steps",
    "lr_steps": (16 / 26, 22 / 26),
    "lr_gamma": 0.1,
    "warmup_steps": 1000,
    "momentum": 0.9,
    "weight_decay": 0.0001,
    "clip_grad_norm": None,
    "flip": 0.5,
}

# {preset: {schedule: settings of TrainConfig}}
TRAINING_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "joint": {**_CAFFE, "steps": 80_000, "lr_steps": (60 / 80,)},
        "alternating": _ALTERNATING,
    },
    "py-faster-rcnn": {
        "joint": {**_CAFFE, "steps": 70_000, "lr_steps": (50 / 70,)},
        "alternating": {**_ALTERNATING, "box_error_by_class": True},
    },
    "torchvision": {"joint": _TORCHVISION, "alternating": _TORCHVISION},
}


def training_preset(preset: str, schedule: str, given: Container[str]) -> dict[str, Any]:
    """The settings of a preset, without those that were given.

    Whoever gives a length (``steps`` or ``epochs``) gets it in all stages.

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in TRAINING_PRESETS:
        known = ", ".join(TRAINING_PRESETS)
        raise ValueError(f"preset must be one of {known}, got {preset!r}")
    settings = copy.deepcopy(TRAINING_PRESETS[preset][schedule])
    if "steps" in given or "epochs" in given:
        for place in (settings, settings.get("rpn_stage", {}), settings.get("box_stage", {})):
            place.pop("steps", None)
    return {name: value for name, value in settings.items() if name not in given}
