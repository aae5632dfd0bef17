"""The size of an image in the network: one rule for training and detection."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["resized"]


def resized(height: int, width: int, short: int, long: int | None = None) -> tuple[int, int]:
    """The (height, width) whose short side is `short` pixels unless the long one would exceed
    `long`; at least one pixel. Rounds down, as torchvision's detectors do.

    The paper's rule is short=600 (section 3.3), py-faster-rcnn adds long=1000.
    """
    scale = short / torch.sym_min(height, width)  # which is min, of an export's symbols, too
    if long is not None:
        scale = torch.sym_min(scale, long / torch.sym_max(height, width))
    return _scaled(height, scale), _scaled(width, scale)


def _scaled(side: Any, scale: Any) -> Any:  # numbers, or symbols for them
    return torch.sym_max(math.trunc(torch.sym_float(side) * scale), 1)
