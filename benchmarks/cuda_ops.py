"""Times the CUDA operators and the model beside torchvision's: `python -m benchmarks.cuda_ops`.

Prints a line for each case and writes benchmarks/results/<gpu>/ops.json (model.json for the model).
With --dry-run every case runs once, small, on the CPU, to show that it works; the times mean
nothing and go where --output says, or nowhere.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torchvision

from benchmarks import cuda_cases, cuda_model
from benchmarks.cuda_timing import Case, Timer
from benchmarks.timing import Measurement
from fastrpn import __version__

RESULTS = Path(__file__).resolve().parent / "results"
PARTS: dict[str, Iterable[Callable[[bool], Iterable[Case]]]] = {
    "ops": cuda_cases.ALL,
    "model": cuda_model.ALL,
}


def environment(is_dry: bool) -> dict[str, object]:
    """What one needs to compare two result files."""
    return {
        "gpu": "none: dry run on the CPU" if is_dry else torch.cuda.get_device_name(),
        "versions": {
            "fastrpn": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "cuda": torch.version.cuda,
        },
    }


def memory_speed(timer: Timer) -> dict[str, float]:
    """Bytes each second of filling and of copying (read and written bytes)."""
    rows = {case.op: timer.measure(case) for case in cuda_cases.memory_cases(timer.is_dry)}
    return {op: 1e3 * row.size / row.milliseconds[op] for op, row in rows.items()}


def describe(row: Measurement, speed: dict[str, float]) -> str:
    """One line: times, speed-up with what is wanted, share of the memory's speed."""
    times = "  ".join(f"{name} {ms:.4f}" for name, ms in row.milliseconds.items())
    parts = [f"{row.op} {row.work}: {times} ms"]
    if "fastrpn" in row.milliseconds:
        floor = 1e3 * row.notes["floor_bytes"] / speed[row.notes["bound"]]
        parts.append(f"{100 * floor / row.milliseconds['fastrpn']:.0f}% of {row.notes['bound']}")
        if (speedup := row.speedup()) is not None:
            wanted = f" (must {row.notes['must']})" if row.notes["must"] else ""
            parts.append(f"x{speedup:.1f}{wanted}")
    differing = [name for name, equal in row.notes["equal"].items() if not equal]
    parts += [f"differs from {name}" for name in differing]
    parts += [f"{name} ran out of memory" for name in row.notes["out_of_memory"]]
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS, nargs="?", default="ops")
    parser.add_argument("--dry-run", action="store_true", help="once, small, on the CPU")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<gpu>/<part>.json")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device: only --dry-run works here")

    timer = Timer("cpu" if options.dry_run else "cuda")
    speed = memory_speed(timer)
    print("  ".join(f"{op} {value / 1e9:.0f} GB/s" for op, value in speed.items()))
    rows = []
    for cases in PARTS[options.part]:
        for case in cases(options.dry_run):
            rows.append(timer.measure(case))
            print(describe(rows[-1], speed), flush=True)

    results = environment(options.dry_run)
    results |= {"bytes_per_second": speed, "measurements": [row.as_dict() for row in rows]}
    output = options.output
    if output is None and not options.dry_run:
        name = torch.cuda.get_device_name().replace(" ", "-").lower()
        output = RESULTS / name / f"{options.part}.json"
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results, indent=1) + "\n")
        print(f"wrote {output}")


if __name__ == "__main__":
    main()
