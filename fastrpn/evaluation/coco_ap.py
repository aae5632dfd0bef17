"""Average precision as COCO defines it, computed by pycocotools without its printing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pycocotools.coco import COCO


@dataclass
class COCOResult:
    """Precision float64 [T,R,C] at IoU 0.5, 0.55, ..., 0.95, recall 0, 0.01, ..., 1 and class.

    Class c has label c + 1. NaN where a class has no ground truth that counts.
    """

    precision: np.ndarray

    def ap(self, iou: float | None = None, label: int | None = None) -> float:
        """Mean precision over the classes that occur: at one IoU or all, of one label or all."""
        precision = self.precision
        if iou is not None:
            precision = precision[[round((iou - 0.5) / 0.05)]]
        if label is not None:
            precision = precision[:, :, [label - 1]]
        known = ~np.isnan(precision)
        return float(precision[known].mean()) if known.any() else float("nan")


def coco_precision(
    detections: Sequence[dict], targets: Sequence[dict], num_classes: int
) -> COCOResult:
    """Runs COCO's box evaluation (all areas, at most 100 detections an image).

    Ground truth marked "ignore" goes in as COCO's `iscrowd`: a detection that lies on it counts
    neither way, where "lies on" compares the overlap with the area of the detection alone.

    Args:
        detections: one dict an image with "boxes" [D,4] xyxy, "scores" [D] and "labels" [D].
        targets: one dict an image with "boxes" [G,4], "labels" [G] and optionally "ignore" [G].
        num_classes: with the background; labels are 1 to num_classes - 1.
    """
    from pycocotools.cocoeval import COCOeval  # everything else runs without the package

    classes = range(1, num_classes)
    annotations = []
    for image, target in enumerate(targets):
        ignore = target.get("ignore", np.zeros(len(target["labels"]), bool))
        for box, label, crowd in zip(
            *map(np.asarray, (target["boxes"], target["labels"], ignore)), strict=True
        ):
            annotations.append(_entry(image, box, label) | {"iscrowd": int(crowd)})
    results = []
    for image, detection in enumerate(detections):
        for box, label, score in zip(
            *map(np.asarray, (detection["boxes"], detection["labels"], detection["scores"])),
            strict=True,
        ):
            results.append(_entry(image, box, label) | {"score": float(score)})

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _index(annotations, len(targets), classes),
            _index(results, len(targets), classes),
            "bbox",
        )
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, most detections
    return COCOResult(np.where(precision < 0, np.nan, precision))


def _entry(image: int, box: np.ndarray, label: int) -> dict:
    x1, y1, x2, y2 = (float(v) for v in box)
    width, height = x2 - x1, y2 - y1
    return {
        "image_id": image + 1,
        "category_id": int(label),
        "bbox": [x1, y1, width, height],
        "area": width * height,
    }


def _index(entries: list[dict], num_images: int, classes: Sequence[int]) -> COCO:
    """A COCO object from memory. Ids start at 1: to pycocotools a match with id 0 is no match."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": i + 1} for i in range(num_images)],
        "categories": [{"id": c} for c in classes],
        "annotations": [{"id": i + 1, **entry} for i, entry in enumerate(entries)],
    }
    coco.createIndex()
    return coco
