"""The ops over growing inputs, with the growth that the header comment of each kernel predicts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from benchmarks import box_iou, generate_proposals, inputs, match_anchors, nms, rois
from benchmarks import roi_align as align
from benchmarks import roi_pool as pool
from benchmarks import soft_nms as soft
from benchmarks.scenes import anchor_grid, random_objects
from fastrpn import ops

SIZES = [d * 10**e for e in range(8) for d in (1, 3)]
CACHES = "boxes, scores and their order outgrow the caches between 100,000 and 1,000,000 boxes"
FRESH = "an output of some megabytes is fresh memory, and each first touch of a page costs"
FIXED = "small calls cost what the map costs, which the number of RoIs does not change"
TILES = (
    "what is packed once for a tile of RoIs is shared by more of them, "
    "and large outputs are fresh memory, whose first touch costs"
)


@dataclass
class Scan:
    """One op over growing inputs.

    Attributes:
        title: op and input.
        xlabel: what grows.
        sizes: of the inputs.
        candidates: size -> the libraries' functions; "fastrpn" first.
        equal: whether two results agree; asserted against torchvision where it takes part.
        predicted: exponent of our growth, by the kernel's header comment.
        why: what makes the measured one differ.
    """

    title: str
    xlabel: str
    sizes: list[int]
    candidates: Callable[[int], dict[str, Callable]]
    equal: Callable[[object, object], bool] | None
    predicted: float = 1.0
    why: str = ""


@lru_cache(maxsize=8)
def boxes_of(make: Callable, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and scores; the regimes come back to them at every threshold."""
    return make(n)


def nms_candidates(make: Callable, threshold: float, n: int) -> dict[str, Callable]:
    return nms.candidates(*boxes_of(make, n), threshold)


def batched_candidates(n: int) -> dict[str, Callable]:
    return nms.batched_candidates(*inputs.dense_boxes(n), nms.random_labels(n, 80))


def padded_candidates(n: int) -> dict[str, Callable]:
    boxes, scores = boxes_of(inputs.rpn_boxes, n)
    return {
        "fastrpn": lambda: ops.nms_padded(boxes[None], scores[None], 0.7, 300),
        "fastrpn nms": lambda: ops.nms(boxes, scores, 0.7),
    }


def iou_candidates(n: int) -> dict[str, Callable]:
    return box_iou.candidates(random_objects(n, 800, seed=0), random_objects(100, 800, seed=1))


def match_candidates(n: int) -> dict[str, Callable]:
    side = int((n / 3) ** 0.5) + 1
    anchors, gt_boxes = anchor_grid(side, side, 4, [32])[:n], random_objects(100, 4 * side, seed=1)
    return match_anchors.candidates(anchors.contiguous(), gt_boxes)


def proposal_candidates(n: int) -> dict[str, Callable]:
    side = int((n / 9) ** 0.5) + 1
    level = (side, side, 16, [128, 256, 512])
    return generate_proposals.candidates([level], 1, 1_000, 300, (16 * side, 16 * side))


def roi_candidates(make: Callable, module, n: int) -> dict[str, Callable]:
    return make(n, module.ours, module.theirs)


def pyramid_candidates(n: int) -> dict[str, Callable]:
    return align.pyramid_candidates(n, 7, channels_last=False)


def nms_scans(sizes: list[int]) -> list[Scan]:
    """nms from boxes of a region proposal network to copies of one box."""
    works = [(inputs.rpn_boxes, 0.7), (inputs.dense_boxes, 0.5), (inputs.copies_of_one_box, 0.5)]
    return [
        Scan(
            f"nms, {nms.name_of(make)} @{threshold}",
            "boxes",
            sizes,
            partial(nms_candidates, make, threshold),
            nms.same_kept,
            why=CACHES,
        )
        for make, threshold in works
    ]


def other_scans(largest: int) -> list[Scan]:
    """All other ops."""
    boxes = up_to(largest)
    counts = [1, *up_to(min(largest, 3_000))]
    backward = up_to(min(largest, 1_000))
    forward_of = partial(partial, roi_candidates, rois.forward_candidates)
    backward_of = partial(partial, roi_candidates, rois.backward_candidates)
    close, close_gradient = (partial(align.close, tolerance) for tolerance in (1e-5, 1e-4))
    scans = [
        Scan("batched_nms, dense, 80 classes @0.5", "boxes", boxes,
             batched_candidates, nms.same_set, why=CACHES),
        Scan("nms_padded, rpn @0.7, first 300", "boxes", boxes, padded_candidates, None,
             why="suppression ends with the 300th box; what grows is the sort, beyond the caches"),
        Scan("soft_nms, dense, linear", "boxes", boxes,
             partial(soft.candidates, method="linear"), None, predicted=2.0,
             why="n x kept is a bound: a box is brought up to date only near the top of the heap"),
        Scan("box_iou, n x 100", "n", up_to(min(largest, 300_000)), iou_candidates, box_iou.equal,
             why=FRESH),
        Scan("match_anchors, n x 100", "anchors", up_to(10 * largest), match_candidates,
             torch.equal, why="blocks of anchors that meet no ground truth cost next to nothing"),
        Scan("generate_proposals, n -> 1,000 -> 300", "anchors", [n for n in boxes if n >= 1_000],
             proposal_candidates, generate_proposals.equal,
             why="1,000 boxes are decoded and suppressed whatever n is; only the selection grows"),
        Scan("roi_pool, 512 x 38 x 50", "RoIs", counts, forward_of(pool), torch.equal, why=TILES),
        Scan("roi_align, 512 x 38 x 50", "RoIs", counts, forward_of(align), close, why=TILES),
        Scan("MultiScaleRoIAlign, four levels", "RoIs", counts, pyramid_candidates, close,
             why=TILES),
        Scan("roi_pool with backward", "RoIs", backward, backward_of(pool), torch.equal,
             why=FIXED),
        Scan("roi_align with backward", "RoIs", backward, backward_of(align), close_gradient,
             why=FIXED),
    ]  # fmt: skip
    return [scan for scan in scans if scan.sizes]


def up_to(largest: int) -> list[int]:
    return [n for n in SIZES if 10 <= n <= largest]
