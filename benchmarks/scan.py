"""How cost grows, and where the gain is smallest: `python -m benchmarks.scan [--quick]`.

Growth: every op from small to large inputs, with the slope of its line on log-log axes. A library
leaves a scan when its next run would take longer than `LONGEST` seconds.

Regimes: nms over number of boxes, IoU threshold, threads, and from boxes that hardly meet to copies
of one box, against torchvision, result for result. Every regime that is slower is printed.

Writes scan.json and the plots; about ten minutes on two quiet cores, `--quick` one.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from rich.console import Console

from benchmarks import inputs, nms, roi_align, roi_pool, soft_nms
from benchmarks.environment import environment
from benchmarks.plots import draw_scan
from benchmarks.rois import feature_map, rpn_like_rois
from benchmarks.scenes import anchor_grid, random_objects
from benchmarks.timing import Measurement, measure
from fastrpn import ops

LONGEST = {"torchvision": 10.0}
LONGEST_OTHERS = 3.0
SIZES = [d * 10**e for e in range(1, 6) for d in (1, 3)] + [1_000_000]
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
REGIMES = [
    inputs.sparse_boxes,
    inputs.rpn_boxes,
    inputs.dense_boxes,
    inputs.clustered_boxes,
    inputs.copies_of_one_box,
]


@dataclass
class Scan:
    """One op over growing inputs.

    Attributes:
        title: op and input.
        xlabel: what grows.
        sizes: of the inputs.
        candidates: size -> the libraries' functions; "fastrpn" first.
        equal: whether two results agree; asserted against torchvision where it takes part.
    """

    title: str
    xlabel: str
    sizes: list[int]
    candidates: Callable[[int], dict[str, Callable]]
    equal: Callable[[object, object], bool] | None


def nms_candidates(make: Callable, threshold: float, n: int) -> dict[str, Callable]:
    return nms.candidates(*make(n), threshold)


def batched_candidates(n: int) -> dict[str, Callable]:
    boxes, scores = inputs.dense_boxes(n)
    labels = torch.randint(80, (n,), generator=torch.Generator().manual_seed(0))
    return {
        "fastrpn": lambda: ops.batched_nms(boxes, scores, labels, 0.5),
        "torchvision": lambda: torchvision.ops.batched_nms(boxes, scores, labels, 0.5),
    }


def iou_candidates(n: int) -> dict[str, Callable]:
    a, b = random_objects(n, 800, seed=0), random_objects(100, 800, seed=1)
    return {
        "fastrpn": lambda: ops.box_iou(a, b),
        "torchvision": lambda: torchvision.ops.box_iou(a, b),
        "fill": lambda: torch.empty(n, 100).fill_(0.5),
    }


def match_candidates(n: int) -> dict[str, Callable]:
    side = math.ceil((n / 3) ** 0.5)
    anchors, gt_boxes = anchor_grid(side, side, 4, [32])[:n], random_objects(100, 4 * side, seed=1)
    matcher = torchvision.models.detection._utils.Matcher(0.7, 0.3, allow_low_quality_matches=False)
    match = partial(ops.match_anchors, high=0.7, low=0.3, allow_low_quality=False)
    return {
        "fastrpn": lambda: match(anchors, gt_boxes[None], torch.tensor([100]))[0][0],
        "torchvision": lambda: matcher(torchvision.ops.box_iou(gt_boxes, anchors)),
    }


def roi_candidates(module, n: int) -> dict[str, Callable]:
    features, rois = feature_map(), rpn_like_rois(n)
    return {
        "fastrpn": lambda: module.ours(features, rois),
        "torchvision": lambda: module.theirs(features, rois),
    }


def scans(largest: int) -> list[Scan]:
    """All scans, up to `largest` boxes."""
    sizes = [n for n in SIZES if n <= largest]
    rois = [n for n in (1, *SIZES) if n <= min(largest, 3_000)]
    pairs = [n for n in SIZES if n <= min(largest, 300_000)]
    return [
        Scan("nms, RPN-like @0.7", "boxes", sizes,
             partial(nms_candidates, inputs.rpn_boxes, 0.7), nms.same_kept),
        Scan("nms, dense @0.5", "boxes", sizes,
             partial(nms_candidates, inputs.dense_boxes, 0.5), nms.same_kept),
        Scan("nms, copies of one box @0.5", "boxes", sizes,
             partial(nms_candidates, inputs.copies_of_one_box, 0.5), nms.same_kept),
        Scan("batched_nms, dense, 80 classes @0.5", "boxes", sizes,
             batched_candidates, nms.same_set),
        Scan("soft_nms, dense, linear", "boxes", sizes,
             partial(soft_nms.candidates, method="linear"), None),
        Scan("box_iou, n x 100", "n", pairs, iou_candidates, torch.equal),
        Scan("match_anchors, n x 100", "anchors", pairs, match_candidates, torch.equal),
        Scan("roi_pool, 512 x 38 x 50", "RoIs", rois,
             partial(roi_candidates, roi_pool), torch.equal),
        Scan("roi_align, 512 x 38 x 50", "RoIs", rois,
             partial(roi_candidates, roi_align), partial(roi_align.close, 1e-5)),
    ]  # fmt: skip


def predicted_seconds(points: list[tuple[int, float]], size: int) -> float:
    """The next run, from the last two: (size, milliseconds) pairs."""
    (n, last) = points[-1]
    exponent = 2.0
    if len(points) > 1:
        exponent = math.log(last / points[-2][1]) / math.log(n / points[-2][0])
    return last / 1e3 * (size / n) ** min(max(exponent, 1.0), 2.5)


def fitted_slope(points: list[tuple[int, float]]) -> float | None:
    """Exponent of the growth over the upper end: up to four points, those above 0.1 ms."""
    upper = [(n, t) for n, t in points if t > 0.1][-4:]
    if len(upper) < 2:
        return None
    x, y = np.log(np.array(upper)).T
    return round(float(np.polyfit(x, y, 1)[0]), 2)


def run_scan(scan: Scan, seconds: float) -> dict[str, object]:
    """Times by library, `[[size, milliseconds], ...]`, and slopes.

    Boxes that OpenCV and others keep are not compared here: benchmarks/nms.py and soft_nms.py do.
    """
    lines: dict[str, list[tuple[int, float]]] = {}
    gone: set[str] = set()
    for size in scan.sizes:
        found = scan.candidates(size)
        gone |= {
            name
            for name in set(lines) - gone
            if predicted_seconds(lines[name], size) > LONGEST.get(name, LONGEST_OTHERS)
        }
        if "fastrpn" in gone:
            break
        found = {name: run for name, run in found.items() if name not in gone}
        row = measure(
            scan.title, f"{size:,}", size, found,
            equal=scan.equal if "torchvision" in found else None, same_as="torchvision",
            seconds=seconds, min_runs=3, repeat_below=1.0,
        )  # fmt: skip
        for name, milliseconds in row.milliseconds.items():
            lines.setdefault(name, []).append((size, milliseconds))
    return {
        "title": scan.title,
        "xlabel": scan.xlabel,
        "milliseconds": lines,
        "slopes": {name: fitted_slope(points) for name, points in lines.items()},
    }


def regimes(
    sizes: tuple[int, ...], thresholds: tuple[float, ...], seconds: float
) -> Iterator[Measurement]:
    """nms in every regime, with one thread and with two."""
    usual = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for make in REGIMES:
            for n in sizes:
                boxes, scores = make(n)
                for threshold in thresholds:
                    row = measure(
                        "nms",
                        f"{nms.name_of(make)} {n:,} @{threshold}, threads: {threads}",
                        n,
                        {
                            "fastrpn": partial(ops.nms, boxes, scores, threshold),
                            "torchvision": partial(torchvision.ops.nms, boxes, scores, threshold),
                        },
                        equal=torch.equal,
                        seconds=seconds,
                        min_runs=3,
                        repeat_below=1.0,
                    )
                    row.notes |= {
                        "regime": nms.name_of(make), "threshold": threshold, "threads": threads,
                    }  # fmt: skip
                    yield row
    torch.set_num_threads(usual)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small inputs, about a minute")
    parser.add_argument("--largest", type=int, default=1_000_000, help="most boxes of a scan")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/latest"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    largest = min(options.largest, 3_000) if options.quick else options.largest
    seconds = 0.05 if options.quick else 0.5

    console = Console()
    growth = []
    for scan in scans(largest):
        growth.append(run_scan(scan, seconds))
        slopes = ", ".join(f"{k} {v}" for k, v in growth[-1]["slopes"].items() if v is not None)
        console.print(f"{scan.title}: slopes {slopes}")
    sizes = tuple(n for n in (10, 100, 1_000, 10_000) if n <= largest)
    rows = list(regimes(sizes, THRESHOLDS, 0.4 * seconds))
    slower = [f"{row.work}: {row.speedup():.2f}x" for row in rows if row.speedup() < 1]
    console.print(f"{len(rows)} regimes; slower than torchvision: {slower or 'none'}")
    console.print("smallest gain:", min(rows, key=Measurement.speedup).work)

    results = environment() | {
        "growth": growth,
        "regimes": [row.as_dict() for row in rows],
        "slower than torchvision": slower,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "scan.json"
    path.write_text(json.dumps(results, indent=1))
    for written in [path, *draw_scan(path)]:
        console.print(f"wrote {written}")


if __name__ == "__main__":
    main()
