"""IoU with a penalty for boxes apart: GIoU, DIoU and CIoU of every pair, as in torchvision.

Plain torch: these are losses and want a gradient. Shapes: `boxes1` `[..., N, 4]`, `boxes2`
`[..., M, 4]` xyxy, result `[..., N, M]`. Two dtypes are promoted as torch does; half precision is
computed and returned in float32. Integers are computed in float64, where no area wraps around (in
torchvision it does), and returned in float32.

Gradients are finite wherever the value is, but for boxes so small that the square of their area
underflows (sides below 1e-9 pixels in float32).
"""

import math

import torch
from torch import Tensor

from fastrpn.ops._checks import check_number
from fastrpn.ops._modes import leaf
from fastrpn.ops._pairs import check_box_sets, inter_union, pairwise_iou, result_dtype
from fastrpn.ops.boxes import upcast


@leaf
def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019): IoU less the empty share of the smallest box around both.

    Args:
        boxes1: `[..., N, 4]` xyxy in pixels, floats or integers.
        boxes2: `[..., M, 4]`, on the same device.

    Returns:
        `[..., N, M]` from -1 to 1; the dtype is promoted, float32 for half types and integers.
        NaN if the union or the hull is empty.

    Raises:
        TypeError: not tensors of numbers.
        ValueError: wrong shape, or two devices.
    """
    check_box_sets(boxes1, boxes2)
    inter, union = inter_union(boxes1, boxes2)
    hull_w, hull_h = _hull_sides(boxes1, boxes2)
    hull = hull_w * hull_h
    dtype = result_dtype(boxes1, boxes2)
    return (inter / union).to(dtype) - ((hull - union) / hull).to(dtype)


@leaf
def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """DIoU (Zheng et al. 2020): IoU less the squared distance of the centres over the hull's
    diagonal.

    Args:
        boxes1: `[..., N, 4]` xyxy in pixels, floats or integers.
        boxes2: `[..., M, 4]`, on the same device.
        eps: added to the squared diagonal, against division by 0.

    Returns:
        `[..., N, M]` from -1 to 1; the dtype is promoted, float32 for half types and integers.
        NaN if the union is empty.

    Raises:
        TypeError: not tensors of numbers.
        ValueError: wrong shape, or two devices.
    """
    check_box_sets(boxes1, boxes2)
    check_number("eps", eps)
    return _distance_iou(boxes1, boxes2, eps)[0]


@leaf
def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """CIoU (Zheng et al. 2020): DIoU less a penalty for different aspect ratios.

    As in torchvision the penalty's weight is a constant for the gradient; here also in forward
    mode, so that both modes agree.

    Args:
        boxes1: `[..., N, 4]` xyxy in pixels, floats or integers.
        boxes2: `[..., M, 4]`, on the same device.
        eps: added to the squared diagonal and to the denominator of the weight, against division
            by 0.

    Returns:
        `[..., N, M]` at most 1; the dtype is promoted, float32 for half types and integers. NaN if
        the union is empty or a box is a point.

    Raises:
        TypeError: not tensors of numbers.
        ValueError: wrong shape, or two devices.
    """
    check_box_sets(boxes1, boxes2)
    check_number("eps", eps)
    distance_iou, iou = _distance_iou(boxes1, boxes2, eps)
    angle1, angle2 = (_angle(boxes, distance_iou.dtype) for boxes in (boxes1, boxes2))
    v = (4 / math.pi**2) * torch.pow(angle1[..., None] - angle2[..., None, :], 2)
    # Detached from forward mode, too, which `no_grad` leaves alone.
    alpha = (v / (1 - iou + v + eps)).detach()
    return distance_iou - alpha * v


def _angle(boxes: Tensor, dtype: torch.dtype) -> Tensor:
    """atan(width / height), and its derivative also where a height is 0 or tiny.

    There torch multiplies the derivative of atan at infinity, 0, with that of the quotient,
    infinity. So the value is torchvision's, but the derivative is taken from atan of the smaller
    side over the larger, which differs by a sign and a constant.
    """
    boxes = upcast(boxes)
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    value = torch.atan((width / height).detach().to(dtype))
    flat = width.abs() > height.abs()
    ratio = torch.where(flat, -height, width) / torch.where(flat, width, height)
    moving = torch.atan(ratio.to(dtype))
    return value + (moving - moving.detach())


def _distance_iou(boxes1: Tensor, boxes2: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    iou = pairwise_iou(boxes1, boxes2)
    hull_w, hull_h = _hull_sides(boxes1, boxes2)
    boxes1, boxes2 = upcast(boxes1), upcast(boxes2)
    diagonal = hull_w**2 + hull_h**2 + eps
    x1, y1 = (boxes1[..., 0] + boxes1[..., 2]) / 2, (boxes1[..., 1] + boxes1[..., 3]) / 2
    x2, y2 = (boxes2[..., 0] + boxes2[..., 2]) / 2, (boxes2[..., 1] + boxes2[..., 3]) / 2
    distance = (x1[..., None] - x2[..., None, :]) ** 2 + (y1[..., None] - y2[..., None, :]) ** 2
    return iou - (distance / diagonal).to(iou.dtype), iou


def _hull_sides(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    boxes1, boxes2 = upcast(boxes1), upcast(boxes2)
    top_left = torch.min(boxes1[..., None, :2], boxes2[..., None, :, :2])
    bottom_right = torch.max(boxes1[..., None, 2:], boxes2[..., None, :, 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width, height
