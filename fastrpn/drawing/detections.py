"""Pictures of detections and of ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from fastrpn.drawing.canvas import (
    GREY,
    Colour,
    colour_of,
    draw_box,
    draw_tag,
    enlarge,
    tag_box,
    text_size,
    tile,
    to_boxes,
    to_numpy,
    with_caption,
)
from fastrpn.images import image_to_array

_GROUPS: tuple[Colour, ...] = ((80, 220, 60), (240, 50, 50), (250, 210, 40), (70, 160, 250))


def draw_detections(
    image: np.ndarray | Tensor,
    boxes: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    scores: ArrayLike | Tensor | None = None,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Draws boxes in the colours of their classes, tagged with class and score.

    Args:
        image: uint8 [H,W,3] RGB or float32 [3,H,W] in 0..1; left as it is.
        boxes: [N,4] xyxy in pixels, tensor or array.
        labels: [N] integers.
        scores: [N], or None for ground truth. The best are drawn last, on top.
        classes: names with "__background__" first; without them tags show the label.

    Returns:
        uint8 [H,W,3] RGB, a new array.
    """
    picture = image_to_array(image).copy()
    boxes, labels = to_boxes(boxes), to_numpy(labels).astype(int)
    known = np.zeros(len(boxes)) if scores is None else to_numpy(scores)
    order = np.argsort(known, kind="stable")
    if len(labels) != len(boxes) or len(order) != len(boxes):
        raise ValueError(
            f"boxes, labels and scores must agree, got {len(boxes)}, {len(labels)}, {len(order)}"
        )
    for i in order:
        draw_box(picture, boxes[i], colour_of(labels[i]), halo=True)
    for i in order:
        name = classes[labels[i]] if classes else str(labels[i])
        text = name if scores is None else f"{name} {known[i]:.2f}"
        tag_box(picture, boxes[i], colour_of(labels[i]), text)
    return picture


def draw_target(
    image: np.ndarray | Tensor, target: dict, classes: Sequence[str] | None = None
) -> np.ndarray:
    """Draws ground truth as `draw_detections` does; objects to be ignored are thin and grey."""
    boxes, labels = to_boxes(target["boxes"]), to_numpy(target["labels"])
    ignore = to_numpy(target.get("ignore", np.zeros(len(boxes)))).astype(bool)
    picture = image_to_array(image).copy()
    for box in boxes[ignore]:
        draw_box(picture, box, GREY, thickness=1)
        tag_box(picture, box, GREY, "ignored")
    return draw_detections(picture, boxes[~ignore], labels[~ignore], classes=classes)


def draw_groups(
    image: np.ndarray | Tensor, groups: Mapping[str, ArrayLike | Tensor], title: str = ""
) -> np.ndarray:
    """Draws groups of many boxes, each in a colour of its own, and says above how many there are.

    Args:
        image: uint8 [H,W,3] RGB or float32 [3,H,W] in 0..1; left as it is.
        groups: {name: boxes [N,4] xyxy in pixels}; later ones are on top.
        title: begins the line above the image.

    Returns:
        uint8 [H + 24,W,3] RGB, a new array.
    """
    picture = image_to_array(image).copy()
    arrays = {name: to_boxes(boxes) for name, boxes in groups.items()}
    for colour, boxes in zip(_GROUPS, arrays.values(), strict=False):
        for box in boxes:
            draw_box(picture, box, colour, thickness=1, halo=True)
    picture = with_caption(picture, title)
    left = text_size(title, 0.5)[0] + 24 if title else 4
    for colour, (name, boxes) in zip(_GROUPS, arrays.items(), strict=False):
        text = f"{len(boxes)} {name}"
        draw_tag(picture, text, (left, 4), colour)
        left += text_size(text)[0] + 20
    return picture


def contact_sheet(
    images: Sequence,
    targets: Sequence[dict],
    detections: Sequence[dict],
    classes: Sequence[str],
    *,
    min_score: float = 0.5,
    columns: int = 2,
    long_side: int = 320,
) -> np.ndarray:
    """Ground truth on the left and detections on its right, pair by pair.

    Args:
        images: each uint8 [H,W,3] RGB or float32 [3,H,W]; at least one.
        targets, detections: one dict an image.
        classes: names with "__background__" first.
        min_score: detections below it are not shown.
        columns: pairs a row.
        long_side: pixels of each picture in the sheet.

    Returns:
        uint8 [H,W,3] RGB.
    """
    if not len(images) == len(targets) == len(detections) > 0:
        raise ValueError(
            f"{len(images)} images, {len(targets)} targets, {len(detections)} detections: "
            "need as many of each, at least one"
        )
    pairs = []
    for image, target, detection in zip(images, targets, detections, strict=True):
        large, scale = enlarge(image, long_side)
        scaled_target = {**target, "boxes": to_boxes(target["boxes"]) * scale}
        scores = to_numpy(detection["scores"])
        keep = scores >= min_score
        found = draw_detections(
            large,
            to_boxes(detection["boxes"])[keep] * scale,
            to_numpy(detection["labels"])[keep],
            scores[keep],
            classes,
        )
        truth = with_caption(draw_target(large, scaled_target, classes), "ground truth")
        found = with_caption(found, f"detections, score at least {min_score:g}")
        gap = np.full((truth.shape[0], 3, 3), 255, np.uint8)
        pairs.append(np.hstack([truth, gap, found]))
    return tile(pairs, columns, gap=12)
