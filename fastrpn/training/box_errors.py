"""How widely the box targets of each class are spread, as py-faster-rcnn's alternating training
takes it from the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrpn.data import WithProposals
from fastrpn.ops import box_iou, encode_boxes

__all__ = ["box_target_std"]


def box_target_std(
    dataset: WithProposals, weights: Sequence[float], positive_iou: float = 0.5
) -> Tensor:
    """Standard deviations of the targets of all proposals that meet an object, by class.

    Args:
        dataset: targets with "boxes", "labels", "ignore" and "proposals"; no image is read.
        weights: of :func:`fastrpn.ops.encode_boxes`.
        positive_iou: a proposal is trained towards its best object from this IoU on; objects are
            proposals, too.

    Returns:
        float32 [C, 4], for (tx, ty, tw, th); 1 where a class has fewer than two targets or they
        do not differ.
    """
    count = torch.zeros(len(dataset.classes), 1, dtype=torch.float64)
    total, squares = (torch.zeros(len(count), 4, dtype=torch.float64) for _ in range(2))
    for index in range(len(dataset)):
        target = dataset.target(index)
        objects = target["boxes"][~target["ignore"]]
        labels = target["labels"][~target["ignore"]]
        if len(objects) == 0:
            continue
        boxes = torch.cat([target["proposals"], objects])
        iou, best = box_iou(boxes, objects).max(dim=1)
        met = iou >= positive_iou
        deltas = encode_boxes(objects[best[met]], boxes[met], tuple(weights)).double()
        label = labels[best[met]]
        count.index_add_(0, label, torch.ones(len(label), 1, dtype=torch.float64))
        total.index_add_(0, label, deltas)
        squares.index_add_(0, label, deltas.square())
    count = count.clamp(min=1)
    variance = squares / count - (total / count).square()
    return torch.where(variance > 1e-12, variance.clamp(min=0).sqrt(), 1.0).float()
