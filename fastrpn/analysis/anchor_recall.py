"""How well anchors on their grid meet the objects of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["best_anchor_iou", "greedy_order", "recall"]


def best_anchor_iou(
    boxes: Tensor,
    image_sizes: Tensor,
    cells: Tensor,
    strides: Sequence[float],
    *,
    inside_image: bool = False,
) -> Tensor:
    """For each box and each anchor, the best IoU among all positions of the anchor's grid.

    The grid has every position whose cell begins in the image: ceil(height / stride) rows and
    ceil(width / stride) columns. Nothing is searched: the overlap of two boxes is the product of
    their overlaps along x and y, and along an axis it falls with the distance of the centres. So
    the best position is the one nearest to the box, row and column each by itself.

    Args:
        boxes: [G, 4] xyxy, pixels of the resized image.
        image_sizes: [G, 2] (height, width) of the resized image of each box.
        cells: [L, n, 4] xyxy, the anchors of each level at row 0, column 0.
        strides: of the L levels.
        inside_image: count only the positions where the anchor lies inside the image, as the paper
            does in training; an anchor that fits nowhere has IoU 0.

    Returns:
        float64 [G, L * n], in the order of ``cells``.

    Raises:
        ValueError: shapes that do not fit.
    """
    if cells.dim() != 3 or cells.shape[2] != 4 or len(cells) != len(strides):
        raise ValueError(f"cells is {list(cells.shape)}, expected [{len(strides)}, n, 4]")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or image_sizes.shape != (len(boxes), 2):
        raise ValueError(
            f"boxes and image_sizes are {list(boxes.shape)} and {list(image_sizes.shape)}, "
            "expected [G, 4] and [G, 2]"
        )
    stride = torch.tensor(strides, dtype=torch.float64).repeat_interleave(cells.shape[1])
    anchors = cells.flatten(0, 1).double()  # [A, 4]
    overlap, fits = [], []
    for axis in (0, 1):  # x, y
        start, stop = boxes[:, [axis, axis + 2]].double().unbind(1)
        low, high = anchors[:, axis], anchors[:, axis + 2]
        length = image_sizes[:, 1 - axis, None].double()
        first = torch.zeros(len(boxes), len(anchors), dtype=torch.float64)
        last = torch.ceil(length / stride) - 1
        if inside_image:
            first = torch.maximum(first, torch.ceil(-low / stride))
            last = torch.minimum(last, torch.floor((length - high) / stride))
        centre = ((start + stop)[:, None] - (low + high)) / 2
        shift = torch.minimum(torch.maximum(torch.round(centre / stride), first), last) * stride
        ends = torch.minimum(stop[:, None], high + shift)
        overlap.append((ends - torch.maximum(start[:, None], low + shift)).clamp(min=0))
        fits.append(first <= last)
    inter = overlap[0] * overlap[1]
    union = _area(boxes.double())[:, None] + _area(anchors) - inter
    return torch.where(fits[0] & fits[1], inter / union, 0.0)


def recall(iou: Tensor, threshold: float) -> float:
    """The share of boxes that an anchor meets: best IoU of [G, A] at least ``threshold``."""
    return float((iou.amax(dim=1) >= threshold).double().mean())


def greedy_order(iou: Tensor, threshold: float) -> list[int]:
    """Anchors such that the first k make a good choice of k for recall at ``threshold``.

    Each next anchor is the one that meets most boxes not met yet; ties go to the higher sum of
    IoUs, which orders what meets none.

    Args:
        iou: [G, A], as :func:`best_anchor_iou` returns it.
    """
    hit = iou >= threshold
    met = torch.zeros(len(iou), dtype=torch.bool)
    order, left = [], list(range(iou.shape[1]))
    while left:
        best = max(left, key=lambda a: (int((hit[:, a] & ~met).sum()), float(iou[:, a].sum())))
        met |= hit[:, best]
        order.append(best)
        left.remove(best)
    return order


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
