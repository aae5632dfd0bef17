"""nms, batched_nms and nms_padded against torchvision, lsnms, powerboxes and OpenCV.

Everybody gets the same boxes and scores, ready in the type and layout it takes: float32, except
for float64 boxes (lsnms, OpenCV) and scores (lsnms, powerboxes). Results are asserted to equal
torchvision's; the notes say which other peers keep other boxes ("other results").
"""

from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch import Tensor

import fastrpn.numpy
from benchmarks import inputs
from benchmarks.timing import Measurement, extra_megabytes, measure
from fastrpn import ops

ROWS = [  # input, boxes, IoU threshold
    (inputs.rpn_boxes, 10, 0.7),
    (inputs.rpn_boxes, 300, 0.7),
    (inputs.rpn_boxes, 2_000, 0.7),
    (inputs.rpn_boxes, 6_000, 0.7),
    (inputs.rpn_boxes, 12_000, 0.7),
    (inputs.rpn_boxes, 50_000, 0.5),
    (inputs.dense_boxes, 20_000, 0.5),
    (inputs.dense_boxes, 100_000, 0.5),
    (inputs.dense_boxes, 1_000_000, 0.5),
]
PADDED = 12_000
BATCHED = [(10, 2), (8_000, 80)]  # boxes, classes
MOST_BOXES = {  # above these a run would take minutes
    "torchvision": 100_000,
    "powerboxes": 20_000,
    "powerboxes R-tree": 100_000,
    "opencv": 12_000,
}


def same_kept(ours: object, theirs: object) -> bool:
    """The same indices in the same order."""
    return np.array_equal(np.asarray(ours), np.asarray(theirs).reshape(-1))


def same_set(ours: object, theirs: object) -> bool:
    """The same boxes in any order: libraries break ties of scores in their own way."""
    return np.array_equal(np.sort(ours), np.sort(np.asarray(theirs).reshape(-1)))


def name_of(make: Callable) -> str:
    return make.__name__.removesuffix("_boxes").replace("_", " ")


def candidates(boxes: Tensor, scores: Tensor, threshold: float) -> dict[str, Callable]:
    """The same NMS by us and by every library that is installed."""
    found: dict[str, Callable[[], object]] = {
        "fastrpn": lambda: ops.nms(boxes, scores, threshold),
        "torchvision": lambda: torchvision.ops.nms(boxes, scores, threshold),
    }
    arrays = boxes.numpy(), scores.numpy()
    doubles = boxes.double().numpy(), scores.double().numpy()
    found["fastrpn.numpy"] = lambda: fastrpn.numpy.nms(*arrays, threshold)
    try:
        from lsnms import nms as lsnms_nms

        found["lsnms"] = lambda: lsnms_nms(*doubles, iou_threshold=threshold)
    except ImportError:
        pass
    try:
        import powerboxes

        mixed = arrays[0], doubles[1]  # it takes scores as float64 only
        found["powerboxes"] = lambda: powerboxes.nms(*mixed, threshold, 0.0)
        found["powerboxes R-tree"] = lambda: powerboxes.rtree_nms(*mixed, threshold, 0.0)
    except ImportError:
        pass
    try:
        from cv2.dnn import NMSBoxes

        xywh = torchvision.ops.box_convert(boxes, "xyxy", "xywh").double().numpy()
        found["opencv"] = lambda: NMSBoxes(xywh, arrays[1], 0.0, threshold)
    except ImportError:
        pass
    return found


def plain_row(make: Callable, n: int, threshold: float, seconds: float) -> Measurement:
    """nms on one input."""
    boxes, scores = make(n)
    found = candidates(boxes, scores, threshold)
    found = {name: run for name, run in found.items() if n <= MOST_BOXES.get(name, n)}
    row = measure(
        "nms",
        f"{n:,} {name_of(make)} @{threshold}",
        n,
        found,
        equal=same_kept,
        exact=("torchvision", "fastrpn.numpy"),
        alike=same_set,
        seconds=seconds,
        min_runs=3,
    )
    row.notes["kept"] = len(found["fastrpn"]())
    return row


def padded_rows(make: Callable, seconds: float) -> list[Measurement]:
    """The gain of stopping early over all of our own nms; it depends on how many that keeps.

    No other peer takes turns: what runs after torchvision finds cold caches.
    """
    boxes, scores = make(PADDED)
    rows = []
    for max_output in (300, 2_000):
        rows.append(
            measure(
                "nms_padded",
                f"{PADDED:,} {name_of(make)} @0.7, first {max_output:,}",
                max_output,
                {
                    "fastrpn": lambda k=max_output: ops.nms_padded(
                        boxes[None], scores[None], 0.7, k
                    )[0][0],
                    "fastrpn nms": lambda k=max_output: ops.nms(boxes, scores, 0.7)[:k],
                },
                equal=lambda ours, theirs: same_kept(ours[ours >= 0], theirs[theirs >= 0]),
                seconds=seconds,
            )
        )
        rows[-1].notes["kept by all of nms"] = len(ops.nms(boxes, scores, 0.7))
    return rows


def batched_candidates(boxes: Tensor, scores: Tensor, labels: Tensor) -> dict[str, Callable]:
    """NMS within each class at 0.5."""
    found: dict[str, Callable[[], object]] = {
        "fastrpn": lambda: ops.batched_nms(boxes, scores, labels, 0.5),
        "torchvision": lambda: torchvision.ops.batched_nms(boxes, scores, labels, 0.5),
    }
    try:
        from cv2.dnn import NMSBoxesBatched

        xywh = torchvision.ops.box_convert(boxes, "xyxy", "xywh").double().numpy()
        arrays = xywh, scores.numpy(), labels.int().numpy()
        found["opencv"] = lambda: NMSBoxesBatched(*arrays, 0.0, 0.5)
    except ImportError:
        pass
    return found


def random_labels(n: int, classes: int) -> Tensor:
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(0))


def batched_row(n: int, classes: int, seconds: float) -> Measurement:
    boxes, scores = inputs.rpn_boxes(n)
    return measure(
        "batched_nms",
        f"{n:,} rpn, {classes} classes @0.5",
        n,
        batched_candidates(boxes, scores, random_labels(n, classes)),
        equal=same_set,  # torchvision's last sort is not stable: ties come in any order
        exact=("torchvision",),
        alike=same_set,
        seconds=seconds,
    )


def run(quick: bool = False) -> list[Measurement]:
    """The table. Regimes, thresholds and threads are scanned by benchmarks/scan.py."""
    seconds = 0.5 if quick else 3.0
    rows = []
    for make, n, threshold in ROWS:
        if quick and n > 20_000:
            continue
        row = plain_row(make, n, threshold, seconds)
        if n == 1_000_000:
            boxes, scores = make(n)
            row.notes["extra MB"] = extra_megabytes(lambda b=boxes, s=scores: ops.nms(b, s, 0.5))
        rows.append(row)
    rows += padded_rows(inputs.rpn_boxes, seconds) + padded_rows(inputs.clustered_boxes, seconds)
    return rows + [batched_row(n, classes, seconds) for n, classes in BATCHED]
