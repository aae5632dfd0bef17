"""The pictures of a result file: speed-ups over torchvision, and time against size.

`python -m benchmarks.plots FOLDER` draws those of its results.json and scan.json beside them.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.compare import Change
from benchmarks.targets import TARGETS

COLOURS = {
    "fastrpn": "#d1495b",
    "torchvision": "#30638e",
    "fastrpn.numpy": "#e8909a",
    "fastrpn nms": "#e8909a",
    "reference": "#333333",
    "lsnms": "#edae49",
    "powerboxes": "#66a182",
    "powerboxes R-tree": "#a9cdb8",
    "opencv": "#8d6a9f",
    "fill": "#9a9a9a",
}
LINES = {"fill": "--", "fastrpn.numpy": "o:"}
DPI = 130


def bar_chart(measurements: list[dict], path: Path, title: str) -> Path:
    """Speed-up over torchvision, on a log axis; a line marks parity."""
    rows = measurements
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


def change_chart(changes: list[Change], path: Path) -> Path:
    """How many times each gain changed, on a log axis; the grey band is what the noise explains."""
    figure, axes = plt.subplots(figsize=(9, 0.26 * len(changes) + 1.2))
    colours = {"slower": "#b3261e", "faster": "#1d7044", "same": "#777777"}
    positions, highest = range(len(changes)), np.array([1 + change.noise for change in changes])
    axes.barh(positions, highest - 1 / highest, left=1 / highest, height=0.8, color="#e6e9ed")
    chosen = [colours[change.verdict] for change in changes]
    axes.scatter([change.factor for change in changes], positions, 20, chosen, zorder=3)
    names = [f"{change.op}  {change.work}  {change.name}" for change in changes]
    axes.set_yticks(positions, [name.removesuffix("  fastrpn") for name in names])
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.margins(y=0.01)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("gain after / gain before: left of 1 became slower")
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def growth_chart(scans: list[dict], path: Path, title: str) -> Path:
    """Milliseconds against size, log-log: a panel a scan, a line a library with its slope."""
    columns = min(3, len(scans))
    rows = -(-len(scans) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(5 * columns, 4.1 * rows), squeeze=False)
    for axes, scan in zip(panels.flat, scans, strict=False):
        for library, points in scan["milliseconds"].items():
            slope = scan["slopes"][library]
            axes.plot(
                *zip(*points, strict=True),
                LINES.get(library, "o-"),
                color=COLOURS.get(library),
                label=library if slope is None else f"{library}, slope {slope:.2f}",
                markersize=3.5,
                linewidth=2.2 if library == "fastrpn" else 1.3,
            )
        axes.set(xscale="log", yscale="log", xlabel=scan["xlabel"], ylabel="milliseconds")
        axes.set_title(scan["title"], fontsize=10)
        axes.grid(True, which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(top=axes.get_ylim()[1] * 3 ** (len(scan["milliseconds"]) / 2))  # the legend
        axes.legend(frameon=False, fontsize=7.5)
    for axes in panels.flat[len(scans) :]:
        axes.remove()
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def regime_chart(
    rows: list[dict],
    row_of: Callable[[dict], str],
    column_of: Callable[[dict], float],
    path: Path,
    title: str,
    xlabel: str,
) -> Path:
    """Gain over torchvision in every regime, a panel for each number of threads.

    A loss would be red; grey are our milliseconds where torchvision did not run.
    """
    columns = sorted({column_of(m) for m in rows})
    threads = sorted({m["notes"]["threads"] for m in rows})
    kinds = list(dict.fromkeys(row_of(m) for m in rows))
    figure, panels = plt.subplots(
        1, len(threads), figsize=(5.2 * len(threads), 0.27 * len(kinds) + 1.6), sharey=True
    )
    colours = plt.get_cmap("RdYlGn").with_extremes(bad="#dddddd")
    scale = matplotlib.colors.SymLogNorm(1, vmin=-1000, vmax=1000)
    for axes, count in zip(np.atleast_1d(panels), threads, strict=True):
        signed = np.full((len(kinds), len(columns)), np.nan)
        for m in (m for m in rows if m["notes"]["threads"] == count):
            y, x = kinds.index(row_of(m)), columns.index(column_of(m))
            gain = m["speedup"].get("torchvision")
            if gain is None:
                label = duration(m["milliseconds"]["fastrpn"])
            else:
                signed[y, x] = gain - 1 if gain >= 1 else 1 - 1 / gain  # below as far as above
                label = f"{gain:,.0f}" if gain >= 10 else f"{gain:.1f}"
            axes.text(x, y, label, ha="center", va="center", fontsize=7)
        axes.imshow(signed, cmap=colours, norm=scale, aspect="auto")
        axes.set_xticks(range(len(columns)), [short(column) for column in columns], fontsize=8)
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
        axes.set_xlabel(xlabel)
        axes.set_title(f"threads: {count}", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def heading(results: dict) -> str:
    """What was compared, and where."""
    versions = results["versions"]
    return (
        f"fastrpn {versions['fastrpn']} against torchvision {versions['torchvision']}\n"
        f"{results['cpu']}, {results['threads']} threads, {results['simd_level']}"
    )


def draw(results_file: Path, folder: Path | None = None, kind: str = "png") -> list[Path]:
    """The bar charts of benchmarks.run_all: the works that have a target and the drop-in, and all
    works. They lie beside the result file, or in a folder, as PNG or as SVG.
    """
    results = json.loads(results_file.read_text())
    title = heading(results)
    rows = [m for m in results["measurements"] if m["speedup"].get("torchvision")]
    works = {(target.op, target.work) for target in TARGETS}
    front = [m for m in rows if (m["op"], m["work"]) in works or m["op"] == "drop_in"]
    folder = folder or results_file.parent
    pictures = []
    for chosen, name in ((front, "speedup"), (rows, "speedup_all")):
        if chosen:
            pictures.append(bar_chart(chosen, folder / f"{name}.{kind}", title))
    return pictures


def duration(milliseconds: float) -> str:
    """Two digits, or whole numbers, for a cell of a chart."""
    if milliseconds >= 1e3:
        value, unit = milliseconds / 1e3, "s"
    elif milliseconds >= 0.1:
        value, unit = milliseconds, "ms"
    else:
        value, unit = 1e3 * milliseconds, "µs"
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


def short(number: float) -> str:
    """Thresholds as they are, thousands and millions by a letter."""
    for letter, size in (("M", 1_000_000), ("k", 1_000)):
        if number >= size:
            return f"{number // size}{letter}"
    return f"{number}"


def draw_scan(results_file: Path, folder: Path | None = None, kind: str = "png") -> list[Path]:
    """The charts of benchmarks.scan, where and as :func:`draw` puts them."""
    results = json.loads(results_file.read_text())
    folder = folder or results_file.parent
    is_nms = [scan["title"].startswith("nms,") for scan in results["growth"]]
    pictures = []
    for name, wanted in (("growth_nms", True), ("growth_others", False)):
        chosen = [
            scan for scan, nms in zip(results["growth"], is_nms, strict=True) if nms == wanted
        ]
        pictures.append(growth_chart(chosen, folder / f"{name}.{kind}", heading(results)))
    nms = "nms: times faster than torchvision\n" + heading(results)
    pictures.append(
        regime_chart(
            results["regimes"],
            lambda m: f"{m['notes']['regime']}, {m['size']:,}",
            lambda m: m["notes"]["threshold"],
            folder / f"regimes.{kind}",
            nms,
            "IoU threshold",
        )
    )
    if others := [m for m in results.get("other regimes", []) if _is_power_of_ten(m["size"])]:
        path = folder / f"regimes_others.{kind}"
        pictures.append(
            regime_chart(
                others,
                lambda m: m["op"],
                lambda m: m["size"],
                path,
                "times faster than torchvision\n" + heading(results),
                "boxes, anchors or RoIs",
            )
        )
    return pictures


def _is_power_of_ten(number: int) -> bool:
    return str(number).strip("0") == "1"


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, draw_file in (("results.json", draw), ("scan.json", draw_scan)):
        if (folder / name).exists():
            print(*draw_file(folder / name))
