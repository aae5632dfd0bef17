"""Average precision as PASCAL VOC defines it.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2, and
the development kit. The kit's IoU counts the last pixel of a box (its widths are x2 - x1 + 1); our
boxes are continuous and already hold that pixel, so the plain IoU here is the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FALSE, TRUE, IGNORED = 0, 1, 2  # what becomes of a detection


@dataclass
class VOCCurve:
    """The precision-recall curve of a class, one point a detection that counts, best score first.

    `recall` and `precision` are float64 [D]; `num_objects` counts the ground truth that is not
    ignored. Without any, recall is undefined and both averages are NaN.
    """

    recall: np.ndarray
    precision: np.ndarray
    num_objects: int

    @property
    def ap_area(self) -> float:
        """Area under the curve after making precision monotonic (VOC 2010 and later)."""
        if self.num_objects == 0:
            return float("nan")
        envelope = np.maximum.accumulate(self.precision[::-1])[::-1]
        return float(np.sum(np.diff(self.recall, prepend=0) * envelope))

    @property
    def ap_11pt(self) -> float:
        """Mean of the best precision at recall >= 0, 0.1, ..., 1 (VOC 2007)."""
        if self.num_objects == 0:
            return float("nan")
        best = [self.precision[self.recall >= t].max(initial=0) for t in np.arange(11) / 10]
        return float(np.mean(best))


def voc_curve(
    detections: Sequence[dict], targets: Sequence[dict], label: int, iou_threshold: float = 0.5
) -> VOCCurve:
    """Matches the detections of one class to its ground truth, over all images.

    Best score first (ties: in order of images), a detection looks at the object of its image that
    it overlaps most. With an IoU of at least `iou_threshold` it is a true positive if it is the
    first for that object and a false positive if not; an object to be ignored takes it out of the
    count. With less it is a false positive.

    Args:
        detections: one dict an image with "boxes" [D,4] xyxy, "scores" [D] and "labels" [D].
        targets: one dict an image with "boxes" [G,4], "labels" [G] and optionally "ignore" [G].
        label: the class.
        iou_threshold: 0.5 in VOC.
    """
    scores, hits, num_objects = [], [], 0
    for detection, target in zip(detections, targets, strict=True):
        chosen = np.asarray(detection["labels"]) == label
        score = np.asarray(detection["scores"], np.float64)[chosen]
        order = np.argsort(-score, kind="stable")
        boxes = np.asarray(detection["boxes"], np.float64).reshape(-1, 4)[chosen][order]

        mine = np.asarray(target["labels"]) == label
        objects = np.asarray(target["boxes"], np.float64).reshape(-1, 4)[mine]
        ignore = np.asarray(target.get("ignore", np.zeros(len(mine))), bool)[mine]
        num_objects += int((~ignore).sum())
        scores.append(score[order])
        hits.append(match_objects(boxes, objects, ignore, iou_threshold))

    score, hit = np.concatenate([[], *scores]), np.concatenate([[], *hits])
    hit = hit[np.argsort(-score, kind="stable")]
    hit = hit[hit != IGNORED]
    found = np.cumsum(hit == TRUE)
    with np.errstate(invalid="ignore", divide="ignore"):
        return VOCCurve(found / num_objects, found / np.arange(1, len(hit) + 1), num_objects)


def match_objects(
    boxes: np.ndarray, objects: np.ndarray, ignore: np.ndarray, iou_threshold: float = 0.5
) -> np.ndarray:
    """What becomes of each detection of one image and class, as `voc_curve` says.

    Args:
        boxes: [D,4] xyxy, the best score first.
        objects: [G,4] xyxy.
        ignore: bool [G].
        iou_threshold: 0.5 in VOC.

    Returns:
        [D]: TRUE, FALSE or IGNORED.
    """
    outcome = np.full(len(boxes), FALSE)
    if len(boxes) == 0 or len(objects) == 0:
        return outcome
    iou = pairwise_iou(boxes, objects)
    found = np.zeros(len(objects), bool)
    for row, best in enumerate(iou.argmax(axis=1)):
        if iou[row, best] < iou_threshold:
            continue
        if ignore[best]:
            outcome[row] = IGNORED
        elif not found[best]:
            outcome[row] = TRUE
            found[best] = True
    return outcome


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU [N,M] of xyxy boxes [N,4] and [M,4]; 0 where both are empty."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
