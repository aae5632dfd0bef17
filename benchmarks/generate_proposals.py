"""generate_proposals against the same stage of torchvision's region proposal network."""

from collections.abc import Callable
from functools import partial

import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RegionProposalNetwork

from benchmarks.scenes import C5_LEVEL, FPN_LEVELS, anchor_grid, head_outputs
from benchmarks.timing import Measurement, measure
from fastrpn import ops

CASES = [  # name, levels, images, before NMS, after NMS
    ("C5, test", C5_LEVEL, 1, 6000, 300),
    ("C5, training", C5_LEVEL, 1, 12000, 2000),
    ("pyramid, test", FPN_LEVELS, 2, 1000, 1000),
    ("pyramid, training", FPN_LEVELS, 2, 2000, 2000),
]
IMAGE_SIZE = (800, 1088)


def equal(ours: tuple, theirs: tuple) -> bool:
    """The same boxes, up to the order of equal scores, where torchvision's sort is not stable."""
    for b, wanted in enumerate(theirs[0]):
        mine = ours[0][b, : int(ours[2][b])]
        if len(mine) != len(wanted):
            return False
        mine, wanted = (boxes[boxes.sum(dim=1).argsort()] for boxes in (mine, wanted))
        if not torch.allclose(mine, wanted, atol=1e-2):
            return False
    return True


def candidates(
    levels: list[tuple], batch: int, before: int, after: int, image_size: tuple[int, int]
) -> dict[str, Callable]:
    """The whole stage, from the head's outputs to proposals."""
    grids = [anchor_grid(*level) for level in levels]
    anchors, sizes = torch.cat(grids), [len(grid) for grid in grids]
    objectness, deltas = head_outputs(anchors, batch, seed=0)
    ours = partial(
        ops.generate_proposals,
        objectness,
        deltas,
        anchors,
        torch.tensor([image_size] * batch),
        pre_nms_top_n=before,
        post_nms_top_n=after,
        nms_threshold=0.7,
        min_size=1e-3,
        anchors_per_level=sizes,
    )
    theirs = torchvision_stage(objectness, deltas, anchors, sizes, before, after, image_size)
    return {"fastrpn": ours, "torchvision": theirs}


def run(quick: bool = False) -> list[Measurement]:
    """One row for each case."""
    rows = []
    for name, levels, batch, before, after in CASES:
        count = sum(3 * height * width * len(sizes) for height, width, _, sizes in levels)
        rows.append(
            measure(
                "generate_proposals",
                f"{name}: {batch} x {count:,} -> {before:,} -> {after:,}",
                batch * count,
                candidates(levels, batch, before, after, IMAGE_SIZE),
                equal=equal,
                seconds=0.5 if quick else 3.0,
                min_runs=3 if quick else 5,
            )
        )
    return rows


def torchvision_stage(objectness, deltas, anchors, sizes, before, after, image_size=IMAGE_SIZE):
    """Decoding and `filter_proposals` as `RegionProposalNetwork.forward` calls them."""
    rpn = RegionProposalNetwork(
        None, None, 0.7, 0.3, 256, 0.5,
        pre_nms_top_n={"testing": before}, post_nms_top_n={"testing": after}, nms_thresh=0.7,
    ).eval()  # fmt: skip
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    batch = len(objectness)

    def stage():
        boxes = coder.decode(deltas.reshape(-1, 4), [anchors] * batch).view(batch, -1, 4)
        return rpn.filter_proposals(boxes, objectness, [image_size] * batch, sizes)

    return stage
