"""Result files as Markdown: `python -m benchmarks.report FOLDER [DOCUMENT.md]`.

Prints what the folder's results.json and scan.json say, or puts it between the two marks of the
document: the targets, the drop-in, where a peer is faster, how cost grows.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.targets import TARGETS

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NO_PEERS = {"fill", "reference", "fastrpn", "fastrpn nms", "fastrpn.numpy"}


def number(value: float | None) -> str:
    """Three digits are all that a median of noisy runs holds."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(header: Sequence[str], rows: list[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def target_table(measurements: list[dict]) -> str:
    rows = {(m["op"], m["work"]): m for m in measurements}
    cells = []
    for target in TARGETS:
        value = target.measured(rows)
        figures = number(target.must), number(target.aim), number(value)
        verdict = target.verdict(value)
        cells.append([target.op, target.work, target.quantity, *figures, verdict])
    return table(["op", "work", "quantity", "must", "aim", "measured", "reaches"], cells)


def drop_in_table(measurements: list[dict]) -> str:
    cells = [
        [
            m["work"],
            number(m["milliseconds"]["torchvision"]),
            number(m["milliseconds"]["fastrpn"]),
            f"{m['speedup']['torchvision']:.2f}×",
            ", ".join(f"{value:,} {name}" for name, value in m["notes"].items()),
        ]
        for m in measurements
        if m["op"] == "drop_in"
    ]
    header = ["unchanged code", "torchvision, ms", "accelerated, ms", "gain", "work"]
    return table(header, cells)


def loss_table(measurements: list[dict]) -> str:
    cells = [
        [m["op"], m["work"], name, number(milliseconds), number(m["milliseconds"]["fastrpn"])]
        for m in measurements
        for name, milliseconds in m["milliseconds"].items()
        if name not in NO_PEERS and milliseconds < m["milliseconds"]["fastrpn"]
    ]
    return table(["op", "work", "peer", "its ms", "our ms"], cells) if cells else "Nowhere."


def growth_table(growth: list[dict]) -> str:
    libraries = list(dict.fromkeys(name for scan in growth for name in scan["slopes"]))
    libraries = [name for name in libraries if name != "fill"]
    cells = []
    for scan in growth:
        largest = scan["milliseconds"]["fastrpn"][-1]
        slopes = [number(scan["slopes"].get(name)) for name in libraries]
        cells.append([scan["title"], *slopes, f"{largest[0]:,}: {number(largest[1])} ms"])
    return table(["op", *libraries, "our largest"], cells)


def markdown(folder: Path) -> str:
    """Everything that the folder's files say."""
    results = json.loads((folder / "results.json").read_text())
    measurements = results["measurements"]
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items() if v)
    machine = f"{results['cpu']}, {results['threads']} threads, {results['simd_level']}"
    parts = [
        f"{machine}; {versions}.",
        target_table(measurements),
        "### Drop-in",
        drop_in_table(measurements),
        "### Where a peer is faster",
        loss_table(measurements),
    ]
    scan_file = folder / "scan.json"
    if scan_file.exists():
        scan = json.loads(scan_file.read_text())
        slower = scan["slower than torchvision"]
        parts += [
            "### How cost grows",
            "Slopes on log-log axes over the largest inputs (– where no run took 0.1 ms).",
            growth_table(scan["growth"]),
            f"Of {len(scan['regimes'])} regimes of nms, slower than torchvision: "
            + (", ".join(slower) if slower else "none")
            + ".",
        ]
    return "\n\n".join(parts)


def write(folder: Path, document: Path) -> None:
    """Replaces what stands between the marks."""
    before, rest = document.read_text().split(BEGIN)
    _, after = rest.split(END)
    document.write_text(f"{before}{BEGIN}\n{markdown(folder)}\n{END}{after}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        write(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        print(markdown(Path(sys.argv[1])))
