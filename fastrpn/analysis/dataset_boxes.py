"""The ground truth of a data set as the RPN meets it: in pixels of the resized images."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrpn.models.config import ModelConfig
from fastrpn.models.transform import ImageTransform

__all__ = ["GroundTruthBoxes", "dataset_boxes"]


class GroundTruthBoxes(NamedTuple):
    """All objects of a data set."""

    boxes: Tensor  # float32 [G, 4] xyxy, pixels of the resized image
    image_sizes: Tensor  # float32 [G, 2], (height, width) of the resized image of each box


def dataset_boxes(dataset: Sized, config: ModelConfig | None = None) -> GroundTruthBoxes:
    """Collects the boxes of a data set that count; those to ignore are left out.

    Args:
        dataset: gives (image [3, H, W], target) by index. The project's own readers are asked for
            sizes and targets only, so that no image is decoded.
        config: resizes as the model does; None keeps the images' own pixels.

    Raises:
        ValueError: the data set has no box.
    """
    transform = ImageTransform(config) if config else None
    boxes, sizes = [], []
    for index in range(len(dataset)):
        (height, width), target = _size_and_target(dataset, index)
        kept = target["boxes"].float().reshape(-1, 4)
        if "ignore" in target:
            kept = kept[~target["ignore"].bool()]
        size = torch.tensor([height, width], dtype=torch.float32)
        if transform:
            resized = torch.tensor(transform.resized(height, width), dtype=torch.float32)
            kept = kept * (resized / size).flip(0).repeat(2)
            size = resized
        boxes.append(kept)
        sizes.append(size.expand(len(kept), 2))
    if sum(map(len, boxes)) == 0:
        raise ValueError(f"dataset has no box that counts in its {len(dataset)} images")
    return GroundTruthBoxes(torch.cat(boxes), torch.cat(sizes))


def _size_and_target(dataset: Any, index: int) -> tuple[tuple[int, int], dict[str, Tensor]]:
    if hasattr(dataset, "samples") and hasattr(dataset, "target"):
        return dataset.samples[index].size, dataset.target(index)
    image, target = dataset[index]
    return tuple(image.shape[-2:]), target
