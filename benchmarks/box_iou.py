"""box_iou against torchvision and powerboxes, and against the mere filling of a fresh output."""

from collections.abc import Callable

import torch
import torchvision

from benchmarks.scenes import random_objects
from benchmarks.timing import Measurement, measure
from fastrpn import ops

SIZES = [(10, 10), (16_650, 20), (16_650, 100), (2_000, 2_000), (200_000, 200)]


def equal(ours: torch.Tensor, theirs: object) -> bool:
    """Bit for bit with torchvision; powerboxes gives 1 - IoU, in float64."""
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs)
    return bool(torch.allclose(ours.double(), 1 - torch.as_tensor(theirs), atol=1e-5))


def candidates(boxes1: torch.Tensor, boxes2: torch.Tensor) -> dict[str, Callable]:
    """We, torchvision, powerboxes; "fill" has torch write a constant to a fresh output."""
    shape = len(boxes1), len(boxes2)
    return {
        "fastrpn": lambda: ops.box_iou(boxes1, boxes2),
        "torchvision": lambda: torchvision.ops.box_iou(boxes1, boxes2),
        "fill": lambda: torch.empty(shape).fill_(0.5),
    } | powerboxes_candidate(boxes1, boxes2)


def run(quick: bool = False) -> list[Measurement]:
    """One row for each size."""
    rows = []
    for n, m in SIZES[:-1] if quick else SIZES:
        found = candidates(random_objects(n, 800, seed=0), random_objects(m, 800, seed=1))
        options = {"seconds": 0.5 if quick else 5.0, "min_runs": 3 if quick else 7}
        row = measure("box_iou", f"{n:,} x {m:,}", n * m, found, equal=equal, **options)
        row.notes["share of fill speed"] = round(row.speedup(over="fill"), 2)
        rows.append(row)
    return rows


def powerboxes_candidate(boxes1: torch.Tensor, boxes2: torch.Tensor) -> dict:
    """powerboxes, where it is installed."""
    try:
        import powerboxes
    except ImportError:
        return {}
    a, b = boxes1.numpy(), boxes2.numpy()
    return {"powerboxes": lambda: powerboxes.parallel_iou_distance(a, b)}
