"""The pictures of a result file: time against size, and the speed-ups over torchvision.

`python -m benchmarks.plots benchmarks/results/<name>/results.json` draws them beside the file.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "fastrpn": "#d1495b",
    "torchvision": "#30638e",
    "lsnms": "#edae49",
    "powerboxes": "#66a182",
    "opencv": "#8d6a9f",
    "fill": "#9a9a9a",
}
DPI = 130


def bar_chart(measurements: list[dict], path: Path, title: str) -> Path:
    """Speed-up over torchvision of every measured work, on a log axis; a line marks parity."""
    rows = [m for m in measurements if m["speedup"].get("torchvision")]
    names = [f"{m['op']}  {m['work']}" for m in rows]
    values = [m["speedup"]["torchvision"] for m in rows]
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(rows) + 1.4))
    positions = range(len(rows))
    colours = [COLOURS["fastrpn"] if value >= 1 else "#555555" for value in values]
    axes.barh(positions, values, color=colours, height=0.72)
    for position, value in zip(positions, values, strict=True):
        label = f"{value:,.0f}×" if value >= 20 else f"{value:.1f}×"
        axes.text(value * 1.05, position, label, va="center", fontsize=8)
    axes.set_yticks(positions, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(1, *values) * 0.8, max(values) * 3)
    axes.margins(y=0.01)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times faster than torchvision")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def scaling_chart(measurements: list[dict], path: Path, title: str, xlabel: str) -> Path:
    """Milliseconds against size, log-log, one line a library."""
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for m in measurements:
        for library, milliseconds in m["milliseconds"].items():
            lines[library].append((m["size"], milliseconds))
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for library, points in lines.items():
        points.sort()
        style = "--" if library == "fill" else "o-"
        colour = COLOURS.get(library)
        axes.plot(*zip(*points, strict=True), style, color=colour, label=library, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="milliseconds", title=title)
    axes.grid(True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _save(figure, path)


def draw(results_file: Path) -> list[Path]:
    """All pictures of a result file, beside it.

    A measurement whose notes name a "scan" belongs to that scan's scaling chart; the others go
    into the bar chart.
    """
    results = json.loads(results_file.read_text())
    where = f"{results['cpu']}, {results['threads']} threads, {results['simd_level']}"
    versions = results["versions"]
    title = f"fastrpn {versions['fastrpn']} against torchvision {versions['torchvision']}\n{where}"
    table, scans = [], defaultdict(list)
    for m in results["measurements"]:
        scan = m["notes"].get("scan")
        (scans[scan] if scan else table).append(m)
    folder = results_file.parent
    pictures = [bar_chart(table, folder / "speedup.png", title)] if table else []
    for scan, rows in scans.items():
        path = folder / f"{scan.replace(' ', '_')}.png"
        pictures.append(scaling_chart(rows, path, f"{scan}\n{where}", rows[0]["notes"]["xlabel"]))
    return pictures


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path


if __name__ == "__main__":
    for picture in draw(Path(sys.argv[1])):
        print(picture)
