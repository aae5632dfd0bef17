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
    number_of,
)
from fastrpn.ops._derivatives import call, register_no_derivative
from fastrpn.ops._modes import leaf
from fastrpn.ops._vmap import register_loop

_match_anchors = torch.ops.fastrpn.match_anchors.default


@leaf
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
    of all IoUs. The arguments are detached: no derivative passes, in reverse or forward mode.

    Args:
        anchors: `[A, 4]` shared by the images, or `[B, A, 4]`; xyxy in pixels, float16 to
            float64.
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
    high, low = number_of(high), number_of(low)
    _check(anchors, gt_boxes, gt_counts, high, low, valid)
    return call(
        _match_anchors,
        anchors.detach(),
        gt_boxes.detach(),
        gt_counts.long(),
        high,
        low,
        allow_low_quality,
        valid,
    )


@torch.library.register_fake("fastrpn::match_anchors")
def _(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_counts: Tensor,
    high: float,
    low: float,
    allow_low_quality: bool,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    shape = (gt_boxes.shape[0], anchors.shape[-2])
    max_iou_dtype = torch.promote_types(anchors.dtype, torch.float32)
    return (
        anchors.new_empty(shape, dtype=torch.int64),
        anchors.new_empty(shape, dtype=max_iou_dtype),
    )


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


register_no_derivative("match_anchors")
register_loop("match_anchors")
