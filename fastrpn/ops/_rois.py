"""What roi_pool and roi_align share: argument checks, boxes as RoIs, layouts."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import _C, Tensor
from torch._subclasses import FakeTensor

from fastrpn.ops._autocast import AUTOCAST_KEYS, widened
from fastrpn.ops._checks import (
    FLOAT_DTYPES,
    check_float,
    check_same_device,
    check_same_dtype,
    check_shape,
    number_of,
)

HALF_DTYPES = (torch.float16, torch.bfloat16)


def as_pair(output_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from an int or a pair; ValueError unless both are positive."""
    pair: tuple[Any, ...] = (output_size, output_size)
    if isinstance(output_size, Sequence):
        pair = tuple(output_size)
    if len(pair) != 2 or not all(isinstance(size, Integral) and int(size) > 0 for size in pair):
        raise ValueError(
            f"output_size: expected a positive int or two of them, got {output_size!r}"
        )
    return int(pair[0]), int(pair[1])  # numpy's integers are none to an operator


def scale_of(spatial_scale: float | Tensor) -> float:
    """The scale as a number; ValueError unless it is positive and finite."""
    spatial_scale = number_of(spatial_scale)
    if not 0 < spatial_scale < math.inf:
        raise ValueError(f"spatial_scale: expected a positive number, got {spatial_scale!r}")
    return spatial_scale


def check_sampling_ratio(sampling_ratio: int) -> None:
    """ValueError for more samples than 32 bits count, as in torchvision: a slip, not a wish."""
    if sampling_ratio >= 2**31:
        raise ValueError(f"sampling_ratio: expected less than 2**31, got {sampling_ratio}")


def boxes_to_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of each image, [L_i, 4], as RoIs [K, 5]: batch index, xyxy."""
    for index, image_boxes in enumerate(boxes):
        check_float(f"boxes[{index}]", image_boxes)
        check_shape(f"boxes[{index}]", image_boxes, ("L", 4))
    if not boxes:
        raise ValueError("boxes: expected a tensor for each image, got an empty list")
    indexed = [
        torch.nn.functional.pad(image_boxes, (1, 0), value=float(index))
        for index, image_boxes in enumerate(boxes)
    ]
    return torch.cat(indexed)


def as_rois(boxes: Tensor | Sequence[Tensor], input: Tensor) -> Tensor:
    """Checks features and boxes and returns the boxes as RoIs, [K, 5].

    On the CPU, a batch index outside [0, N) raises a ValueError; a GPU is not made to wait for
    such a check, and where somebody traces or transforms there are no values: there the RoI gives
    zeros. Inside autocast, as in torchvision, half RoIs fit features of any other.
    """
    rois = boxes if isinstance(boxes, Tensor) else boxes_to_rois(boxes)
    if not _fit(rois, input):
        if isinstance(input, Tensor) and _in_autocast(input.device.type):
            rois = widened(rois)
        if not _fit(rois, input):
            _say_what_does_not_fit(rois, input)
    if rois is boxes and _has_values(rois):
        check_batch_index(rois, input.shape[0])
    return rois


def _in_autocast(device: str) -> bool:
    """False, too, for a device that knows no autocast (meta), where torch would raise."""
    return device in AUTOCAST_KEYS and torch.is_autocast_enabled(device)


def _has_values(rois: Tensor) -> bool:
    """False for what stands for a tensor while code is compiled, traced, faked or transformed."""
    return (
        rois.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not _C._len_torch_dispatch_stack()
        and not _C._are_functorch_transforms_active()
        and not _C._is_tracing()
        and not isinstance(rois, FakeTensor)
    )


def _fit(rois: Tensor, input: object) -> bool:
    """Quick answer for the good case: this is a third of the cost of a small call."""
    return (
        isinstance(input, Tensor)
        and input.dim() == 4
        and rois.dim() == 2
        and rois.shape[1] == 5
        and input.dtype in FLOAT_DTYPES
        and (rois.dtype == input.dtype or _wider(rois, input))
        and rois.device == input.device
    )


def _wider(rois: Tensor, input: Tensor) -> bool:
    return rois.dtype == torch.float32 and input.dtype in HALF_DTYPES


def _say_what_does_not_fit(rois: Tensor, input: Tensor) -> None:
    check_float("input", input)
    check_shape("input", input, ("N", "C", "H", "W"))
    check_float("boxes", rois)
    check_shape("boxes", rois, ("K", 5))
    if rois.dtype != input.dtype and not _wider(rois, input):
        raise TypeError(
            f"boxes: expected the dtype of input, {input.dtype}, or float32 beside a half type, "
            f"got {rois.dtype}"
        )
    check_same_device("boxes", rois, "input", input)


def check_level(index: int, level: Tensor, first: Tensor) -> None:
    """TypeError or ValueError unless a level of a pyramid fits the first one."""
    name = f"inputs[{index}]"
    check_float(name, level)
    check_shape(name, level, ("N", "C", "H", "W"))
    check_same_dtype(name, level, "inputs[0]", first)
    check_same_device(name, level, "inputs[0]", first)
    if level.shape[:2] != first.shape[:2]:
        raise ValueError(
            f"{name}: expected N and C of inputs[0], {list(first.shape[:2])}, "
            f"got {list(level.shape[:2])}"
        )


def check_batch_index(rois: Tensor, batch: int) -> None:
    """ValueError if a RoI names an image outside [0, batch); NaN passes, such a RoI gives zeros."""
    # A list, because for few RoIs any tensor operation costs more, and for many it does not matter.
    for index in rois[:, 0].tolist():
        if index <= -1 or index >= batch:
            raise ValueError(f"boxes: expected a batch index from 0 to {batch - 1}, got {index}")


def is_channels_last(tensor: Tensor) -> bool:
    """True for a tensor stored channels last and not also NCHW-contiguous; decides the layout of
    outputs, as `is_channels_last` does in the compiled library."""
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def new_empty(
    like: Tensor, shape: Sequence[int], dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """An empty tensor of that shape and layout."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=memory_format)
