"""What torchvision's detectors call their parameters, which of them are ours, and COCO's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["COCO_CLASSES", "class_names", "is_detector", "is_old", "network_of"]
__all__ += ["other_detector", "to_our_names"]

_TO_OURS = (
    (re.compile(r"^roi_heads\."), "roi_head."),
    # Convolutions have been wrapped since torchvision 0.13; older files name them as we do.
    (re.compile(r"^(rpn\.head\.conv)\.0\.0\."), r"\1."),
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.0\."), r"\1."),
)

# What only another detector has, and what that is called.
_OTHERS = (
    ("rpn.head.conv.1.0.", "fasterrcnn_resnet50_fpn_v2"),
    ("roi_heads.mask_", "maskrcnn_resnet50_fpn"),
    ("roi_heads.keypoint_", "keypointrcnn_resnet50_fpn"),
    ("head.classification_head.", "RetinaNet, FCOS or SSD"),
    ("backbone.body.0.0.", "fasterrcnn_mobilenet_v3_large_fpn"),
)

# Number of blocks in layer3 -> depth, for blocks of three convolutions and of two.
_DEPTHS = {(6, True): 50, (23, True): 101, (2, False): 18}

_COCO = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "", "backpack"),
    *("umbrella", "", "", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard"),
    *("sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut"),
    *("cake", "chair", "couch", "potted plant", "bed", "", "dining table", "", "", "toilet", ""),
    *("tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster"),
    *("sink", "refrigerator", "", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
# By the ids of COCO's categories; those that no object has are told apart by their numbers.
COCO_CLASSES = ("__background__", *(n or f"N/A {i}" for i, n in enumerate(_COCO, start=1)))


def is_detector(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are of a whole detector, not of a backbone or a classifier."""
    return any(name.startswith(("rpn.", "head.classification_head.")) for name in weights)


def is_old(weights: Mapping[str, Tensor]) -> bool:
    """Whether torchvision wrote them before 0.13: their norms meant an eps of 0."""
    return "rpn.head.conv.weight" in weights and any(n.startswith("roi_heads.") for n in weights)


def other_detector(weights: Mapping[str, Tensor]) -> str | None:
    """The name of a detector of torchvision that fastrpn has not, if they are of such."""
    for start, name in _OTHERS:
        if any(key.startswith(start) for key in weights):
            return name
    return None


def to_our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names to ours; ours stay."""
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in _TO_OURS:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    return renamed


def network_of(weights: Mapping[str, Tensor]) -> str:
    """The name of our network with these parameters: a ResNet with a pyramid; else ""."""
    blocks = {m[1] for name in weights if (m := _BLOCK.match(name))}
    has_three = any(name.startswith("backbone.body.layer3.0.conv3.") for name in weights)
    depth = _DEPTHS.get((len(blocks), has_three))
    has_pyramid = any(name.startswith("backbone.fpn.") for name in weights)
    return f"resnet{depth}_fpn" if depth and has_pyramid else ""


_BLOCK = re.compile(r"^backbone\.body\.layer3\.(\d+)\.")


def class_names(number: int) -> list[str]:
    """Names for a detector that comes without: COCO's where there are as many, else numbers."""
    if number == len(COCO_CLASSES):
        return list(COCO_CLASSES)
    return ["__background__", *(f"class {label}" for label in range(1, number))]
