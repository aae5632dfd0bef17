"""How far each op is from the memory's speed: `python -m benchmarks.profile_cpu [--output FOLDER]`.

For every op at the size of its target, with one thread and with two: milliseconds, the bytes that
must be touched at least (every input and output once), the speed that makes of it, beside that of
copying as many bytes between buffers that are there already, and nanoseconds for a unit of work.
The calls take turns with that copy. Writes profile.json; about a minute on two quiet cores.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import generate_proposals, inputs, match_anchors, nms, rois
from benchmarks import roi_align as align
from benchmarks import roi_pool as pool
from benchmarks import soft_nms as soft
from benchmarks.box_iou import SIZES as IOU_SIZES
from benchmarks.environment import environment
from benchmarks.scenes import anchor_grid, random_objects
from benchmarks.tables import table
from benchmarks.timing import measure
from fastrpn import ops

THREADS = (1, 2)


@dataclass
class Case:
    """One op at one size.

    Attributes:
        op, work: what is computed.
        inputs: what it reads; whatever the call returns is what it writes.
        run: the call.
        unit: what `units` counts.
        units: how many; None: elements of the output.
    """

    op: str
    work: str
    inputs: list[Tensor]
    run: Callable[[], object]
    unit: str
    units: int | None = None


def nms_cases() -> Iterator[Case]:
    for make, n, threshold in nms.ROWS:
        boxes, scores = make(n)
        work = f"{n:,} {nms.name_of(make)} @{threshold}"
        run = lambda b=boxes, s=scores, t=threshold: ops.nms(b, s, t)  # noqa: E731
        yield Case("nms", work, [boxes, scores], run, "box", n)
    n, classes = nms.BATCHED[-1]
    (boxes, scores), labels = inputs.rpn_boxes(n), nms.random_labels(n, classes)
    run = nms.batched_candidates(boxes, scores, labels)["fastrpn"]
    work = f"{n:,} rpn, {classes} classes @0.5"
    yield Case("batched_nms", work, [boxes, scores, labels], run, "box", n)
    boxes, scores = inputs.rpn_boxes(nms.PADDED)
    for k in (300, 2_000):
        run = lambda k=k: ops.nms_padded(boxes[None], scores[None], 0.7, k)  # noqa: E731
        work = f"{nms.PADDED:,} rpn @0.7, first {k:,}"
        yield Case("nms_padded", work, [boxes, scores], run, "box", nms.PADDED)


def box_cases() -> Iterator[Case]:
    for n in soft.SIZES[-2:]:
        read = [torch.empty(n, 5)]
        run = soft.candidates(n, "linear")["fastrpn"]
        yield Case("soft_nms", f"{n:,} dense, linear", read, run, "box", n)
    for n, m in IOU_SIZES:
        a, b = random_objects(n, 800, seed=0), random_objects(m, 800, seed=1)
        run = lambda a=a, b=b: ops.box_iou(a, b)  # noqa: E731
        yield Case("box_iou", f"{n:,} x {m:,}", [a, b], run, "pair")
    side, objects = match_anchors.SIDE, match_anchors.OBJECTS
    anchors = anchor_grid(side, side, match_anchors.STRIDE, [32])
    gt_boxes = random_objects(objects, side * match_anchors.STRIDE, seed=1)
    shuffled = anchors[torch.randperm(len(anchors))].contiguous()
    for order, these in (("", anchors), (", shuffled", shuffled)):
        run = match_anchors.candidates(these, gt_boxes)["fastrpn"]
        work = f"{len(these):,} x {objects:,}{order}"
        yield Case("match_anchors", work, [these, gt_boxes], run, "pair", len(these) * objects)


def proposal_cases() -> Iterator[Case]:
    for name, levels, batch, before, after in generate_proposals.CASES:
        size = generate_proposals.IMAGE_SIZE
        run = generate_proposals.candidates(levels, batch, before, after, size)["fastrpn"]
        read = list(run.args[:1]) + [run.args[2]]  # of the deltas only the survivors' are read
        yield Case("generate_proposals", name, read, run, "anchor", run.args[0].numel())


def roi_cases() -> Iterator[Case]:
    for op, module in (("roi_pool", pool), ("roi_align", align)):
        for count in rois.COUNTS:
            run = rois.forward_candidates(count, module.ours, module.theirs)["fastrpn"]
            read = [rois.feature_map(), rois.rpn_like_rois(count)]
            yield Case(op, f"{count:,} RoIs, NCHW", read, run, "bin of a channel")
        count = rois.COUNTS[0]
        run = rois.backward_candidates(count, module.ours, module.theirs)["fastrpn"]
        output = rois.fresh_output(count)
        read = [rois.feature_map(), rois.rpn_like_rois(count), output, output]
        work = f"{count:,} RoIs, with backward, NCHW"
        yield Case(op, work, read, run, "bin of a channel", output.numel())
    count, bins = align.PYRAMIDS[0]
    maps = [torch.empty(256, align.IMAGE[0] // s, align.IMAGE[1] // s) for s in (4, 8, 16, 32)]
    run = align.pyramid_candidates(count, bins, channels_last=False)["fastrpn"]
    work = f"{count:,} RoIs, {bins} x {bins}, NCHW"
    yield Case("MultiScaleRoIAlign", work, maps, run, "bin of a channel")


def size_of(tensors: object) -> int:
    """Bytes of a tensor or a sequence of them."""
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(size_of(tensor) for tensor in tensors)


def profile(case: Case, seconds: float) -> list[dict[str, object]]:
    """A row for each number of threads."""
    output = case.run()
    touched = size_of(case.inputs) + size_of(output)
    units = case.units or output.numel()
    source = torch.ones(max(1, touched // 8))  # a copy reads half of the bytes, writes the other
    target = torch.ones_like(source)
    candidates = {"fastrpn": case.run, "copy": lambda: target.copy_(source)}
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        row = measure(case.op, case.work, units, candidates, equal=None, seconds=seconds)
        ms, copy_ms = row.milliseconds["fastrpn"], row.milliseconds["copy"]
        rows.append(
            {
                "op": case.op,
                "work": case.work,
                "threads": threads,
                "ms": ms,
                "spread": row.spread["fastrpn"],
                "megabytes": touched / 1e6,
                "GB/s": touched / ms / 1e6,
                "copy GB/s": touched / copy_ms / 1e6,
                "unit": case.unit,
                "ns a unit": 1e6 * ms / units,
            }
        )
    return rows


def table_of(rows: list[dict[str, object]]) -> str:
    header = ["op", "work", "threads", "ms", "MB", "GB/s", "copy GB/s", "share", "ns", "a"]
    lines = []
    for row in rows:
        numbers = (row[key] for key in ("ms", "megabytes", "GB/s", "copy GB/s"))
        share, ns = f"{row['GB/s'] / row['copy GB/s']:.1%}", f"{row['ns a unit']:.3g}"
        cells = [row["threads"], *(f"{number:.3g}" for number in numbers), share, ns]
        lines.append([row["op"], row["work"], *cells, row["unit"]])
    return table(header, lines, padded=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--only", help="ops, separated by commas")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/latest"))
    options = parser.parse_args(arguments)
    wanted = options.only.split(",") if options.only else None

    rows = []
    for cases in (nms_cases, box_cases, proposal_cases, roi_cases):
        for case in cases():
            if wanted is None or case.op in wanted:
                rows += profile(case, options.seconds)
    print(table_of(rows))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "profile.json"
    path.write_text(json.dumps(environment() | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
