"""Runs every benchmark: `python -m benchmarks.run_all [--quick] [--only OPS] [--output FOLDER]`.

Each benchmarks/<op>.py offers `run(quick: bool) -> list[Measurement]`. Prints a table, writes
results.json and the plot. About ten minutes on two quiet cores, `--quick` one.
"""

import argparse
import importlib
import json
import platform
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.plots import draw
from benchmarks.timing import Measurement
from fastrpn import __version__
from fastrpn._library import core

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
PACKAGES = ["torch", "torchvision", "numpy", "lsnms", "powerboxes", "opencv-python", "ultralytics"]


def environment() -> dict[str, object]:
    """Versions, CPU and threads: what one needs to compare two result files."""
    versions: dict[str, str | None] = {"fastrpn": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "versions": versions,
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "simd_level": core().build_info()["simd_level"],
        "python": platform.python_version(),
    }


def table_of(measurements: list[Measurement]) -> Table:
    """Milliseconds of every library, and the speed-up over torchvision."""
    table = Table("op", "work", "fastrpn, ms", "torchvision, ms", "gain", "others, ms")
    for m in measurements:
        others = {k: v for k, v in m.milliseconds.items() if k not in ("fastrpn", "torchvision")}
        speedup, torchvision = m.speedup(), m.milliseconds.get("torchvision")
        table.add_row(
            m.op,
            m.work,
            f"{m.milliseconds['fastrpn']:.3g}",
            "" if torchvision is None else f"{torchvision:.3g}",
            "" if speedup is None else f"{speedup:.1f}×",
            ", ".join(f"{name} {value:.3g}" for name, value in others.items()),
        )
    return table


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

    console = Console()
    measurements: list[Measurement] = []
    for op in ops:
        with console.status(f"measuring {op}"):
            found = importlib.import_module(f"benchmarks.{op}").run(quick=options.quick)
        console.print(table_of(found))
        measurements += found

    options.output.mkdir(parents=True, exist_ok=True)
    results = environment() | {"measurements": [m.as_dict() for m in measurements]}
    path = options.output / "results.json"
    path.write_text(json.dumps(results, indent=1))
    for written in [path, *draw(path)]:
        console.print(f"wrote {written}")


if __name__ == "__main__":
    main()
