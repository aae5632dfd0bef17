"""match_anchors against torchvision's box_iou and Matcher, which build the whole matrix."""

import torch
import torchvision
from torchvision.models.detection._utils import Matcher

from benchmarks.scenes import C5_LEVEL, FPN_LEVELS, anchor_grid, random_objects
from benchmarks.timing import Measurement, extra_megabytes, measure
from fastrpn import ops

HIGH, LOW = 0.7, 0.3
LARGEST_MATRIX = 50_000_000  # pairs that torchvision is asked for: it needs 60 bytes for each


def run(quick: bool = False) -> list[Measurement]:
    """A C5 grid, a pyramid, and a million anchors in grid order and shuffled."""
    million = anchor_grid(578, 577, 4, [32])[:1_000_000]
    shuffled = million[torch.randperm(len(million), generator=torch.Generator().manual_seed(0))]
    pyramid = torch.cat([anchor_grid(*level) for level in FPN_LEVELS])
    cases = [
        ("C5 grid", anchor_grid(*C5_LEVEL[0]), 10, 800),
        ("pyramid", pyramid, 20, 800),
        ("1,000,000 anchors", million, 1_000, 2_300),
        ("1,000,000 anchors, shuffled", shuffled.contiguous(), 1_000, 2_300),
    ]
    return [measure_case(*case, quick) for case in (cases[:3] if quick else cases)]


def measure_case(
    name: str, anchors: torch.Tensor, num_gt: int, extent: float, quick: bool
) -> Measurement:
    """One row; notes how much memory our op needs beside its arguments."""
    gt_boxes = random_objects(num_gt, extent, seed=1)
    counts = torch.tensor([num_gt])

    def ours() -> torch.Tensor:
        return ops.match_anchors(anchors, gt_boxes[None], counts, high=HIGH, low=LOW)[0][0]

    memory = extra_megabytes(ours)
    candidates = {"fastrpn": ours}
    if len(anchors) * num_gt <= LARGEST_MATRIX:
        matcher = Matcher(HIGH, LOW, allow_low_quality_matches=True)
        # A ground truth that meets no anchor claims all of them in torchvision: leave those out.
        met = torchvision.ops.box_iou(gt_boxes, anchors).amax(dim=1) > 0
        gt_boxes, counts = gt_boxes[met], met.sum()[None]
        candidates["torchvision"] = lambda: matcher(torchvision.ops.box_iou(gt_boxes, anchors))
    row = measure(
        "match_anchors",
        f"{name}: {len(anchors):,} x {num_gt:,}",
        len(anchors) * num_gt,
        candidates,
        equal=torch.equal,
        seconds=0.5 if quick else 3.0,
        min_runs=3 if quick else 5,
    )
    row.notes["extra MB"] = memory
    return row
