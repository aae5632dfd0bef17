"""What is shown of an evaluation: a table, JSON, pictures of what a model finds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fastrpn import drawing
from fastrpn.data import LabelledImages
from fastrpn.files import write_atomically
from fastrpn.models import FasterRCNN
from fastrpn.ops import clip_boxes_to_image, decode_boxes

COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "voc_ap_11pt": "VOC 11-point",
    "voc_ap_area": "VOC area",
}
BELOW_THE_TABLE = {"AP_small": "small", "AP_medium": "medium", "AP_large": "large", "AR": "AR"}


def print_metrics(metrics: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what `evaluate` returned: a row for each class and one for all."""
    table = Table("class", "objects", *COLUMNS.values())
    for name, numbers in metrics["per_class"].items():
        table.add_row(name, str(numbers["num_objects"]), *map(_cell, _select(numbers)))
    table.add_section()
    table.add_row("all", "", *map(_cell, _select(metrics)))
    console = console or Console()
    console.print(table)
    numbers = (f"{title} {_cell(metrics[name])}" for name, title in BELOW_THE_TABLE.items())
    console.print("AP of all: " + ", ".join(numbers), highlight=False)
    losses = [name for name in metrics if name == "loss" or name.startswith("loss_")]
    if losses:
        parts = (f"{name} {metrics[name]:.4f}" for name in losses)
        console.print(", ".join(parts), highlight=False)


def summary(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers over all classes of what `evaluate` returned."""
    return {name: metrics[name] for name in (*COLUMNS, *BELOW_THE_TABLE)}


def write_json(path: str | Path, content: object) -> Path:
    """Writes JSON whole or not at all."""
    return write_atomically(path, json.dumps(content, indent=1).encode())


def _select(numbers: Mapping[str, Any]) -> list[float | None]:
    return [numbers[name] for name in COLUMNS]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@torch.inference_mode()
def draw_evaluation(
    model: FasterRCNN, dataset: LabelledImages, count: int
) -> dict[str, np.ndarray]:
    """Detections in the first images of a data set, and the proposals of the very first.

    Args:
        model: put into evaluation mode meanwhile.
        dataset: ``ds[i] -> (image [3, H, W], target)``, with ``classes``. Where targets hold
            "proposals", the model classifies these.
        count: images of detections, at least 1.

    Returns:
        "detections" and, of a model that makes its own, "proposals"; uint8 [H, W, 3] RGB.
    """
    device = next(model.parameters()).device
    samples = [dataset[i] for i in range(min(count, len(dataset)))]
    images, targets = zip(*samples, strict=True)
    was_training = model.training
    model.eval()
    try:
        given = [target["proposals"] for target in targets if "proposals" in target] or None
        detections = model([image.to(device) for image in images], proposals=given)
        sheet = drawing.contact_sheet(images, targets, detections, dataset.classes)
        if given:
            return {"detections": sheet}
        return {"detections": sheet, "proposals": draw_model_proposals(model, images[0])}
    finally:
        model.train(was_training)


@torch.inference_mode()
def draw_model_proposals(model: FasterRCNN, image: torch.Tensor) -> np.ndarray:
    """The RPN's best boxes before NMS, and what NMS leaves of them.

    Args:
        model: in evaluation mode.
        image: float [3, H, W] in 0..1.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    device = next(model.parameters()).device
    batch = model.prepare([image.to(device)])
    scale = image.shape[1] / float(batch.sizes[0, 0])
    output = model.predict_rpn(batch)
    count = min(model.config.rpn_pre_nms_top_n_test, len(output.anchors))
    logits, best = output.objectness[0].topk(count)
    before = decode_boxes(output.deltas[0, best], output.anchors[best])
    before = clip_boxes_to_image(before, tuple(batch.sizes[0].tolist()))
    after = model.rpn.propose(output, batch)
    kept = int(after.counts[0])
    return drawing.draw_proposals(
        image,
        before * scale,
        logits.sigmoid(),
        after.boxes[0, :kept] * scale,
        after.scores[0, :kept],
    )
