"""Argument checks shared by the ops. Each names the argument and what it was given."""

import torch
from torch import Tensor

FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def check_tensor(name: str, value: object) -> None:
    """TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")


def check_float(name: str, value: object) -> None:
    """TypeError unless `value` is a float16, bfloat16, float32 or float64 tensor."""
    check_tensor(name, value)
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name}: expected float16, bfloat16, float32 or float64, got {value.dtype}"
        )


def check_shape(name: str, value: Tensor, shape: tuple[int | str, ...]) -> None:
    """ValueError unless the shape matches; letters stand for any size, e.g. ("N", 4)."""
    matches = value.dim() == len(shape) and all(
        isinstance(want, str) or size == want
        for size, want in zip(value.shape, shape, strict=False)
    )
    if not matches:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(value.shape)}")


def check_boxes(name: str, boxes: object) -> None:
    """TypeError or ValueError unless `boxes` is a float tensor of shape [N, 4]."""
    check_float(name, boxes)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: expected shape [N, 4], got {list(boxes.shape)}")


def check_same_dtype(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """TypeError unless both tensors have one dtype."""
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name}: expected the dtype of {other_name}, {other.dtype}, got {value.dtype}"
        )


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """ValueError unless both tensors are on one device."""
    if value.device != other.device:
        raise ValueError(
            f"{name}: expected the device of {other_name}, {other.device}, got {value.device}"
        )
