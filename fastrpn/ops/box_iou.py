"""IoU of every pair of boxes."""

import torch
from torch import Tensor

from fastrpn.ops._checks import check_boxes, check_same_device, check_same_dtype


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes; as `torchvision.ops.box_iou`.

    Args:
        boxes1: [N, 4] boxes, xyxy in pixels; float16, bfloat16, float32 or float64. Half types are
            computed in float32.
        boxes2: [M, 4] boxes of the same dtype and device.

    Returns:
        [N, M] IoU in the boxes' dtype. A pair whose union is empty (0 / 0) gives NaN.

    Raises:
        TypeError: not a tensor, not a float tensor, or two dtypes.
        ValueError: wrong shape, or two devices.
    """
    check_boxes("boxes1", boxes1)
    check_boxes("boxes2", boxes2)
    check_same_dtype("boxes2", boxes2, "boxes1", boxes1)
    check_same_device("boxes2", boxes2, "boxes1", boxes1)
    return torch.ops.fastrpn.box_iou(boxes1, boxes2)


@torch.library.register_fake("fastrpn::box_iou")
def _(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0])
