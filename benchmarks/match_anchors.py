"""match_anchors against torchvision's box_iou and Matcher, which build the whole matrix."""

from collections.abc import Callable
from functools import partial

import torch
import torchvision
from torchvision.models.detection._utils import Matcher

from benchmarks.scenes import C5_LEVEL, FPN_LEVELS, anchor_grid, random_objects
from benchmarks.timing import Measurement, extra_megabytes, measure
from fastrpn import ops

HIGH, LOW = 0.7, 0.3
LARGEST_MATRIX = 50_000_000  # pairs that torchvision is asked for: it needs 60 bytes for each


SIDE, STRIDE = 578, 4  # of a grid of a million anchors
OBJECTS = 1_000


def run(quick: bool = False) -> list[Measurement]:
    """A C5 grid, a pyramid, and a million anchors in grid order and shuffled."""
    million = anchor_grid(SIDE, SIDE - 1, STRIDE, [32])[:1_000_000]
    shuffled = million[torch.randperm(len(million), generator=torch.Generator().manual_seed(0))]
    pyramid = torch.cat([anchor_grid(*level) for level in FPN_LEVELS])
    cases = [
        ("C5 grid", anchor_grid(*C5_LEVEL[0]), 10, 800),
        ("pyramid", pyramid, 20, 800),
        ("1,000,000 anchors", million, OBJECTS, SIDE * STRIDE),
        ("1,000,000 anchors, shuffled", shuffled.contiguous(), OBJECTS, SIDE * STRIDE),
    ]
    return [measure_case(*case, quick) for case in (cases[:3] if quick else cases)]


def candidates(anchors: torch.Tensor, gt_boxes: torch.Tensor) -> dict[str, Callable]:
    """We, and torchvision where its matrix is not too large.

    A ground truth that meets no anchor claims all of them in torchvision: it is left out then.
    """
    with_torchvision = len(anchors) * len(gt_boxes) <= LARGEST_MATRIX
    if with_torchvision:
        gt_boxes = gt_boxes[torchvision.ops.box_iou(gt_boxes, anchors).amax(dim=1) > 0]
    counts = torch.tensor([len(gt_boxes)])
    match = partial(ops.match_anchors, high=HIGH, low=LOW)
    found = {"fastrpn": lambda: match(anchors, gt_boxes[None], counts)[0][0]}
    if with_torchvision:
        matcher = Matcher(HIGH, LOW, allow_low_quality_matches=True)
        found["torchvision"] = lambda: matcher(torchvision.ops.box_iou(gt_boxes, anchors))
    return found


def measure_case(
    name: str, anchors: torch.Tensor, num_gt: int, extent: float, quick: bool
) -> Measurement:
    """One row; notes how much memory our op needs beside its arguments."""
    found = candidates(anchors, random_objects(num_gt, extent, seed=1))
    memory = extra_megabytes(found["fastrpn"])
    row = measure(
        "match_anchors",
        f"{name}: {len(anchors):,} x {num_gt:,}",
        len(anchors) * num_gt,
        found,
        equal=torch.equal,
        seconds=0.5 if quick else 3.0,
        min_runs=3 if quick else 5,
    )
    row.notes["extra MB"] = memory
    return row
