"""Elementary box functions, with torchvision's signatures and results.

Boxes are `(x1, y1, x2, y2)` in pixels unless a format says otherwise; width is `x2 - x1`, without a
"+ 1". Everything here is plain torch: differentiable, any device, any number of leading dimensions.
"""

import torch
from torch import Tensor

from fastrpn.ops._checks import check_numbers, check_shape

_FORMATS = ("xyxy", "xywh", "cxcywh")


def upcast(tensor: Tensor) -> Tensor:
    """Half types to float32 and small integers to int32: products neither overflow nor round."""
    if tensor.is_floating_point():
        return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    return tensor if tensor.dtype in (torch.int32, torch.int64) else tensor.int()


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Area of each box.

    Args:
        boxes: `[..., 4]` floats or integers, in pixels.
        fmt: `"xyxy"`, `"xywh"` or `"cxcywh"`.

    Returns:
        `[...]` square pixels; half precision gives float32, integers of less than 32 bits int32.
        Negative if one side is.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: unknown `fmt` or last dimension not 4.
    """
    _check(boxes, fmt=fmt)
    boxes = upcast(boxes)
    if fmt == "xyxy":
        return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return boxes[..., 2] * boxes[..., 3]


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Converts between `"xyxy"` (corners), `"xywh"` (corner and size) and `"cxcywh"` (centre and
    size).

    Args:
        boxes: `[..., 4]` floats or integers, in pixels and `in_fmt`.
        in_fmt, out_fmt: one of the three.

    Returns:
        `[..., 4]` in `out_fmt` and the dtype of `boxes`, but for integers and a centre, which is
        a float32; a copy if the formats are the same.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: unknown format (rotated boxes are not supported) or last dimension not 4.
    """
    _check(boxes, in_fmt=in_fmt, out_fmt=out_fmt)
    if in_fmt == out_fmt:
        return boxes.clone()
    a, b, c, d = boxes.unbind(-1)
    if in_fmt == "xyxy":
        x1, y1, x2, y2 = a, b, c, d
    elif in_fmt == "xywh":
        x1, y1, x2, y2 = a, b, a + c, b + d
    else:
        x1, y1, x2, y2 = a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d
    if out_fmt == "xyxy":
        return torch.stack((x1, y1, x2, y2), dim=-1)
    if out_fmt == "xywh":
        return torch.stack((x1, y1, x2 - x1, y2 - y1), dim=-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Moves every corner into the image.

    Args:
        boxes: `[..., 4]` xyxy in pixels, floats or integers.
        size: `(height, width)` of the image in pixels.

    Returns:
        `[..., 4]` of the dtype of `boxes`, with `0 <= x <= width` and `0 <= y <= height`. NaN
        stays NaN.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: last dimension not 4, or `size` not a pair.
    """
    _check(boxes)
    if len(size) != 2:
        raise ValueError(f"size: expected (height, width), got {size}")
    height, width = size
    x = boxes[..., 0::2].clamp(min=0, max=width)
    y = boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack((x, y), dim=boxes.dim()).reshape(boxes.shape)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Finds the boxes whose two sides are both at least `min_size` pixels.

    Args:
        boxes: `[N, 4]` xyxy in pixels, floats or integers.
        min_size: in pixels.

    Returns:
        `[K]` int64 indices of the boxes to keep, ascending. A box with a NaN side is not kept.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: last dimension not 4.
    """
    _check(boxes)
    widths, heights = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.where((widths >= min_size) & (heights >= min_size))[0]


def _check(boxes: Tensor, **formats: str) -> None:
    check_numbers("boxes", boxes)
    check_shape("boxes", boxes, (..., 4))
    for name, fmt in formats.items():
        if fmt not in _FORMATS:
            raise ValueError(f"{name}: expected one of {_FORMATS}, got {fmt!r}")
