"""Argument checks shared by the ops. Each names the argument and what it was given."""

from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor

N = TypeVar("N")

FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def check_tensor(name: str, value: object) -> None:
    """TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")


def check_number(name: str, value: object) -> None:
    """TypeError unless `value` is a real number, which a tensor of one element is, too; ValueError
    if it is NaN."""
    if not isinstance(value, Real | Tensor):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    check_not_nan(name, value)


def check_not_nan(name: str, value: object) -> None:
    """ValueError for a number that is NaN: every comparison with it would quietly say no.

    A tensor is not looked at, since that would wait for its device and break a graph.
    """
    if isinstance(value, Real) and value != value:
        raise ValueError(f"{name}: expected a number, got {value}")


def number_of(value: N | Tensor) -> N | float:
    """A number, also one that a tensor of one element holds.

    Reading a tensor waits for its device and breaks a graph of `torch.compile`, after which the
    function runs as it is; operators take numbers alone.
    """
    return value.item() if isinstance(value, Tensor) else value


def check_float(name: str, value: Tensor) -> None:
    """TypeError unless `value` is a float16, bfloat16, float32 or float64 tensor."""
    check_tensor(name, value)
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name}: expected float16, bfloat16, float32 or float64, "
            f"got {value.dtype}{_way_out(value)}"
        )


def _way_out(value: Tensor) -> str:
    if not value.is_quantized:
        return ""
    return "; dequantize it, or call torchvision's function, also under accelerate_torchvision()"


def check_numbers(name: str, value: Tensor) -> None:
    """TypeError unless `value` is a float tensor or one of integers (bool is none)."""
    check_tensor(name, value)
    if value.is_complex() or value.dtype == torch.bool or value.is_quantized:
        raise TypeError(f"{name}: expected numbers, got {value.dtype}{_way_out(value)}")


def check_integers(name: str, value: Tensor) -> None:
    """TypeError unless `value` is a tensor of integers (bool is none)."""
    check_numbers(name, value)
    if value.is_floating_point():
        raise TypeError(f"{name}: expected integers, got {value.dtype}")


def check_bool(name: str, value: Tensor) -> None:
    """TypeError unless `value` is a bool tensor."""
    check_tensor(name, value)
    if value.dtype != torch.bool:
        raise TypeError(f"{name}: expected bool, got {value.dtype}")


def check_shape(name: str, value: Tensor, shape: tuple) -> None:
    """ValueError unless the shape matches, e.g. ("N", 4) or (..., "N", 4).

    A string stands for any size, a leading ellipsis for any number of dimensions.
    """
    tail = shape[1:] if shape[0] is ... else shape
    sizes = value.shape[-len(tail) :] if shape[0] is ... else value.shape
    matches = len(sizes) == len(tail) and all(
        isinstance(want, str) or size == want for size, want in zip(sizes, tail, strict=True)
    )
    if not matches:
        wanted = ", ".join("..." if want is ... else str(want) for want in shape)
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(value.shape)}")


def check_boxes(name: str, boxes: Tensor) -> None:
    """TypeError or ValueError unless `boxes` is a float tensor of shape [N, 4]."""
    check_float(name, boxes)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: expected shape [N, 4], got {list(boxes.shape)}")


def check_boxes_and_scores(boxes: Tensor, scores: Tensor) -> None:
    """TypeError or ValueError unless they are float tensors [N, 4] and [N] of one dtype, on one
    device."""
    check_boxes("boxes", boxes)
    check_float("scores", scores)
    if scores.dim() != 1 or scores.shape[0] != boxes.shape[0]:
        raise ValueError(f"scores: expected shape [{boxes.shape[0]}], got {list(scores.shape)}")
    check_same_dtype("scores", scores, "boxes", boxes)
    check_same_device("scores", scores, "boxes", boxes)


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
