"""Summary and pictures of GPU results: `python -m benchmarks.cuda_report benchmarks/results/<gpu>`.

Reads ops.json and model.json of the folder, as far as they are there, and writes summary.md and one
picture for each beside them.
"""

import json
import sys
from pathlib import Path

from benchmarks.plots import bar_chart

COLUMNS = [
    "op",
    "work",
    "fastrpn, ms",
    "torchvision, ms",
    "× torchvision",
    "must",
    "aim",
    "of the memory's speed",
    "memory, MB",
    "torchvision's, MB",
]


def table(results: dict) -> list[str]:
    """Markdown, one line for each work; other variants of it follow indented."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in results["measurements"]:
        for name in row["milliseconds"]:
            if not name.startswith("torchvision"):
                lines.append("| " + " | ".join(cells(row, name, results)) + " |")
    return lines


def cells(row: dict, name: str, results: dict) -> list[str]:
    """The line of one of our variants; torchvision's is the one of the same dtype."""
    notes, times = row["notes"], row["milliseconds"]
    peer = "torchvision bfloat16" if "bfloat16" in name else "torchvision"
    floor = 1e3 * notes["floor_bytes"] / results["bytes_per_second"][notes["bound"]]
    speedup = f"{times[peer] / times[name]:.1f}" if peer in times else ""
    if peer in notes["out_of_memory"]:
        speedup = "out of memory"
    is_ours = name == "fastrpn"
    memory = notes["peak_bytes"]
    return [
        row["op"],
        row["work"] if is_ours else f"… {name.removeprefix('fastrpn ')}",
        f"{times[name]:.4f} ± {50 * row['spread'][name]:.0f}%",
        f"{times[peer]:.4f}" if peer in times else "",
        speedup,
        str(notes["must"] or ""),
        str(notes["aim"] or ""),
        f"{100 * floor / times[name]:.0f}% of {notes['bound']}",
        f"{memory[name] / 1e6:.1f}",
        f"{memory[peer] / 1e6:.1f}" if peer in memory else "",
    ]


def main(folder: Path) -> None:
    """Writes summary.md and the pictures."""
    lines = []
    for part in ("ops", "model"):
        path = folder / f"{part}.json"
        if not path.exists():
            continue
        results = json.loads(path.read_text())
        versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        speed = ", ".join(f"{k} {v / 1e9:.0f} GB/s" for k, v in results["bytes_per_second"].items())
        lines += [f"## {part}: {results['gpu']}", "", f"{versions}; {speed}.", ""]
        lines += [*table(results), ""]
        title = f"{results['gpu']}\n{versions}"
        picture = bar_chart(results["measurements"], folder / f"{part}.png", title)
        lines += [f"![Speed-up over torchvision]({picture.name})", ""]
    if not lines:
        raise SystemExit(f"{folder} holds neither ops.json nor model.json")
    summary = folder / "summary.md"
    summary.write_text("\n".join(lines))
    print(f"wrote {summary}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
