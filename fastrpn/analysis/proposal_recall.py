"""Recall against the number of proposals (Faster R-CNN, section 4.1, "Analysis of recall-to-IoU";
Hosang et al., "What makes for effective detection proposals?", 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrpn.ops import box_iou

__all__ = ["PROPOSAL_COUNTS", "ProposalRecall", "proposal_recall"]

PROPOSAL_COUNTS = (10, 20, 50, 100, 200, 300, 500, 1000, 2000)


@dataclass(frozen=True)
class ProposalRecall:
    """The share of objects that at least one of the n best proposals of their image meets."""

    counts: tuple[int, ...]
    iou_thresholds: tuple[float, ...]
    recall: tuple[tuple[float, ...], ...]  # [thresholds][counts]
    objects: int
    proposals_per_image: float  # how many there are, on average

    def rows(self, method: str) -> list[dict[str, Any]]:
        """A table, one row a threshold."""
        return [
            {"proposals": method, "IoU": threshold}
            | {str(n): f"{share:.1%}" for n, share in zip(self.counts, shares, strict=True)}
            for threshold, shares in zip(self.iou_thresholds, self.recall, strict=True)
        ]


def proposal_recall(
    proposals: Sequence[Tensor],
    targets: Sequence[Mapping[str, Any]],
    counts: Sequence[int] = PROPOSAL_COUNTS,
    iou_thresholds: Sequence[float] = (0.5, 0.7),
) -> ProposalRecall:
    """Counts the objects that proposals meet; one proposal may meet several.

    Args:
        proposals: for each image boxes [K, 4] xyxy, best first; K may differ and be below a count,
            then all of them are taken.
        targets: for each image "boxes" [G, 4] in the same pixels and optionally "ignore" bool [G];
            objects to ignore do not count.
        counts: numbers of proposals, positive.
        iou_thresholds: a proposal meets an object with at least this IoU.

    Raises:
        ValueError: another number of proposals than of targets, counts that are not positive, or
            no object.
    """
    if len(proposals) != len(targets):
        raise ValueError(f"proposals has {len(proposals)} images, targets {len(targets)}")
    if not counts or min(counts) < 1:
        raise ValueError(f"counts must be positive, got {list(counts)}")
    best = [  # of each image: [len(counts), G], the best IoU among the first n
        _best_of_first(boxes, _boxes_that_count(target), counts)
        for boxes, target in zip(proposals, targets, strict=True)
    ]
    iou = torch.cat(best, dim=1)
    if iou.shape[1] == 0:
        raise ValueError("targets hold no object that counts")
    return ProposalRecall(
        counts=tuple(counts),
        iou_thresholds=tuple(iou_thresholds),
        recall=tuple(
            tuple((iou >= threshold).double().mean(dim=1).tolist()) for threshold in iou_thresholds
        ),
        objects=iou.shape[1],
        proposals_per_image=sum(map(len, proposals)) / len(proposals),
    )


def _best_of_first(boxes: Tensor, objects: Tensor, counts: Sequence[int]) -> Tensor:
    if len(boxes) == 0 or len(objects) == 0:
        return torch.zeros(len(counts), len(objects))
    so_far = box_iou(boxes.float(), objects).nan_to_num(0).cummax(dim=0).values  # [K, G]
    last = torch.tensor([min(count, len(boxes)) - 1 for count in counts])
    return so_far[last]


def _boxes_that_count(target: Mapping[str, Any]) -> Tensor:
    boxes = target["boxes"].float().reshape(-1, 4)
    return boxes[~target["ignore"].bool()] if "ignore" in target else boxes
