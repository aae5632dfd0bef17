"""The precision of convolutions and matrix products; boxes, scores and losses stay float32."""

from __future__ import annotations

import torch

__all__ = ["PRECISIONS", "autocast"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", *_DTYPES)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What to run a model in; "fp32" changes nothing.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return torch.autocast(
        device.type, _DTYPES.get(precision, torch.bfloat16), enabled=precision in _DTYPES
    )
