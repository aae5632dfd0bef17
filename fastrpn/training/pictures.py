"""Pictures of what a model finds: detections beside the ground truth, proposals around NMS."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from fastrpn import drawing
from fastrpn.models import FasterRCNN
from fastrpn.ops import clip_boxes_to_image, decode_boxes

__all__ = ["draw_evaluation", "draw_model_proposals"]


@torch.inference_mode()
def draw_evaluation(model: FasterRCNN, dataset: Dataset, count: int) -> dict[str, np.ndarray]:
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
