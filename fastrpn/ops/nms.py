"""Greedy non-maximum suppression: exact, in score order, of one set of boxes or of a batch."""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fastrpn.ops._autocast import register_boxes_and_scores
from fastrpn.ops._checks import (
    check_boxes_and_scores,
    check_float,
    check_integers,
    check_not_nan,
    check_number,
    check_numbers,
    check_same_device,
    check_same_dtype,
    check_shape,
    number_of,
)
from fastrpn.ops._misuse import explain
from fastrpn.ops._modes import leaf, refuse_scripting
from fastrpn.ops._vmap import register_loop

# The overloads themselves: finding one through torch.ops takes half a microsecond at each call.
# They refuse bad input; only then do the checks of this file run, to find the words for it.
_nms = torch.ops.fastrpn.nms.default
_batched_nms = torch.ops.fastrpn.batched_nms.default
_nms_padded = torch.ops.fastrpn.nms_padded.default


@refuse_scripting
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keeps the boxes that no better kept box overlaps too much; as `torchvision.ops.nms`.

    In order of descending score (ties by index, NaN first) a box is kept unless its IoU with a box
    kept before is greater than the threshold. The indices are those of torchvision's CPU kernel,
    whatever the device. A NaN IoU suppresses nothing. Half types compute in float32.

    Args:
        boxes: `[N, 4]` xyxy in pixels, float16 to float64.
        scores: `[N]`, dtype and device of `boxes`.
        iou_threshold: suppress above it.

    Returns:
        `[K]` int64 indices of the kept boxes, by descending score.

    Raises:
        TypeError: not a tensor, not floats, two dtypes, or a threshold that is no number.
        ValueError: wrong shape, two devices, or a NaN threshold.
    """
    try:
        return _nms(boxes, scores, number_of(iou_threshold))
    except Exception as error:
        explain(error, nms, boxes, scores, iou_threshold)
        _check(boxes, scores, iou_threshold)
        raise


@refuse_scripting
def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """NMS of each class for itself; as `torchvision.ops.batched_nms`.

    The classes never see each other, whatever their coordinates: torchvision moves them apart by an
    offset, which rounds the boxes and fails for negative coordinates.

    Args:
        boxes: `[N, 4]` xyxy in pixels, float16 to float64.
        scores: `[N]`, dtype and device of `boxes`.
        idxs: `[N]` the class (or level, image, ...) of each box: numbers of any value, or bools.
        iou_threshold: suppress above it.

    Returns:
        `[K]` int64 indices of the kept boxes of all classes, by descending score, ties by index.

    Raises:
        TypeError: not a tensor, not floats, two dtypes, or classes neither numbers nor bools.
        ValueError: wrong shape, two devices, or a NaN threshold.
    """
    if has_torch_function_variadic(boxes, scores, idxs):
        tensors = (boxes, scores, idxs)
        return handle_torch_function(batched_nms, tensors, *tensors, iou_threshold)
    if not (isinstance(idxs, Tensor) and idxs.dtype == torch.int64):
        idxs = _as_labels(idxs)
    try:
        return _batched_nms(boxes, scores, idxs, number_of(iou_threshold))
    except Exception as error:
        explain(error, batched_nms, boxes, scores, idxs, iou_threshold)
        _check(boxes, scores, iou_threshold)
        check_shape("idxs", idxs, tuple(scores.shape))
        check_same_device("idxs", idxs, "boxes", boxes)
        raise


@leaf
def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    *,
    counts: Tensor | None = None,
    groups: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """NMS of a batch with a result of fixed shape, without synchronising with the device.

    Each image is one :func:`batched_nms`, cut off after its `max_output` best boxes. The search
    ends there, so that a small `max_output` costs little.

    Args:
        boxes: `[B, N, 4]` xyxy in pixels, float16 to float64.
        scores: `[B, N]`, dtype and device of `boxes`.
        iou_threshold: suppress above it.
        max_output: how many boxes of an image to keep at most.
        counts: `[B]` integers; rows `>= counts[b]` of an image are padding and take no part.
        groups: `[B, N]` integers; boxes of different groups do not suppress each other.
        score_threshold: boxes without `score > score_threshold` (NaN too) take no part; as in
            torch, the comparison is one in the dtype of `scores`.

    Returns:
        indices: `[B, max_output]` int64, by descending score within an image; -1 past `counts`.
        counts: `[B]` int64, how many boxes were kept.

    Raises:
        TypeError: not a tensor, wrong dtype, two float dtypes, or no number.
        ValueError: wrong shape, two devices, a negative `max_output`, or a NaN threshold.
    """
    if counts is not None:
        counts = _as_int64("counts", counts)
    if groups is not None:
        groups = _as_int64("groups", groups)
    iou_threshold, score_threshold = number_of(iou_threshold), number_of(score_threshold)
    try:
        return _nms_padded(
            boxes, scores, iou_threshold, max_output, counts, groups, score_threshold
        )
    except Exception as error:
        options = {"counts": counts, "groups": groups, "score_threshold": score_threshold}
        explain(error, nms_padded, boxes, scores, iou_threshold, max_output, **options)
        check_number("iou_threshold", iou_threshold)
        check_number("max_output", max_output)
        if score_threshold is not None:
            check_number("score_threshold", score_threshold)
        _check_padded(boxes, scores, max_output, counts, groups)
        raise


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float) -> None:
    check_number("iou_threshold", iou_threshold)
    check_boxes_and_scores(boxes, scores)


def _check_padded(
    boxes: Tensor, scores: Tensor, max_output: int, counts: Tensor | None, groups: Tensor | None
) -> None:
    check_float("boxes", boxes)
    check_float("scores", scores)
    check_shape("boxes", boxes, ("B", "N", 4))
    check_shape("scores", scores, tuple(boxes.shape[:2]))
    check_same_dtype("scores", scores, "boxes", boxes)
    check_same_device("scores", scores, "boxes", boxes)
    if max_output < 0:
        raise ValueError(f"max_output: expected a number >= 0, got {max_output}")
    for name, value, shape in (
        ("counts", counts, tuple(boxes.shape[:1])),
        ("groups", groups, tuple(boxes.shape[:2])),
    ):
        if value is not None:
            check_shape(name, value, shape)
            check_same_device(name, value, "boxes", boxes)


@leaf
def _as_labels(idxs: Tensor) -> Tensor:
    """int64 labels, equal where the classes are; bools are classes, too."""
    if not (isinstance(idxs, Tensor) and idxs.dtype == torch.bool):
        check_numbers("idxs", idxs)
    return idxs.unique(return_inverse=True)[1] if idxs.is_floating_point() else idxs.long()


def _as_int64(name: str, value: Tensor) -> Tensor:
    check_integers(name, value)
    return value.long()


def _unknown_length(boxes: Tensor) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@torch.library.register_fake("fastrpn::nms")
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    _check(boxes, scores, iou_threshold)
    return _unknown_length(boxes)


@torch.library.register_fake("fastrpn::batched_nms")
def _(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    _check(boxes, scores, iou_threshold)
    check_shape("idxs", idxs, tuple(scores.shape))
    check_same_device("idxs", idxs, "boxes", boxes)
    return _unknown_length(boxes)


@torch.library.register_fake("fastrpn::nms_padded")
def _(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    counts: Tensor | None,
    groups: Tensor | None,
    score_threshold: float | None,
) -> tuple[Tensor, Tensor]:
    check_not_nan("iou_threshold", iou_threshold)
    check_not_nan("score_threshold", score_threshold)
    _check_padded(boxes, scores, max_output, counts, groups)
    batch = boxes.shape[0]
    return (
        boxes.new_empty((batch, max_output), dtype=torch.int64),
        boxes.new_empty((batch,), dtype=torch.int64),
    )


for _name in ("nms", "batched_nms", "nms_padded"):
    register_boxes_and_scores(_name)
    register_loop(_name, instead="use nms_padded")
