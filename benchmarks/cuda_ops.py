"""Times the CUDA operators and the model beside torchvision's: `python -m benchmarks.cuda_ops`.

Prints a line for each case and writes benchmarks/results/<gpu>.json after each, which has an entry
for each part: "ops", "model", and "profile" of benchmarks.cuda_profile. With --dry-run every case
runs once, small, on the CPU, to show that it works; the times mean nothing and go where --output
says, or nowhere.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from benchmarks import cuda_cases, cuda_model
from benchmarks.cuda_results import environment, result_file, save
from benchmarks.cuda_timing import Case, Timer
from benchmarks.timing import Measurement

PARTS: dict[str, Iterable[Callable[[bool], Iterable[Case]]]] = {
    "ops": cuda_cases.ALL,
    "model": cuda_model.ALL,
}


def memory_speed(timer: Timer) -> dict[str, float]:
    """Bytes each second of filling and of copying (read and written bytes)."""
    rows = {case.op: timer.measure(case) for case in cuda_cases.memory_cases(timer.is_dry)}
    return {op: 1e3 * row.size / row.milliseconds[op] for op, row in rows.items()}


def describe(row: Measurement) -> str:
    """One line: times, speed-up, share of the memory's speed."""
    times = "  ".join(f"{name} {ms:.4f}" for name, ms in row.milliseconds.items())
    parts = [f"{row.op} {row.work}: {times} ms"]
    if "fastrpn" in row.milliseconds:
        share = row.notes["limit_milliseconds"] / row.milliseconds["fastrpn"]
        parts.append(f"{100 * share:.0f}% of {row.notes['bound']}")
        if (speedup := row.speedup()) is not None:
            parts.append(f"x{speedup:.1f}")
    differing = [name for name, equal in row.notes["equal"].items() if not equal]
    parts += [f"differs from {name}" for name in differing]
    parts += [f"{name} ran out of memory" for name in row.notes["out_of_memory"]]
    parts += [f"{name} failed: {why}" for name, why in row.notes["failed"].items()]
    return ", ".join(parts)


def as_dict(row: Measurement) -> dict[str, object]:
    """Plain values; no speed-ups where we ran out of memory."""
    ran = "fastrpn" in row.milliseconds
    return row.as_dict() if ran else asdict(row) | {"speedup": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS, nargs="?", default="ops")
    parser.add_argument("--dry-run", action="store_true", help="once, small, on the CPU")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<gpu>.json")
    options = parser.parse_args()
    output = result_file(options.output, options.dry_run)

    timer = Timer("cpu" if options.dry_run else "cuda")
    results = environment(options.dry_run)
    results["bytes_per_second"] = speed = memory_speed(timer)
    print("  ".join(f"{op} {value / 1e9:.0f} GB/s" for op, value in speed.items()))
    results["measurements"] = rows = []
    for cases in PARTS[options.part]:
        for case in cases(options.dry_run):
            row = timer.measure(case)
            rows.append(as_dict(row))
            print(describe(row), flush=True)
            save(output, options.part, results)
    if output is not None:
        print(f"wrote {output}")


if __name__ == "__main__":
    main()
