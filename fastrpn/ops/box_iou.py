"""IoU of every pair of boxes."""

from torch import Tensor

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
    inter, union = inter_union(boxes1, boxes2)
    return inter / union
