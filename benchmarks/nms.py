"""nms, batched_nms and nms_padded against torchvision, lsnms and OpenCV."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from benchmarks import inputs
from benchmarks.timing import Measurement, measure
from fastrpn import ops

TORCHVISION_PAIRS = 2e9  # quadratic: about ten seconds

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
REGIMES = [
    inputs.sparse_boxes,
    inputs.rpn_boxes,
    inputs.dense_boxes,
    inputs.clustered_boxes,
    inputs.copies_of_one_box,
]


def same_kept(ours: object, theirs: object) -> bool:
    """The same indices in the same order."""
    return np.array_equal(np.asarray(ours), np.asarray(theirs).reshape(-1))


def name_of(make: Callable) -> str:
    return make.__name__.removesuffix("_boxes").replace("_", " ")


def peers(boxes: Tensor, scores: Tensor, threshold: float) -> dict[str, Callable[[], object]]:
    """The same NMS by every library that is installed and takes less than about ten seconds."""
    found: dict[str, Callable[[], object]] = {}
    if len(boxes) ** 2 <= TORCHVISION_PAIRS:
        found["torchvision"] = lambda: torchvision.ops.nms(boxes, scores, threshold)
    try:
        from lsnms import nms as lsnms_nms

        arrays = boxes.double().numpy(), scores.double().numpy()
        found["lsnms"] = lambda: lsnms_nms(*arrays, iou_threshold=threshold)
    except ImportError:
        pass
    try:
        from cv2.dnn import NMSBoxes

        xywh = torchvision.ops.box_convert(boxes, "xyxy", "xywh").double().numpy()
        confidences = scores.numpy()
        if len(boxes) <= 20_000:
            found["opencv"] = lambda: NMSBoxes(xywh, confidences, 0.0, threshold)
    except ImportError:
        pass
    return found


def plain_row(make: Callable, n: int, threshold: float, seconds: float) -> Measurement:
    """nms on one input. lsnms and OpenCV round IoUs in their own way: torchvision is the check."""
    boxes, scores = make(n)
    candidates = {"fastrpn": lambda: ops.nms(boxes, scores, threshold)}
    candidates |= peers(boxes, scores, threshold)
    row = measure(
        "nms",
        f"{n:,} {name_of(make)} @{threshold}",
        n,
        candidates,
        equal=same_kept if "torchvision" in candidates else None,
        same_as="torchvision",
        seconds=seconds,
        min_runs=3,
    )
    row.notes["kept"] = len(candidates["fastrpn"]())
    return row


def add_one_torchvision_run(row: Measurement, n: int) -> None:
    """For the dense row that is too slow to repeat."""
    boxes, scores = inputs.dense_boxes(n)
    start = time.perf_counter()
    kept = torchvision.ops.nms(boxes, scores, 0.5)
    row.milliseconds["torchvision"] = 1e3 * (time.perf_counter() - start)
    assert same_kept(ops.nms(boxes, scores, 0.5), kept)
    row.notes["torchvision"] = "one run"


def extra_megabytes(run: Callable[[], object]) -> float:
    """How far the peak memory of this process rises above what it holds now."""

    def status(field: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.split(f"{field}:")[1].split()[0])

    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed is not there to be used again
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    run()
    return round((status("VmHWM") - before) / 1024, 1)


def padded_rows(seconds: float) -> list[Measurement]:
    """The gain of stopping early, over all of our own nms."""
    boxes, scores = inputs.rpn_boxes(12_000)
    rows = []
    for max_output in (300, 2_000):
        rows.append(
            measure(
                "nms_padded",
                f"12,000 rpn @0.7, first {max_output:,}",
                max_output,
                {
                    "fastrpn": lambda k=max_output: ops.nms_padded(
                        boxes[None], scores[None], 0.7, k
                    )[0][0],
                    "fastrpn nms": lambda k=max_output: ops.nms(boxes, scores, 0.7)[:k],
                },
                equal=lambda ours, theirs: same_kept(ours[ours >= 0], theirs),
                seconds=seconds,
            )
        )
    return rows


def batched_row(seconds: float) -> Measurement:
    boxes, scores = inputs.rpn_boxes(8_000)
    labels = torch.randint(0, 80, (8_000,), generator=torch.Generator().manual_seed(0))
    return measure(
        "batched_nms",
        "8,000 rpn, 80 classes @0.5",
        8_000,
        {
            "fastrpn": lambda: ops.batched_nms(boxes, scores, labels, 0.5),
            "torchvision": lambda: torchvision.ops.batched_nms(boxes, scores, labels, 0.5),
        },
        # torchvision's last sort is not stable: ties come in any order.
        equal=lambda ours, theirs: torch.equal(ours.sort().values, theirs.sort().values),
        seconds=seconds,
    )


def run(quick: bool = False) -> list[Measurement]:
    """The table; without `quick` also every regime at thresholds from 0.1 to 0.9."""
    seconds = 0.5 if quick else 3.0
    rows = []
    for make, n, threshold in ROWS:
        if quick and n > 20_000:
            continue
        row = plain_row(make, n, threshold, seconds)
        if n == 100_000:
            add_one_torchvision_run(row, n)
        if n == 1_000_000:
            boxes, scores = make(n)
            row.notes["extra MB"] = extra_megabytes(
                lambda b=boxes, s=scores, t=threshold: ops.nms(b, s, t)
            )
        rows.append(row)
    rows += padded_rows(seconds)
    rows.append(batched_row(seconds))
    for make in REGIMES:
        for n in (100, 3_000) if quick else (100, 1_000, 10_000):
            for threshold in (0.5,) if quick else (0.1, 0.3, 0.5, 0.7, 0.9):
                rows.append(plain_row(make, n, threshold, 0.2 * seconds))
    return rows
