"""The IoU of every pair of two sets of boxes, as torch operations.

Two dtypes are promoted as torch does; half types are computed in float32, integers in float64.
"""

import torch
from torch import Tensor

from fastrpn.ops._checks import check_numbers, check_same_device, check_shape
from fastrpn.ops.boxes import box_area, upcast


def check_box_sets(boxes1: Tensor, boxes2: Tensor) -> None:
    """TypeError or ValueError unless [..., N, 4] and [..., M, 4] numbers on one device."""
    check_numbers("boxes1", boxes1)
    check_numbers("boxes2", boxes2)
    check_shape("boxes1", boxes1, (..., "N", 4))
    check_shape("boxes2", boxes2, (..., "M", 4))
    check_same_device("boxes2", boxes2, "boxes1", boxes1)


def inter_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of the intersection and of the union of every pair, each `[..., N, M]`; float64 if
    either set is of integers."""
    boxes1, boxes2 = upcast(boxes1), upcast(boxes2)
    top_left = torch.max(boxes1[..., None, :2], boxes2[..., None, :, :2])
    bottom_right = torch.min(boxes1[..., None, 2:], boxes2[..., None, :, 2:])
    inter = (bottom_right - top_left).clamp(min=0).prod(-1)
    union = box_area(boxes1)[..., None] + box_area(boxes2)[..., None, :] - inter
    return inter, union


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of every pair, `[..., N, M]`, of :func:`result_dtype`."""
    inter, union = inter_union(boxes1, boxes2)
    return (inter / union).to(result_dtype(boxes1, boxes2))


def result_dtype(boxes1: Tensor, boxes2: Tensor) -> torch.dtype:
    """What torch promotes the dtypes to, at least float32; its default float for integers alone."""
    floats = [upcast(boxes).dtype for boxes in (boxes1, boxes2) if boxes.is_floating_point()]
    if not floats:
        return torch.get_default_dtype()
    return torch.promote_types(floats[0], floats[-1])
