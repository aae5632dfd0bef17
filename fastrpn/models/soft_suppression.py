"""Soft-NMS (Bodla et al., 2017) of a detector's boxes, class by class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastrpn import ops
from fastrpn.models.config import ModelConfig
from fastrpn.models.structures import Detections

__all__ = ["soft_suppression"]


def soft_suppression(
    boxes: Tensor, scores: Tensor, labels: Tensor, config: ModelConfig, score_threshold: float
) -> Detections:
    """Soft-NMS in each image and class. How many detections there are depends on the values.

    Args:
        boxes: float [B, N, 4] xyxy.
        scores: float [B, N].
        labels: int64 [B, N].
        config: ``box_nms`` and its numbers, and ``detections_per_image``.
        score_threshold: detections have a greater score, also after it was lowered.
    """
    found = [
        _of_image(*of_image, config, max(score_threshold, 0.0))
        for of_image in zip(boxes, scores, labels, strict=True)
    ]
    counts = torch.tensor([len(of_image[0]) for of_image in found], device=boxes.device)
    all_boxes, all_scores, all_labels = (
        nn.utils.rnn.pad_sequence(list(values), batch_first=True)
        for values in zip(*found, strict=True)
    )
    return Detections(all_boxes, all_scores, all_labels, counts)


def _of_image(
    boxes: Tensor, scores: Tensor, labels: Tensor, config: ModelConfig, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows, lowered = [], []
    for label in labels[scores > score_threshold].unique():
        of_class = (labels == label).nonzero()[:, 0]
        kept, kept_scores = ops.soft_nms(
            boxes[of_class],
            scores[of_class],
            method=config.box_nms,
            sigma=config.box_soft_nms_sigma,
            iou_threshold=config.box_nms_threshold,
            score_threshold=score_threshold,
        )
        rows.append(of_class[kept])
        lowered.append(kept_scores)
    if not rows:
        return boxes[:0], scores[:0], labels[:0]
    all_rows, all_scores = torch.cat(rows), torch.cat(lowered)
    best = all_scores.argsort(descending=True, stable=True)[: config.detections_per_image]
    return boxes[all_rows[best]], all_scores[best], labels[all_rows[best]]
