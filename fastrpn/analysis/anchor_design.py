"""Anchors for one's own data: "a neat set of anchors may increase the speed as well as the
accuracy"."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrpn.analysis.anchor_recall import best_anchor_iou, greedy_order, recall
from fastrpn.analysis.dataset_boxes import dataset_boxes
from fastrpn.analysis.kmeans_anchors import kmeans_anchors
from fastrpn.models import AnchorGenerator, FasterRCNN, faster_rcnn
from fastrpn.models.anchors import extents

__all__ = ["AnchorDesign", "design_anchors"]


@dataclass(frozen=True)
class AnchorDesign:
    """Designed anchors beside a model's own, by recall.

    Recalls count the boxes that some anchor at some position of its grid meets with at least the
    threshold's IoU.
    """

    shapes: Tensor  # float32 [L, n, 2] (width, height): the designed anchors of each level
    default_shapes: Tensor  # float32 [A, 2] of the model's own anchors, all levels
    sizes: Tensor  # float32 [G, 2] of the boxes the anchors were designed on
    thresholds: tuple[float, ...]
    numbers: tuple[int, ...]  # of designed anchors that were tried
    designed: tuple[tuple[float, ...], ...]  # [thresholds][numbers] recall
    default: tuple[tuple[float, ...], ...]  # [thresholds][A] recall of the best 1, 2, ... A

    def needed(self, threshold: float) -> int | None:
        """The fewest designed anchors with the recall of all default ones; None: not reached."""
        which = self.thresholds.index(threshold)
        reached = zip(self.numbers, self.designed[which], strict=True)
        return next((n for n, recall in reached if recall >= self.default[which][-1]), None)

    def saved(self, threshold: float) -> int:
        """Default anchors minus designed anchors at equal recall, or 0."""
        needed = self.needed(threshold)
        return 0 if needed is None else max(0, len(self.default_shapes) - needed)

    @property
    def model_options(self) -> dict[str, Any]:
        """Makes a model use the designed anchors: ``faster_rcnn(name, C, **model_options)``."""
        shapes = self.shapes.double().mul(10).round().div(10).tolist()
        return {"anchor_shapes": tuple(tuple(tuple(s) for s in level) for level in shapes)}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A table of recalls; "best of default" chooses that many of the model's own anchors."""
        rows = []
        for i, number in enumerate(self.numbers):
            row: dict[str, Any] = {"anchors": number}
            for which, threshold in enumerate(self.thresholds):
                default = self.default[which]
                own = f"{default[number - 1]:.1%}" if number <= len(default) else ""
                row[f"designed, IoU {threshold:g}"] = f"{self.designed[which][i]:.1%}"
                row[f"best of default, IoU {threshold:g}"] = own
            rows.append(row)
        return rows


def design_anchors(
    dataset: Sized,
    k: int | None = None,
    *,
    model: FasterRCNN | str = "vgg16",
    validation: Sized | None = None,
    largest: int = 12,
    thresholds: Sequence[float] = (0.5, 0.7),
    inside_image: bool = False,
    seed: int = 0,
) -> AnchorDesign:
    """Designs anchors by k-means and compares them with the model's own.

    Args:
        dataset: the boxes to design on; (image, target) by index.
        k: anchors to return, over all feature levels; a multiple of the number of levels. None:
            as many as the model has. The smaller half of the areas belongs to the finer one of
            two levels, and so on.
        model: whose resizing, strides and anchors count, as a model or by name.
        validation: the boxes to count recall on; default: ``dataset`` itself.
        largest: the curve is computed for 1 to this many anchors (whole multiples of the levels).
        thresholds: IoUs at which an anchor meets a box; the RPN calls 0.7 positive.
        inside_image: count anchors inside the image only, the paper's rule in training.
        seed: of k-means.

    Raises:
        ValueError: k or largest do not suit the levels or the number of distinct boxes, or there
            is no box.
    """
    if isinstance(model, str):
        with torch.device("meta"):
            model = faster_rcnn(model, 2)
    config = model.config
    strides = tuple(config.of_rpn(model.rpn.strides))
    levels = len(strides)
    if k is not None and (k < 1 or k % levels):
        raise ValueError(f"k must be a positive multiple of the {levels} feature levels, got {k}")
    train = dataset_boxes(dataset, config)
    test = train if validation is None else dataset_boxes(validation, config)
    sizes = train.boxes[:, 2:] - train.boxes[:, :2]

    cells = AnchorGenerator.of(config, model.rpn.strides).cells
    own = extents(cells, config.anchor_convention)
    k = k or own.shape[0] * own.shape[1]
    numbers = tuple(range(levels, max(largest, k) + 1, levels))
    shapes = {
        number: torch.from_numpy(kmeans_anchors(sizes.numpy(), number, seed=seed))
        .float()
        .view(levels, -1, 2)
        for number in numbers
    }

    def meet(cells: Tensor) -> Tensor:
        return best_anchor_iou(*test, cells, strides, inside_image=inside_image)

    centres = (own[:, :1, :2] + own[:, :1, 2:]) / 2  # designed anchors stand where the own ones do
    ious = [meet(_on_centre(shapes[number], centres)) for number in numbers]
    own_iou = meet(own)
    return AnchorDesign(
        shapes=shapes[k],
        default_shapes=(own[..., 2:] - own[..., :2]).flatten(0, 1),
        sizes=sizes,
        thresholds=tuple(thresholds),
        numbers=numbers,
        designed=tuple(tuple(recall(iou, t) for iou in ious) for t in thresholds),
        default=tuple(_best_of(own_iou, t) for t in thresholds),
    )


def _on_centre(shapes: Tensor, centres: Tensor) -> Tensor:
    """Shapes [L, n, 2] and centres [L, 1, 2] -> xyxy [L, n, 4]."""
    return torch.cat([centres - shapes / 2, centres + shapes / 2], dim=2)


def _best_of(iou: Tensor, threshold: float) -> tuple[float, ...]:
    """Recall of the best 1, 2, ... of the anchors, chosen greedily."""
    order = greedy_order(iou, threshold)
    return tuple(recall(iou[:, order[:n]], threshold) for n in range(1, len(order) + 1))
