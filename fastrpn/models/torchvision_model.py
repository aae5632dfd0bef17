"""A model out of nothing but the parameters of a detector of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.torchvision_detectors import (
    COCO_CLASSES,
    class_names,
    is_old,
    network_of,
    other_detector,
)
from fastrpn.models.weights import load_detector, say
from fastrpn.models.zoo import faster_rcnn

__all__ = ["torchvision_model"]

_SCORES = "roi_heads.box_predictor.cls_score.bias"


def torchvision_model(
    path: str | Path, weights: Mapping[str, Tensor]
) -> tuple[FasterRCNN, list[str]]:
    """The model with these weights, and names for its classes; says in a line which.

    Args:
        path: of their file, for messages.
        weights: of a Faster R-CNN on a ResNet with a pyramid, with torchvision's names.

    Raises:
        ValueError: they are of something else.
    """
    other = other_detector(weights)
    if other is not None:
        raise ValueError(
            f"checkpoint {path}: of torchvision's {other}, a network that fastrpn does not have; "
            "fasterrcnn_resnet50_fpn's would load"
        )
    name = network_of(weights)
    if not name or _SCORES not in weights:
        raise ValueError(
            f"checkpoint {path}: not a checkpoint of fastrpn, nor a Faster R-CNN of torchvision"
        )
    classes = class_names(len(weights[_SCORES]))
    model = faster_rcnn(name, len(classes))
    load_detector(model, weights, 0.0 if is_old(weights) else None)
    names = "names of COCO's" if len(classes) == len(COCO_CLASSES) else "numbers as names of its"
    say(f"checkpoint {path}: torchvision's {name}, with {names} {len(classes) - 1} classes")
    return model, classes
