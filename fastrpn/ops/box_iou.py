"""IoU of every pair of boxes."""

import torch
from torch import Tensor

from fastrpn.ops._checks import FLOAT_DTYPES, check_same_dtype
from fastrpn.ops.boxes import box_convert
from fastrpn.ops.iou_variants import check_box_sets, pairwise_iou

# The overload itself: finding it through torch.ops at each call would cost half a microsecond.
_box_iou = torch.ops.fastrpn.box_iou.default


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair of boxes; as `torchvision.ops.box_iou`.

    Two sets of float boxes run through the kernel. Where a gradient is required, for integers, two
    dtypes and more dimensions, the same formula runs as torch operations.

    Args:
        boxes1: [..., N, 4] boxes in pixels.
        boxes2: [..., M, 4] boxes on the same device.
        fmt: "xyxy", "xywh" or "cxcywh".

    Returns:
        [..., N, M] IoU in the boxes' dtype, for two dtypes the one that torch promotes them to;
        float32 for half types, which are computed in float32, and for integers. A pair whose union
        is empty (0 / 0) gives NaN.

    Raises:
        TypeError: not a tensor, or not numbers.
        ValueError: wrong shape, two devices, or an unknown format.
    """
    if fmt == "xyxy" and _kernel_takes(boxes1, boxes2) and _kernel_takes(boxes2, boxes1):
        try:
            return _box_iou(boxes1, boxes2)
        except Exception:  # the operator refuses bad input itself; only then find the words for it
            check_box_sets(boxes1, boxes2)
            raise
    check_box_sets(boxes1, boxes2)
    if fmt != "xyxy":
        return box_iou(_corners(boxes1, fmt), _corners(boxes2, fmt))
    return pairwise_iou(boxes1, boxes2)


def _corners(boxes: Tensor, fmt: str) -> Tensor:
    """As xyxy; a corner may be more than a small integer type holds."""
    wide = boxes if boxes.is_floating_point() else boxes.long()
    return box_convert(wide, fmt, "xyxy")


def _kernel_takes(boxes: Tensor, others: Tensor) -> bool:
    return (
        isinstance(boxes, Tensor)
        and isinstance(others, Tensor)
        and boxes.dtype in FLOAT_DTYPES
        and boxes.dtype == others.dtype
        and boxes.dim() == 2
        and not (boxes.requires_grad and torch.is_grad_enabled())
    )


@torch.library.register_fake("fastrpn::box_iou")
def _(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    check_box_sets(boxes1, boxes2)
    check_same_dtype("boxes2", boxes2, "boxes1", boxes1)
    dtype = torch.promote_types(boxes1.dtype, torch.float32)
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0], dtype=dtype)
