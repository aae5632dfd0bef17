"""Checks of what the user passes to the model; the only place that reads targets' values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_image", "check_images", "check_proposals", "check_targets"]


def check_images(images: Sequence[Tensor] | Tensor) -> None:
    """Raises TypeError or ValueError unless images are floating [3, H, W] tensors."""
    if isinstance(images, Tensor) and images.dim() != 4:
        raise ValueError(f"images must be a list of [3, H, W], got shape {tuple(images.shape)}")
    if len(images) == 0:
        raise ValueError("images is empty")
    for i, image in enumerate(images):
        check_image(image, f"images[{i}]")


def check_image(image: Tensor, name: str) -> None:
    """Raises TypeError or ValueError unless an image is a floating [3, H, W] tensor."""
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(image).__name__}")
    if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(f"{name} must be [3, H, W], got shape {tuple(image.shape)}")
    if not image.is_floating_point():
        raise TypeError(f"{name} must be floating point in 0..1, got {image.dtype}")


def check_proposals(proposals: Sequence[Tensor], images: Sequence[Tensor]) -> None:
    """Raises TypeError or ValueError unless there are boxes [K, 4] for each image."""
    if len(proposals) != len(images):
        raise ValueError(f"proposals has {len(proposals)} entries for {len(images)} images")
    for i, boxes in enumerate(proposals):
        if not isinstance(boxes, Tensor) or not boxes.is_floating_point():
            kind = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
            raise TypeError(f"proposals[{i}] must be a floating point tensor, got {kind}")
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"proposals[{i}] must be [K, 4], got {tuple(boxes.shape)}")


def check_targets(
    targets: Sequence[dict[str, Any]], images: Sequence[Tensor], num_classes: int
) -> None:
    """Raises TypeError or ValueError unless there is a sound target for each image.

    Shapes and types are checked always, values on the CPU alone (elsewhere that would wait for
    the device): who trains on a GPU leaves the targets on the CPU, as `fastrpn.training` does.
    """
    if len(targets) != len(images):
        raise ValueError(f"targets has {len(targets)} entries for {len(images)} images")
    for i, target in enumerate(targets):
        boxes = _entry(target, i, "boxes")
        labels = _entry(target, i, "labels")
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"targets[{i}]['boxes'] must be [G, 4], got {tuple(boxes.shape)}")
        if not boxes.is_floating_point():
            raise TypeError(f"targets[{i}]['boxes'] must be floating point, got {boxes.dtype}")
        if labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"targets[{i}]['labels'] must be [{len(boxes)}], got {tuple(labels.shape)}"
            )
        if labels.dtype != torch.int64:
            raise TypeError(f"targets[{i}]['labels'] must be int64, got {labels.dtype}")
        if "ignore" in target:
            ignore = _entry(target, i, "ignore")
            if ignore.shape != labels.shape:
                raise ValueError(
                    f"targets[{i}]['ignore'] must be [{len(boxes)}], got {tuple(ignore.shape)}"
                )
            if ignore.dtype != torch.bool:
                raise TypeError(f"targets[{i}]['ignore'] must be bool, got {ignore.dtype}")
        if boxes.device.type == "cpu" and labels.device.type == "cpu":
            _check_values(boxes, labels, i, num_classes)


def _entry(target: dict[str, Any], i: int, name: str) -> Tensor:
    if not isinstance(target, dict) or name not in target:
        raise ValueError(f"targets[{i}] must be a dict with {name!r}")
    if not isinstance(target[name], Tensor):
        kind = type(target[name]).__name__
        raise TypeError(f"targets[{i}][{name!r}] must be a tensor, got {kind}")
    return target[name]


def _check_values(boxes: Tensor, labels: Tensor, i: int, num_classes: int) -> None:
    bad = ~((boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"targets[{i}]['boxes'][{row}] must be finite with positive width and height, "
            f"got {boxes[row].tolist()}"
        )
    bad = (labels < 1) | (labels >= num_classes)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"targets[{i}]['labels'][{row}] must lie in 1..{num_classes - 1}, got {labels[row]}"
        )
