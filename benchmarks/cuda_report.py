"""Summary and pictures of GPU results: `python -m benchmarks.cuda_report results/<gpu>.json`.

Writes <gpu>.md beside the result file, and a picture for each part that was timed; of a file that a
cut run left, whatever it holds. Predictions are those for an H100, whatever the GPU.
"""

import json
import sys
from pathlib import Path

from benchmarks.cuda_predictions import predicted
from benchmarks.cuda_sweep.report import sweep_summary
from benchmarks.cuda_timing import half_type
from benchmarks.tables import table

LESS = "of torchvision's memory"  # the one quantity of which less is better
COLUMNS = ["op", "work", "fastrpn, ms", "predicted, µs", "measured of it", "torchvision, ms",
           "× torchvision", "of the memory's speed", "memory, MB", "torchvision's, MB"]  # fmt: skip


def measured(row: dict, quantity: str) -> float | None:
    """A quantity that a case has a target for; None where it was not measured."""
    notes, times = row["notes"], row["milliseconds"]
    if "fastrpn" not in times:
        return None
    if quantity.startswith("× "):
        peer = times.get(quantity.removeprefix("× "))
        return None if peer is None else peer / times["fastrpn"]
    if quantity == LESS:
        memory = notes["peak_bytes"]
        return memory["fastrpn"] / memory["torchvision"] if memory.get("torchvision") else None
    assert quantity == f"of {notes['bound']}", quantity
    return notes["limit_milliseconds"] / times["fastrpn"]


def verdict(quantity: str, value: float | None, must: float, aim: float | None, row: dict) -> str:
    if value is None:
        missing = quantity.removeprefix("× ") in row["notes"]["out_of_memory"]
        return "out of memory" if missing else "not measured"

    def reached(bound: float) -> bool:
        return value <= bound if quantity == LESS else value >= bound

    return "aim" if aim and reached(aim) else "must" if reached(must) else "**no**"


def target_rows(measurements: list[dict]) -> list[list[str]]:
    rows = []
    for row in measurements:
        for quantity, (must, aim) in row["notes"]["targets"].items():
            value = measured(row, quantity)
            figures = [f"{x:.3g}" if x is not None else "" for x in (must, aim, value)]
            reaches = verdict(quantity, value, must, aim, row)
            rows.append([row["op"], row["work"], quantity, *figures, reaches])
    return rows


def time_rows(measurements: list[dict]) -> list[list[str]]:
    """A line for each work; other variants of it, ours and theirs, follow indented."""
    rows = []
    for row in measurements:
        for name in row["milliseconds"]:
            if name.startswith("fastrpn"):
                dtype = half_type(name)
                peer = "torchvision" if dtype is None else f"torchvision {dtype}"
                rows.append(cells(row, name, peer, name.removeprefix("fastrpn").strip()))
            elif name.startswith("torchvision ") and half_type(name) is None:
                rows.append(cells(row, "fastrpn", name, f"against {name}"))
    return rows


def cells(row: dict, name: str, peer: str, variant: str) -> list[str]:
    """The line of one of our variants beside one of torchvision's."""
    notes, times = row["notes"], row["milliseconds"]
    memory = notes["peak_bytes"]
    has_ours, has_both = name in times, name in times and peer in times
    speedup = f"{times[peer] / times[name]:.1f}" if has_both else ""
    ours = f"{times[name]:.4f} ± {50 * row['spread'][name]:.0f}%" if has_ours else "out of memory"
    guess = predicted(row["op"], row["work"], name)
    share = notes["limit_milliseconds"] / times[name] if has_ours and not half_type(name) else None
    return [
        row["op"],
        f"… {variant}" if variant else row["work"],
        ours,
        f"{guess:,.0f}" if guess else "",
        f"{1e3 * times[name] / guess:.2f}" if guess and has_ours else "",
        f"{times[peer]:.4f}" if peer in times else "",
        "out of memory" if peer in notes["out_of_memory"] else speedup,
        f"{100 * share:.0f}% of {notes['bound']}" if share is not None else "",
        f"{memory[name] / 1e6:.1f}" if name in memory else "",
        f"{memory[peer] / 1e6:.1f}" if peer in memory else "",
    ]


def kernel_rows(profile: dict) -> list[list[str]]:
    """The kernels that take at least a tenth of their case's time."""
    rows = []
    for case in profile["kernels"]:
        total = sum(kernel["microseconds"] for kernel in case["kernels"].values())
        for name, kernel in case["kernels"].items():
            share = kernel["microseconds"] / total
            if share >= 0.1:
                figures = [f"{kernel['microseconds']:.1f}", f"{100 * share:.0f}%"]
                short = name.replace("fastrpn::(anonymous namespace)::", "")[:70].replace("|", " ")
                rows.append(
                    [case["op"], case["work"], f"`{short}`", str(kernel["launches"]), *figures]
                )
    return rows


def limit_rows(limits: dict[str, dict[str, float]]) -> list[list[str]]:
    """What ncu names as the limit: the greater throughput, in percent of the peak."""
    return [
        [f"`{name[:90]}`", *(f"{of.get(key, 0):.0f}%" for key in sorted(of)), max(of, key=of.get)]
        for name, of in sorted(limits.items())
        if len(of) == 2
    ]


def part_summary(part: str, results: dict, picture: Path | None) -> list[str]:
    device = ", ".join(f"{k} {v}" for k, v in results["device"].items())
    speed = ", ".join(f"{k} {v / 1e9:.0f} GB/s" for k, v in results["bytes_per_second"].items())
    lines = [f"## {part}: {results['gpu']}", "", f"{versions_of(results)}; {speed}. {device}", ""]
    header = ["op", "work", "quantity", "must", "aim", "measured", "reaches"]
    lines += [table(header, target_rows(results["measurements"])), ""]
    lines += [table(COLUMNS, time_rows(results["measurements"])), ""]
    return lines + ([f"![Speed-up over torchvision]({picture.name})", ""] if picture else [])


def profile_summary(profile: dict) -> list[str]:
    header = ["op", "work", "kernel", "launches", "µs", "of the case"]
    lines = ["## Kernels", "", table(header, kernel_rows(profile)), ""]
    if profile.get("limits"):
        header = ["kernel", "Compute (SM) Throughput", "Memory Throughput", "limit"]
        lines += [table(header, limit_rows(profile["limits"])), ""]
    return lines


def versions_of(results: dict) -> str:
    return ", ".join(f"{k} {v}" for k, v in results["versions"].items())


def main(path: Path) -> None:
    """Writes the summary, then the pictures."""
    whole = json.loads(path.read_text())
    lines, pictures = [], {}
    for part in ("ops", "model"):
        if part not in whole:
            continue
        results = whole[part]
        rows = [m for m in results["measurements"] if m["speedup"].get("torchvision")]
        picture = path.with_name(f"{path.stem}_{part}.png") if rows else None
        if picture:
            pictures[picture] = rows, f"{results['gpu']}\n{versions_of(results)}"
        lines += part_summary(part, results, picture)
    if "sweep" in whole:
        lines += sweep_summary(whole["sweep"])
    if "profile" in whole:
        lines += profile_summary(whole["profile"])
    summary = path.with_suffix(".md")
    summary.write_text("\n".join(lines))
    print(f"wrote {summary}")

    from benchmarks.plots import bar_chart  # the summary needs no matplotlib

    for picture, (rows, title) in pictures.items():
        print(f"wrote {bar_chart(rows, picture, title)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
