"""Average precision as COCO defines it, computed by faster-coco-eval without its printing; its
numbers are those of pycocotools (tests/evaluation)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastrpn._extras import require

if TYPE_CHECKING:
    from faster_coco_eval import COCO


AREAS = ("all", "small", "medium", "large")  # up to 32 x 32 pixels, up to 96 x 96, more
MAX_DETECTIONS = 100


@dataclass
class COCOResult:
    """What COCO's evaluation measures; NaN where a class has no ground truth that counts.

    Attributes:
        precision: float64 [T,R,C,4] at IoU 0.5, 0.55, ..., 0.95, recall 0, 0.01, ..., 1, class (c
            has label c + 1) and one of `AREAS`.
        recall: float64 [T,C,4], the greatest that was reached.
    """

    precision: np.ndarray
    recall: np.ndarray

    def ap(self, iou: float | None = None, label: int | None = None, area: str = "all") -> float:
        """Mean precision over the classes that occur: at one IoU or all, of one label or all."""
        precision = self.precision[:, :, :, AREAS.index(area)]
        if iou is not None:
            precision = precision[[round((iou - 0.5) / 0.05)]]
        if label is not None:
            precision = precision[:, :, [label - 1]]
        return _mean_of_known(precision)

    def ar(self, label: int | None = None) -> float:
        """Mean of the greatest recall over all IoUs and the classes that occur, or of one label."""
        recall = self.recall[:, :, 0]
        return _mean_of_known(recall if label is None else recall[:, [label - 1]])


def _mean_of_known(values: np.ndarray) -> float:
    known = ~np.isnan(values)
    return float(values[known].mean()) if known.any() else float("nan")


def coco_precision(
    detections: Sequence[dict],
    targets: Sequence[dict],
    num_classes: int,
    max_detections: int = MAX_DETECTIONS,
) -> COCOResult:
    """Runs COCO's box evaluation. The area of an object is its target's "area", else its box's.

    Ground truth marked "ignore" goes in as COCO's `iscrowd`: a detection that lies on it counts
    neither way, where "lies on" compares the overlap with the area of the detection alone.

    Args:
        detections: one dict an image with "boxes" [D,4] xyxy, "scores" [D] and "labels" [D].
        targets: one dict an image with "boxes" [G,4], "labels" [G] and optionally "ignore" [G],
            "area" [G] and "image_id", an integer.
        num_classes: with the background; labels are 1 to num_classes - 1.
        max_detections: of an image and class, the best; COCO's number is 100.
    """
    require("train", "faster_coco_eval")
    from faster_coco_eval import COCOeval_faster  # everything else runs without the package

    # Of equal scores that of the first image counts first, which pycocotools goes through by id.
    order = sorted(range(len(targets)), key=lambda i: targets[i].get("image_id", i))
    detections, targets = [detections[i] for i in order], [targets[i] for i in order]
    classes = range(1, num_classes)
    annotations = []
    for image, target in enumerate(targets):
        ignore = target.get("ignore", np.zeros(len(target["labels"]), bool))
        entries = [
            _entry(image, box, label) | {"iscrowd": int(crowd)}
            for box, label, crowd in zip(
                *map(np.asarray, (target["boxes"], target["labels"], ignore)), strict=True
            )
        ]
        for entry, area in zip(entries, np.asarray(target.get("area", ())).tolist(), strict=False):
            entry["area"] = area
        annotations += entries
    results = []
    for image, detection in enumerate(detections):
        for box, label, score in zip(
            *map(np.asarray, (detection["boxes"], detection["labels"], detection["scores"])),
            strict=True,
        ):
            results.append(_entry(image, box, label) | {"score": float(score)})

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(
            _index(annotations, len(targets), classes),
            _index(results, len(targets), classes),
            "bbox",
        )
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    found = (evaluation.eval[name][..., 0] for name in ("precision", "recall"))
    return COCOResult(*(np.where(values < 0, np.nan, values) for values in found))


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
    """A COCO object from memory. Ids start at 1: a match with id 0 is no match."""
    from faster_coco_eval import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": i + 1} for i in range(num_images)],
        "categories": [{"id": c, "name": str(c)} for c in classes],
        "annotations": [{"id": i + 1, **entry} for i, entry in enumerate(entries)],
    }
    coco.createIndex()
    return coco
