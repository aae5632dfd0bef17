"""How cost grows, and where the gain is smallest: `python -m benchmarks.scan [--quick]`.

Growth: every op from small to large inputs with two threads, with the slope of its line on log-log
axes. A library leaves a scan when its next run would take longer than `LONGEST` seconds.

Regimes: nms over number of boxes, IoU threshold, threads, and from boxes that hardly meet to copies
of one box; the other ops over size and threads. Results are compared with torchvision's, and every
regime that is slower is printed.

Writes scan.json and the plots; about fifteen minutes on two quiet cores, `--quick` one.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import inputs, nms
from benchmarks.environment import environment
from benchmarks.growth import Scan, nms_candidates, nms_scans, other_scans, up_to
from benchmarks.plots import draw_scan
from benchmarks.run_all import progress_bar
from benchmarks.timing import Measurement, measure

LONGEST = 10.0
REGIME_SIZES = (10, 100, 1_000, 10_000, 30_000, 100_000, 1_000_000)
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
REGIMES = [
    inputs.sparse_boxes,
    inputs.rpn_boxes,
    inputs.dense_boxes,
    inputs.clustered_boxes,
    inputs.copies_of_one_box,
]
RIVALS = {"fastrpn", "torchvision"}
FAST_PEERS = {"lsnms", "powerboxes R-tree"}  # these have one thread


def predicted_seconds(points: list[tuple[int, float]], size: int) -> float:
    """The next run, from the last two: (size, milliseconds) pairs."""
    (n, last) = points[-1]
    exponent = 2.0
    if len(points) > 1:
        exponent = math.log(last / points[-2][1]) / math.log(n / points[-2][0])
    return last / 1e3 * (size / n) ** min(max(exponent, 1.0), 2.5)


def fitted_slope(points: list[tuple[int, float]]) -> float | None:
    """Exponent of the growth over the upper end: up to five points, those above 0.1 ms.

    The median of the slopes between any two of them, which one outlier does not move; None where
    there are fewer than three.
    """
    upper = [(n, t) for n, t in points if t > 0.1][-5:]
    if len(upper) < 3:
        return None
    pairs = itertools.combinations(upper, 2)
    slopes = [math.log(t / s) / math.log(m / n) for (n, s), (m, t) in pairs]
    return round(float(np.median(slopes)), 2)


def rows_of(
    scan: Scan, seconds: float, threads: int, libraries: set[str] | None = None
) -> Iterator[Measurement]:
    """A row for each size, by all libraries or by these.

    Boxes that OpenCV and others keep are not compared here: benchmarks/nms.py and soft_nms.py do.
    """
    torch.set_num_threads(threads)
    lines: dict[str, list[tuple[int, float]]] = {}
    for size in scan.sizes:
        found = {
            name: run
            for name, run in scan.candidates(size).items()
            if (libraries is None or name in libraries)
            and (name not in lines or predicted_seconds(lines[name], size) <= LONGEST)
        }
        if "fastrpn" not in found:
            return
        row = measure(
            scan.title, f"{size:,}, threads: {threads}", size, found,
            equal=scan.equal, exact=("torchvision",),
            seconds=seconds, min_runs=3, repeat_below=1.0,
        )  # fmt: skip
        row.notes["threads"] = threads
        for name, milliseconds in row.milliseconds.items():
            lines.setdefault(name, []).append((size, milliseconds))
        yield row


def growth_of(scan: Scan, rows: list[Measurement]) -> dict[str, object]:
    """Times by library, `[[size, milliseconds], ...]`, and slopes."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, milliseconds in row.milliseconds.items():
            lines.setdefault(name, []).append((row.size, milliseconds))
    return {
        "title": scan.title,
        "xlabel": scan.xlabel,
        "milliseconds": lines,
        "slopes": {name: fitted_slope(points) for name, points in lines.items()},
        "predicted": scan.predicted,
        "why": scan.why,
    }


def regimes(
    sizes: tuple[int, ...], thresholds: tuple[float, ...], seconds: float
) -> Iterator[Measurement]:
    """nms in every regime, with one thread, where the fast peers stand beside us, and with two."""
    for make, threads, threshold in itertools.product(REGIMES, (1, 2), thresholds):
        scan = Scan(
            "nms", "boxes", list(sizes), partial(nms_candidates, make, threshold), nms.same_kept
        )
        libraries = RIVALS | FAST_PEERS if threads == 1 else RIVALS
        for row in rows_of(scan, seconds, threads, libraries):
            row.work = f"{nms.name_of(make)} {row.size:,} @{threshold}, threads: {threads}"
            row.notes |= {"regime": nms.name_of(make), "threshold": threshold}
            yield row


def other_regimes(scans: list[Scan], seconds: float) -> Iterator[Measurement]:
    """The other ops with one thread, at powers of ten."""
    for scan in scans:
        scan.sizes = [n for n in scan.sizes if math.log10(n).is_integer()]
        yield from rows_of(scan, seconds, 1, RIVALS)


def slower(rows: list[Measurement]) -> list[str]:
    """Where torchvision is faster."""
    lost = [row for row in rows if "torchvision" in row.milliseconds and row.speedup() < 1]
    return [f"{row.op}, {row.work}: {row.speedup():.2f}x" for row in lost]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small inputs, about a minute")
    parser.add_argument("--largest", type=int, default=1_000_000, help="most boxes of a scan")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/latest"))
    options = parser.parse_args(arguments)
    largest = min(options.largest, 3_000) if options.quick else options.largest
    seconds = 0.05 if options.quick else 0.5
    sizes = tuple(n for n in REGIME_SIZES if n <= largest)

    growth, other_rows = [], []
    with progress_bar() as progress:
        scans = nms_scans(up_to(largest)) + other_scans(largest)
        total = len(REGIMES) * 2 * len(THRESHOLDS) * len(sizes)
        task = progress.add_task("", total=2 * sum(len(scan.sizes) for scan in scans) + total)

        def watched(rows: Iterator[Measurement]) -> Iterator[Measurement]:
            for row in rows:
                progress.update(task, advance=1, description=f"{row.op}, {row.work}")
                yield row

        for scan in scans:
            rows = list(watched(rows_of(scan, seconds, threads=2)))
            growth.append(growth_of(scan, rows))
            other_rows += [] if scan.title.startswith("nms,") else rows
            slopes = (f"{k} {v}" for k, v in growth[-1]["slopes"].items() if v is not None)
            progress.console.print(f"{scan.title}: slopes {', '.join(slopes)}")
        other_rows += watched(other_regimes(other_scans(largest), 0.4 * seconds))
        nms_rows = list(watched(regimes(sizes, THRESHOLDS, 0.4 * seconds)))
    torch.set_num_threads(2)
    losses = slower(nms_rows + other_rows)
    print(f"{len(nms_rows)} regimes of nms, {len(other_rows)} of other ops")
    print(f"slower than torchvision: {losses or 'none'}")

    results = environment() | {
        "growth": growth,
        "regimes": [row.as_dict() for row in nms_rows],
        "other regimes": [row.as_dict() for row in other_rows],
        "slower than torchvision": losses,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "scan.json"
    path.write_text(json.dumps(results, indent=1))
    for written in [path, *draw_scan(path)]:
        print(f"wrote {written}")


if __name__ == "__main__":
    main()
