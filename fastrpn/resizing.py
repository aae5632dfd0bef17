"""The size of an image in the network: one rule for training and detection."""

from __future__ import annotations

import math

__all__ = ["resized"]


def resized(height: int, width: int, short: int, long: int | None = None) -> tuple[int, int]:
    """The (height, width) whose short side is `short` pixels unless the long one would exceed
    `long`; at least one pixel. Rounds down, as torchvision's detectors do.

    The paper's rule is short=600 (section 3.3), py-faster-rcnn adds long=1000.
    """
    scale = short / min(height, width)
    if long is not None:
        scale = min(scale, long / max(height, width))
    return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))
