"""Elementary box functions, with torchvision's signatures and results.

Boxes are `(x1, y1, x2, y2)` in pixels unless a format says otherwise; width is `x2 - x1`, without a
"+ 1". Everything here is plain torch: differentiable, any device, any number of leading dimensions.

Integers of every type are computed in 64 bits, where torchvision wraps around (differences of
unsigned types, areas of large boxes) or refuses (uint16 to uint64). A result that its type cannot
hold is the nearest number that it can. A uint64 is taken for an int64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fastrpn.ops._checks import check_not_nan, check_number, check_numbers, check_shape
from fastrpn.ops._modes import leaf

_FORMATS = ("xyxy", "xywh", "cxcywh")
_HALF_DTYPES = (torch.float16, torch.bfloat16)
_SMALL_INTEGERS = (torch.int8, torch.uint8, torch.int16)


def upcast(tensor: Tensor) -> Tensor:
    """Half types to float32, where products do not overflow, and integers to float64."""
    if tensor.is_floating_point():
        return tensor.float() if tensor.dtype in _HALF_DTYPES else tensor
    return tensor.double()


@leaf
def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Area of each box.

    Args:
        boxes: `[..., 4]` floats or integers, in pixels.
        fmt: `"xyxy"`, `"xywh"` or `"cxcywh"`.

    Returns:
        `[...]` square pixels; half precision gives float32, int8, uint8 and int16 give int32, other
        integers int64 (where torchvision returns the low 32 bits). Negative if one side is.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: unknown `fmt` or last dimension not 4.
    """
    _check(boxes, fmt=fmt)
    area = _area_of_corners if fmt == "xyxy" else _area_of_sizes
    if boxes.is_floating_point():
        return area(upcast(boxes))
    return _saturate(area, boxes, torch.int32 if boxes.dtype in _SMALL_INTEGERS else torch.int64)


def _area_of_corners(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _area_of_sizes(boxes: Tensor) -> Tensor:
    return boxes[..., 2] * boxes[..., 3]


def _saturate(formula: Callable[[Tensor], Tensor], boxes: Tensor, dtype: torch.dtype) -> Tensor:
    """The formula of integers, exact where `dtype` holds the result, else its nearest number."""
    exact, approximate = formula(boxes.long()), formula(boxes.double())
    wide, narrow = torch.iinfo(torch.int64), torch.iinfo(dtype)
    exact = torch.where(approximate >= wide.max, wide.max, exact)
    exact = torch.where(approximate <= wide.min, wide.min, exact)
    return exact.clamp(narrow.min, min(narrow.max, wide.max)).to(dtype)


@leaf
def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Converts between `"xyxy"` (corners), `"xywh"` (corner and size) and `"cxcywh"` (centre and
    size).

    Args:
        boxes: `[..., 4]` floats or integers, in pixels and `in_fmt`.
        in_fmt, out_fmt: one of the three.

    Returns:
        `[..., 4]` in `out_fmt` and the dtype of `boxes`, but for integers and a centre, which is
        a float32; a copy if the formats are the same. Where a result fits into a half type, it is
        right, although corners or their sum, of which it is made, may not fit (torchvision returns
        infinity).

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: unknown format (rotated boxes are not supported) or last dimension not 4.
    """
    _check(boxes, in_fmt=in_fmt, out_fmt=out_fmt)
    if in_fmt == out_fmt:
        return boxes.clone()
    if boxes.is_floating_point():
        converted = _convert(boxes, in_fmt, out_fmt)
        if boxes.dtype not in _HALF_DTYPES:
            return converted
        # Half the coordinates, exact but for the tiniest numbers, and so no sum is too large.
        halved = 2 * _convert(boxes / 2, in_fmt, out_fmt)
        return torch.where(converted.isfinite(), converted, halved)
    if "cxcywh" not in (in_fmt, out_fmt):
        return _saturate(lambda wide: _convert(wide, in_fmt, out_fmt), boxes, boxes.dtype)
    if in_fmt == "cxcywh":
        return _convert(boxes.double(), in_fmt, out_fmt).float()
    corner, size = box_convert(boxes.long(), in_fmt, "xywh").double().split(2, dim=-1)
    return torch.cat((corner + size / 2, size), dim=-1).float()


def _convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    first, second = boxes[..., :2], boxes[..., 2:]
    if in_fmt == "xyxy":
        low, high = first, second
    elif in_fmt == "xywh":
        low, high = first, first + second
    else:
        low, high = first - 0.5 * second, first + 0.5 * second
    if out_fmt == "xyxy":
        return torch.cat((low, high), dim=-1)
    if out_fmt == "xywh":
        return torch.cat((low, high - low), dim=-1)
    return torch.cat(((low + high) / 2, high - low), dim=-1)


@leaf
def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Moves every corner into the image.

    Args:
        boxes: `[..., 4]` xyxy in pixels, floats or integers.
        size: `(height, width)` of the image in pixels.

    Returns:
        `[..., 4]` of the dtype of `boxes`, with `0 <= x <= width` and `0 <= y <= height`. NaN
        stays NaN. The image may be larger than the integer type can say; integers and a `size` that
        is none give floats.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: last dimension not 4, `size` not a pair, or NaN in it.
    """
    _check(boxes)
    if len(size) != 2:
        raise ValueError(f"size: expected (height, width), got {size}")
    height, width = size
    check_number("size", height)
    check_number("size", width)
    if not boxes.is_floating_point() and boxes.dtype != torch.int64:
        clipped = clip_boxes_to_image(boxes.long(), size)
        return clipped if clipped.is_floating_point() else clipped.to(boxes.dtype)
    x = boxes[..., 0::2].clamp(min=0, max=width)
    y = boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack((x, y), dim=boxes.dim()).reshape(boxes.shape)


@leaf
def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Finds the boxes whose two sides are both at least `min_size` pixels.

    Args:
        boxes: `[N, 4]` xyxy in pixels, floats or integers.
        min_size: in pixels; compared as torch compares a number with floats, in their type.

    Returns:
        `[K]` int64 indices of the boxes to keep, ascending. A box with a NaN side is not kept.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: last dimension not 4, or `min_size` NaN.
    """
    _check(boxes)
    check_not_nan("min_size", min_size)
    if not boxes.is_floating_point():
        boxes = boxes.double()  # no difference wraps around
    widths, heights = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.where((widths >= min_size) & (heights >= min_size))[0]


def _check(boxes: Tensor, **formats: str) -> None:
    check_numbers("boxes", boxes)
    check_shape("boxes", boxes, (..., 4))
    for name, fmt in formats.items():
        check_format(name, fmt)


def check_format(name: str, fmt: object) -> None:
    """ValueError unless `fmt` is one of the three."""
    if fmt not in _FORMATS:
        raise ValueError(f"{name}: expected one of {_FORMATS}, got {fmt!r}")
