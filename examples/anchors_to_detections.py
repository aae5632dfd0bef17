"""From anchors to detections: how Faster R-CNN works, step by step, on one photograph.

    python examples/anchors_to_detections.py --output story

Each function is a step: it computes with the package's own code, prints what it found and draws a
picture. The photograph is scikit-image's cup of coffee (Rachel Michetti, CC0), fetched from PyPI;
its three boxes were drawn by hand. docs/story.md tells the same in words.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from fastrpn import drawing, ops
from fastrpn.analysis import report_receptive_field
from fastrpn.analysis.plots import plot_receptive_field
from fastrpn.demo.packages import fetch
from fastrpn.drawing.canvas import PALETTE, draw_box, tile, with_caption
from fastrpn.evaluation.report import draw_model_proposals
from fastrpn.images import image_to_tensor, read_image, write_image
from fastrpn.models import FasterRCNN, faster_rcnn
from fastrpn.models.anchors import AnchorGenerator

HEIGHT, WIDTH = 600, 800
CLASSES = ["__background__", "cup", "saucer", "spoon"]
OBJECTS = torch.tensor([[208.0, 26, 562, 464], [64, 96, 668, 582], [438, 100, 588, 490]])
TARGET = {"boxes": OBJECTS, "labels": torch.tensor([1, 2, 3])}


def photograph(folder: Path) -> np.ndarray:
    """The photograph, uint8 [600, 800, 3] RGB."""
    packages = fetch("scikit-image", ["skimage/data/coffee.png"], folder / "packages")
    image = read_image(packages / "skimage" / "data" / "coffee.png")
    large = cv2.resize(image, (900, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[:, 50:850])


def anchors_of_a_position(output: Path) -> Tensor:
    """Nine boxes: three areas, three ratios. Returns them [9, 4], around (320, 320)."""
    generator = AnchorGenerator([(128, 256, 512)], (0.5, 1.0, 2.0), [16])
    centred = generator.cells[0] - 8 + 320  # the generator's first position is (8, 8)
    write_image(output / "1-anchors.png", drawing.draw_anchors(centred, (HEIGHT, WIDTH)))
    print(f"1. {len(centred)} anchors at (320, 320); the first is {centred[0].round().tolist()}")
    return centred


def anchors_of_the_image(model: FasterRCNN) -> tuple[Tensor, tuple[int, int]]:
    """The same nine at every position of the feature map. Returns all [17901, 4] and the grid."""
    (features,) = model.features(torch.zeros(1, 3, HEIGHT, WIDTH))
    rows, columns = features.shape[-2:]
    anchors = model.rpn.anchors([(rows, columns)])
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= torch.tensor([WIDTH, HEIGHT])).all(1)
    print(
        f"2. a map of {rows} x {columns} = {rows * columns:,} positions, {len(anchors):,} anchors, "
        f"{int(inside.sum()):,} of them inside the image"
    )
    return anchors, (rows, columns)


def labels_of_anchors(image: np.ndarray, anchors: Tensor, output: Path) -> Tensor:
    """Which anchors are to say "object" (section 3.1.2 of the paper). Returns labels [17901]:
    the object's number, -1 for background, -2 for neither."""
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= torch.tensor([WIDTH, HEIGHT])).all(1)
    matches, _ = ops.match_anchors(
        anchors, OBJECTS[None], torch.tensor([3]), high=0.7, low=0.3, valid=inside[None]
    )
    labels = matches[0]
    counts = [int((labels == value).sum()) for value in (-1, -2)]
    of_objects = [int((labels == number).sum()) for number in range(3)]
    print(
        f"3. anchors of an IoU of 0.7 with an object, or its best: {of_objects} for "
        f"{CLASSES[1:]}; background, below 0.3: {counts[0]:,}; neither: {counts[1]:,}"
    )
    picture = drawing.draw_target(image, TARGET, CLASSES)
    for number in range(3):
        for box in anchors[labels == number]:
            draw_box(picture, box.tolist(), PALETTE[number], thickness=1)
    write_image(output / "2-positive_anchors.jpg", picture)
    return labels


def outputs_of_the_rpn(model: FasterRCNN, image: Tensor) -> None:
    """What the two 1x1 convolutions of the RPN hold for each position."""
    head = model.rpn.head
    batch = model.prepare([image])
    output = model.predict_rpn(batch)
    print(
        f"4. the classifier has {head.cls_logits.out_channels} channels, a logit for each of 9 "
        "anchors (the paper's 18 are two logits each, for object and background: their difference "
        f"is the same); the regressor {head.bbox_pred.out_channels}, 9 anchors x 4 deltas "
        f"(x and y of the centre, logarithms of width and height); {output.objectness.shape[1]:,} "
        "anchors get both"
    )


