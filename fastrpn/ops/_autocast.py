"""What the operators do inside `torch.autocast`: as torchvision's, they take two dtypes there."""

import functools
from typing import Any

import torch
from torch import _C, Tensor

_LIBRARY = torch.library.Library("fastrpn", "IMPL")  # registrations last as long as this object
AUTOCAST_KEYS = {"cpu": _C.DispatchKey.AutocastCPU, "cuda": _C.DispatchKey.AutocastCUDA}


def widened(tensor: Tensor) -> Tensor:
    """float32 for half types, as autocast's float32 operators take them; others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def register_boxes_and_scores(name: str) -> None:
    """Has the operator compute in float32 inside autocast, if boxes and scores differ in dtype."""
    op = getattr(torch.ops.fastrpn, name).default

    def kernel(key: _C.DispatchKey, boxes: Tensor, scores: Tensor, *args: object) -> Any:
        with _C._ExcludeDispatchKeyGuard(_C.DispatchKeySet(key)):
            if boxes.dtype != scores.dtype:
                boxes, scores = widened(boxes), widened(scores)
            return op(boxes, scores, *args)

    for key in AUTOCAST_KEYS.values():
        _LIBRARY.impl(name, functools.partial(kernel, key), key.name)
