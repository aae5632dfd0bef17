"""box_iou against torchvision and powerboxes, and against the mere filling of a fresh output."""

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


def run(quick: bool = False) -> list[Measurement]:
    """One row for each size; "fill" writes a constant to a new tensor of the same size."""
    rows = []
    for n, m in SIZES[:-1] if quick else SIZES:
        boxes1, boxes2 = random_objects(n, 800, seed=0), random_objects(m, 800, seed=1)
        candidates = {
            "fastrpn": lambda a=boxes1, b=boxes2: ops.box_iou(a, b),
            "torchvision": lambda a=boxes1, b=boxes2: torchvision.ops.box_iou(a, b),
        }
        candidates |= powerboxes_candidate(boxes1, boxes2)
        options = {"seconds": 0.5 if quick else 3.0, "min_runs": 3 if quick else 5}
        row = measure("box_iou", f"{n:,} x {m:,}", n * m, candidates, equal=equal, **options)
        fill = measure(
            "box_iou",
            "fill",
            n * m,
            {
                "fastrpn": candidates["fastrpn"],
                "fill": lambda n=n, m=m: torch.empty(n, m).fill_(0.5),
            },
            equal=None,
            **options,
        )
        row.milliseconds["fill"] = fill.milliseconds["fill"]
        row.spread["fill"] = fill.spread["fill"]
        row.notes["share of fill speed"] = round(fill.speedup(over="fill"), 2)
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
