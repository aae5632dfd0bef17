"""The trivial detector that a trained one has to beat: what stands out, called the usual name."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from fastrpn.images import image_to_array

_MIN_SIDE = 8  # pixels; anything smaller is taken for noise


class ContourBaseline:
    """Boxes around the regions whose colour differs from the background's.

    The background is taken to have the median colour. Otsu's threshold on the distance from it (in
    Lab) says what differs. Each connected region gives a box, scored by the part of it that the
    region fills.

    Args:
        label: the label of every detection; see `majority_label`.
    """

    def __init__(self, label: int):
        self.label = label

    def __call__(self, images: list[torch.Tensor]) -> list[dict]:
        """Detections {"boxes", "scores", "labels"} of each image float32 [3,H,W] in 0..1."""
        return [self._detect(image_to_array(image)) for image in images]

    def _detect(self, image: np.ndarray) -> dict:
        lab = cv2.cvtColor(cv2.medianBlur(image, 5), cv2.COLOR_RGB2LAB).astype(np.float32)
        distance = np.linalg.norm(lab - np.median(lab[::4, ::4], axis=(0, 1)), axis=2)
        distance = np.clip(distance, 0, 255).astype(np.uint8)
        _, mask = cv2.threshold(distance, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        boxes, scores = [], []
        for contour in contours:
            x, y, width, height = cv2.boundingRect(contour)
            if min(width, height) >= _MIN_SIDE:
                boxes.append((x, y, x + width, y + height))
                scores.append(cv2.contourArea(contour) / (width * height))
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "labels": torch.full((len(boxes),), self.label),
        }


def majority_label(targets: list[dict], num_classes: int) -> int:
    """The label that occurs most among the objects that count (the lowest of several).

    Args:
        targets: of the training set.
        num_classes: with the background.
    """
    counts = np.zeros(num_classes, int)
    for target in targets:
        labels = np.asarray(target["labels"])
        ignore = np.asarray(target.get("ignore", np.zeros(len(labels))), bool)
        counts += np.bincount(labels[~ignore], minlength=num_classes)
    if counts[1:].sum() == 0:
        raise ValueError("targets hold no object to find the majority class of")
    return int(counts[1:].argmax()) + 1
