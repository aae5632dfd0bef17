"""Anchor assignment (Ren et al., section 3.1.2): which ground truth, if any, each anchor is to
predict."""

import torch
from torch import Tensor

from fastrpn.ops._checks import (
    check_bool,
    check_float,
    check_integers,
    check_same_device,
    check_same_dtype,
    check_shape,
)
from fastrpn.ops.iou_variants import inter_union


def match_anchors(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_counts: Tensor,
    *,
    high: float,
    low: float,
    allow_low_quality: bool = True,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Labels every anchor with its ground truth, background or "ignore".

    An anchor whose best IoU is at least `high` gets the ground truth of that IoU (the lowest index
    of a tie); below `low` it is background; between the two it is ignored. With `allow_low_quality`
    every anchor that attains some ground truth's best IoU (ties included) also gets its own best
    ground truth, whatever the IoU. A ground truth whose best IoU is 0 claims nothing, and a NaN IoU
    counts as 0; otherwise this is torchvision's `Matcher`, for a whole batch and without the matrix
    of all IoUs.

    Args:
        anchors: `[A, 4]` shared by the images, or `[B, A, 4]`; xyxy.
        gt_boxes: `[B, G, 4]` xyxy, padded to the batch's largest count; dtype of `anchors`.
        gt_counts: `[B]` integers; the rows `>= gt_counts[b]` of an image are padding.
        high, low: IoU thresholds, `0 <= low <= high` and `high > 0`.
        valid: `[A]` or `[B, A]` bool. The other anchors (cross-boundary ones, padding) join no
            maximum.

    Returns:
        matched_gt: `[B, A]` int64: a row of `gt_boxes[b]`, -1 for background, -2 for ignore and for
            anchors that are not valid.
        max_iou: `[B, A]` each anchor's best IoU, 0 where it is not valid; float32 for half types.

    Raises:
        TypeError, ValueError: a dtype, shape, device or threshold that does not fit; the message
            names it.
    """
    _check(anchors, gt_boxes, gt_counts, high, low, valid)
    batch, num_gt = gt_boxes.shape[:2]
    num_anchors = anchors.shape[-2]
    if num_gt == 0:
        gt_boxes = gt_boxes.new_zeros(batch, 1, 4)

    inter, union = inter_union(gt_boxes, anchors if anchors.dim() == 3 else anchors[None])
    iou = torch.nan_to_num(inter / union, nan=0.0)
    is_gt = torch.arange(gt_boxes.shape[1], device=gt_boxes.device) < gt_counts[:, None]
    takes_part = torch.ones((1, num_anchors), dtype=torch.bool, device=anchors.device)
    if valid is not None:
        takes_part = valid if valid.dim() == 2 else valid[None]
    iou = torch.where(is_gt[:, :, None] & takes_part[:, None, :], iou, 0.0)

    max_iou, best_gt = iou.max(dim=1)
    matched_gt = torch.where(max_iou >= high, best_gt, torch.where(max_iou < low, -1, -2))
    if allow_low_quality and num_anchors > 0:
        best_of_gt = iou.amax(dim=2, keepdim=True)
        claimed = ((iou == best_of_gt) & (best_of_gt > 0)).any(dim=1)
        matched_gt = torch.where(claimed, best_gt, matched_gt)
    return torch.where(takes_part, matched_gt, -2), max_iou


def _check(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_counts: Tensor,
    high: float,
    low: float,
    valid: Tensor | None,
) -> None:
    check_float("anchors", anchors)
    check_float("gt_boxes", gt_boxes)
    check_integers("gt_counts", gt_counts)
    check_shape("gt_boxes", gt_boxes, ("B", "G", 4))
    batch, num_anchors = gt_boxes.shape[0], anchors.shape[-2] if anchors.dim() > 1 else 0
    shared = anchors.dim() == 2
    check_shape("anchors", anchors, ("A", 4) if shared else (batch, "A", 4))
    check_same_dtype("gt_boxes", gt_boxes, "anchors", anchors)
    check_same_device("gt_boxes", gt_boxes, "anchors", anchors)
    check_shape("gt_counts", gt_counts, (batch,))
    check_same_device("gt_counts", gt_counts, "anchors", anchors)
    if valid is not None:
        check_bool("valid", valid)
        check_shape("valid", valid, (num_anchors,) if valid.dim() == 1 else (batch, num_anchors))
        check_same_device("valid", valid, "anchors", anchors)
    if not 0 <= low <= high or high == 0:
        raise ValueError(
            f"low, high: expected 0 <= low <= high and high > 0, got low={low}, high={high}"
        )