def receptive_field(output: Path) -> None:
    """What a position sees, against the anchors that it has to judge."""
    report = report_receptive_field("zf")
    plot_receptive_field(report, output / "3-receptive_field.png")
    (field,) = report.rpn
    uncovered = [anchor for anchor in report.anchors if not anchor.covered]
    print(
        f"5. behind the RPN's 3x3 a position of ZF sees {field.size[1]:g} x {field.size[0]:g} "
        f"pixels; {len(uncovered)} of {len(report.anchors)} anchors reach out of it"
    )


def train_the_rpn(model: FasterRCNN, image: Tensor, steps: int) -> list[float]:
    """Lets the RPN look at the photograph again and again: enough to see what it learns."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(steps):
        batch, ground_truth = model.prepare_training([image], [TARGET])
        _, parts = model.rpn(model.features(batch.images), batch, ground_truth)
        optimizer.zero_grad()
        loss = parts["loss_objectness"] + parts["loss_rpn_box_reg"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    if steps:
        print(f"6. the RPN's loss after {steps} looks: {losses[0]:.2f} -> {losses[-1]:.2f}")
    return losses


@torch.inference_mode()
def proposals(model: FasterRCNN, image: Tensor, output: Path) -> Tensor:
    """The best boxes before NMS and behind it. Returns those behind, in pixels [K, 4]."""
    model.config = model.config.override(rpn_pre_nms_top_n_test=300)
    write_image(output / "4-proposals.jpg", draw_model_proposals(model, image))
    batch = model.prepare([image])
    found = model.propose(batch)
    boxes = found.boxes[0, : int(found.counts[0])] * (HEIGHT / float(batch.sizes[0, 0]))
    best = ops.box_iou(OBJECTS, boxes).max(dim=1).values
    shown = ", ".join(f"{name} {iou:.2f}" for name, iou in zip(CLASSES[1:], best, strict=True))
    print(f"7. of the best 300 boxes NMS keeps {len(boxes)}; their best IoU: {shown}")
    return boxes


@torch.inference_mode()
def pool_a_region(model: FasterRCNN, image: Tensor, output: Path) -> Tensor:
    """RoI max-pooling of the spoon, bin by bin. Returns the pooled values [7, 7] of a channel."""
    (features,) = model.features(model.prepare([image]).images)
    channel = int(features[0].amax(dim=(1, 2)).argmax())
    plane = features[:, channel : channel + 1].contiguous()
    region = torch.cat([torch.zeros(1, 1), OBJECTS[2:]], dim=1)
    pooled = ops.roi_pool(plane, region, 7, spatial_scale=1 / 16)[0, 0]
    x1, y1, x2, y2 = (OBJECTS[2] / 16).round().int().tolist()
    cells = plane[0, 0, y1 : y2 + 1, x1 : x2 + 1]
    edges = [[int(np.floor(i * n / 7)) for i in range(7)] for n in cells.shape]
    ends = [[int(np.ceil((i + 1) * n / 7)) for i in range(7)] for n in cells.shape]
    by_hand = torch.stack(
        [
            torch.stack(
                [cells[edges[0][r] : ends[0][r], edges[1][c] : ends[1][c]].max() for c in range(7)]
            )
            for r in range(7)
        ]
    )
    assert torch.equal(pooled, by_hand)
    panels = [
        with_caption(_heat_map(cells), f"the spoon: {cells.shape[0]} x {cells.shape[1]} cells"),
        with_caption(_heat_map(pooled), "the greatest of each of 7 x 7 bins"),
    ]
    write_image(output / "5-roi_pooling.png", tile(panels, columns=2))
    print(
        f"8. the spoon covers {cells.shape[0]} x {cells.shape[1]} cells of the map; pooled they "
        "are 7 x 7, whatever the region's size"
    )
    return pooled


def _heat_map(values: Tensor, side: int = 420) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / max(high - low, 1e-12) * 255).byte().numpy()
    rows, columns = grey.shape
    large = cv2.resize(grey, (side * columns // max(rows, columns), side), interpolation=0)
    return cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("story"))
    parser.add_argument("--steps", type=int, default=150, help="looks of the RPN at the photograph")
    options = parser.parse_args()
    tell(photograph(options.output), options.output, options.steps)


def tell(picture: np.ndarray, output: Path, steps: int) -> None:
    """All steps, in order."""
    image = image_to_tensor(picture)
    torch.manual_seed(0)
    model = faster_rcnn("zf", len(CLASSES), min_size=HEIGHT).eval()
    anchors_of_a_position(output)
    anchors, _ = anchors_of_the_image(model)
    labels_of_anchors(picture, anchors, output)
    outputs_of_the_rpn(model, image)
    receptive_field(output)
    train_the_rpn(model, image, steps)
    proposals(model, image, output)
    pool_a_region(model, image, output)


if __name__ == "__main__":
    main()
