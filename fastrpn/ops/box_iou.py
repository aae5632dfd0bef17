"""IoU of every pair of boxes."""

import torch
from torch import Tensor

from fastrpn.ops._checks import FLOAT_DTYPES
from fastrpn.ops.boxes import box_convert
from fastrpn.ops.iou_variants import check_box_sets, inter_union


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair of boxes; as `torchvision.ops.box_iou`.

    Two sets of float boxes run through the kernel. Where a gradient is required, for integers and
    for more dimensions, the same formula runs as torch operations.

    Args:
        boxes1: [..., N, 4] boxes in pixels.
        boxes2: [..., M, 4] boxes of the same dtype and device.
        fmt: "xyxy", "xywh" or "cxcywh".

    Returns:
        [..., N, M] IoU in the boxes' dtype; float32 for half types, which are computed in float32,
        and for integers. A pair whose union is empty (0 / 0) gives NaN.

    Raises:
        TypeError: not a tensor, not numbers, or two dtypes.
        ValueError: wrong shape, two devices, or an unknown format.
    """
    check_box_sets(boxes1, boxes2)
    if fmt != "xyxy":
        boxes1, boxes2 = box_convert(boxes1, fmt, "xyxy"), box_convert(boxes2, fmt, "xyxy")
    wants_gradient = torch.is_grad_enabled() and (boxes1.requires_grad or boxes2.requires_grad)
    if wants_gradient or boxes1.dtype not in FLOAT_DTYPES or boxes1.dim() != 2 or boxes2.dim() != 2:
        inter, union = inter_union(boxes1, boxes2)
        return inter / union
    return torch.ops.fastrpn.box_iou(boxes1, boxes2)


@torch.library.register_fake("fastrpn::box_iou")
def _(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    dtype = torch.promote_types(boxes1.dtype, torch.float32)
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0], dtype=dtype)
