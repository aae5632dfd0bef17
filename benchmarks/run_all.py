"""Runs every benchmark: `python -m benchmarks.run_all [--quick] [--only OPS] [--output FOLDER]`.

Each benchmarks/<op>.py offers `run(quick: bool) -> list[Measurement]`. Prints a table, writes
results.json and the plot. About ten minutes on two quiet cores, `--quick` one.
"""

import argparse
import importlib
import json
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.environment import environment
from benchmarks.plots import draw
from benchmarks.tables import table
from benchmarks.timing import Measurement

OPS = [
    "nms",
    "soft_nms",
    "box_iou",
    "match_anchors",
    "generate_proposals",
    "roi_pool",
    "roi_align",
    "drop_in",
]


def progress_bar() -> Progress:
    """What is measured, how much of it is done, and since when."""
    text, count = TextColumn("{task.description}"), MofNCompleteColumn()
    return Progress(text, BarColumn(), count, TimeElapsedColumn())


def table_of(measurements: list[Measurement]) -> str:
    """Milliseconds of every library, and the speed-up over torchvision."""
    rows = []
    for m in measurements:
        others = {k: v for k, v in m.milliseconds.items() if k not in ("fastrpn", "torchvision")}
        speedup, torchvision = m.speedup(), m.milliseconds.get("torchvision")
        cells = [
            f"{m.milliseconds['fastrpn']:.3g}",
            "" if torchvision is None else f"{torchvision:.3g}",
            "" if speedup is None else f"{speedup:.1f}×",
            ", ".join(f"{name} {value:.3g}" for name, value in others.items()),
        ]
        rows.append([m.op, m.work, *cells])
    header = ["op", "work", "fastrpn, ms", "torchvision, ms", "gain", "others, ms"]
    return table(header, rows, padded=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small selection, about a minute")
    parser.add_argument("--only", help="ops, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/latest"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    ops = options.only.split(",") if options.only else OPS
    if unknown := set(ops) - set(OPS):
        parser.error(f"--only: unknown {sorted(unknown)}, known are {OPS}")

    measurements: list[Measurement] = []
    with progress_bar() as progress:
        console = progress.console
        task = progress.add_task("", total=len(ops))
        for op in ops:
            progress.update(task, description=op)
            found = importlib.import_module(f"benchmarks.{op}").run(quick=options.quick)
            console.print(table_of(found), soft_wrap=True, markup=False, highlight=False)
            measurements += found
            progress.advance(task)

    options.output.mkdir(parents=True, exist_ok=True)
    results = environment() | {"measurements": [m.as_dict() for m in measurements]}
    path = options.output / "results.json"
    path.write_text(json.dumps(results, indent=1))
    for written in [path, *draw(path)]:
        console.print(f"wrote {written}")


if __name__ == "__main__":
    main()
