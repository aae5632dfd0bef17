"""Pictures of what comes before detections: anchors and proposals."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from fastrpn.drawing.canvas import (
    BLACK,
    GREY,
    PALETTE,
    draw_box,
    enlarge,
    text_size,
    tile,
    to_boxes,
    to_numpy,
    with_caption,
    write,
)

_LEGEND_ROW = 24  # pixels


def draw_proposals(
    image: np.ndarray | Tensor,
    boxes_before: ArrayLike | Tensor,
    scores_before: ArrayLike | Tensor,
    boxes_after: ArrayLike | Tensor,
    scores_after: ArrayLike | Tensor,
    *,
    limit: int = 300,
    long_side: int = 512,
) -> np.ndarray:
    """Proposals before and after NMS, side by side, the better the brighter.

    Args:
        image: uint8 [H,W,3] RGB or float32 [3,H,W] in 0..1.
        boxes_before, boxes_after: [N,4] xyxy in pixels.
        scores_before, scores_after: [N], any scale.
        limit: at most so many are drawn in each panel, the best.
        long_side: pixels of each panel.

    Returns:
        uint8 [H,W,3] RGB.
    """
    panels = []
    for when, boxes, scores in (
        ("before NMS", to_boxes(boxes_before), to_numpy(scores_before)),
        ("after NMS", to_boxes(boxes_after), to_numpy(scores_after)),
    ):
        if len(boxes) != len(scores):
            raise ValueError(f"{len(boxes)} boxes but {len(scores)} scores {when}")
        panel, scale = enlarge(image, long_side)
        panel = (0.6 * panel).astype(np.uint8)  # dimmed, so that the boxes stand out
        best = np.argsort(-scores, kind="stable")[:limit]
        for rank, i in reversed(list(enumerate(best))):
            brightness = 1 - rank / max(1, len(best) - 1)
            draw_box(panel, boxes[i] * scale, _heat(brightness), thickness=1)
        shown = f"{len(boxes):,}" if len(best) == len(boxes) else f"best {limit} of {len(boxes):,}"
        panels.append(with_caption(panel, f"{shown} proposals {when}"))
    return tile(panels, columns=2)


def draw_anchors(
    boxes: ArrayLike | Tensor,
    image_size: tuple[int, int] = (600, 800),
    centre: tuple[float, float] | None = None,
) -> np.ndarray:
    """The anchors of one position, a colour for each scale, on an empty image.

    Anchors of one scale are those whose areas agree within a factor of two (as the rounded ones of
    py-faster-rcnn do). Where they leave the image the picture has a margin.

    Args:
        boxes: [N,4] xyxy in pixels; for example the nine around (320, 320).
        image_size: (height, width) of the image that they lie on.
        centre: (x, y) of the position; default: the mean of the boxes' centres.

    Returns:
        uint8 [H,W,3] RGB.
    """
    boxes = to_boxes(boxes)
    if len(boxes) == 0:
        raise ValueError("boxes must hold at least one anchor")
    height, width = image_size
    low = np.minimum(boxes[:, :2].min(axis=0), 0)
    high = np.maximum(boxes[:, 2:].max(axis=0), (width, height))
    margin = 48
    shift = margin - np.floor(low).astype(int)
    size = np.ceil(high - low).astype(int) + 2 * margin
    scales = np.round(np.log2(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)))).astype(int)
    groups = [boxes[scales == scale] for scale in np.unique(scales)]
    picture = np.full((size[1] + _LEGEND_ROW * len(groups), size[0], 3), 255, np.uint8)

    _draw_axes(picture, shift, image_size)
    for number, members in enumerate(groups):
        colour = PALETTE[number % len(PALETTE)]
        for box in members:
            draw_box(picture, box + np.tile(shift, 2), colour)
        sizes = ",  ".join(f"{x2 - x1:.0f} x {y2 - y1:.0f}" for x1, y1, x2, y2 in members)
        x, y = int(shift[0]), int(size[1]) + _LEGEND_ROW * number
        cv2.rectangle(picture, (x, y - 10), (x + 14, y), colour, -1)
        write(picture, sizes, (x + 24, y), BLACK, scale=0.5)
    if centre is None:
        centre = (boxes[:, :2] + boxes[:, 2:]).mean(axis=0) / 2
    x, y = (int(round(float(v))) for v in np.add(centre, shift))
    cv2.circle(picture, (x, y), 4, BLACK, -1, cv2.LINE_AA)
    write(picture, f"({centre[0]:g}, {centre[1]:g})", (x + 8, y - 6), BLACK, scale=0.5)
    return picture


def _draw_axes(picture: np.ndarray, shift: np.ndarray, image_size: tuple[int, int]) -> None:
    """The image as a light area with a tick at every 100 pixels, in place."""
    (x0, y0), (height, width) = (int(v) for v in shift), image_size
    cv2.rectangle(picture, (x0, y0), (x0 + width - 1, y0 + height - 1), (242, 242, 238), -1)
    cv2.rectangle(picture, (x0 - 1, y0 - 1), (x0 + width, y0 + height), GREY, 1)
    for x in range(0, width + 1, 100):
        cv2.line(picture, (x0 + x, y0 + height), (x0 + x, y0 + height + 5), GREY, 1)
        place = (x0 + x - text_size(str(x))[0] // 2, y0 + height + 20)
        write(picture, str(x), place, GREY)
    for y in range(0, height + 1, 100):
        cv2.line(picture, (x0 - 6, y0 + y), (x0 - 1, y0 + y), GREY, 1)
        write(picture, str(y), (x0 - 10 - text_size(str(y))[0], y0 + y + 4), GREY)


def _heat(value: float) -> tuple[int, int, int]:
    """0 dark violet .. 1 yellow."""
    red, green, blue, _ = matplotlib.colormaps["plasma"](value)
    return int(255 * red), int(255 * green), int(255 * blue)
