"""The demo: from nothing to detections, on this machine, in minutes.

Writes a synthetic data set in VOC layout, reads it back as any VOC folder, trains the ``tiny``
model, evaluates it on images that it has not seen and draws what it finds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fastrpn import drawing
from fastrpn.data import VOCDataset, generate_synthetic
from fastrpn.data.synthetic.baseline import ContourBaseline, majority_label
from fastrpn.evaluation.evaluate import detect_all, evaluate_detections
from fastrpn.evaluation.report import draw_model_proposals
from fastrpn.files import write_atomically
from fastrpn.images import write_image
from fastrpn.models import FasterRCNN
from fastrpn.training import TrainConfig, train

__all__ = ["demo_config", "run_demo"]

_PICTURED = 8  # images in the contact sheet


def demo_config(data: str | Path, output: str | Path, seed: int = 0) -> TrainConfig:
    """The recipe: small batches and many steps, about 500 seconds of CPU time."""
    return TrainConfig(
        data=str(data),
        output=str(output),
        seed=seed,
        val_set=None,
        model="tiny",
        batch_size=4,
        steps=3600,
        lr=0.02,
        lr_schedule="cosine",
        warmup_steps=100,
        weight_decay=1e-4,
    )


def run_demo(
    output: str | Path,
    seed: int = 0,
    *,
    num_train: int = 4000,
    num_val: int = 300,
    image_size: tuple[int, int] = (160, 160),
    steps: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs the demo and prints a summary.

    Args:
        output: folder for everything: ``data/``, ``model/``, pictures and ``metrics.json``.
        seed: of the data, the weights and the order of training.
        num_train, num_val: images to generate.
        image_size: their (height, width).
        steps: of training; None takes the recipe's.
        progress: show progress bars and the summary.

    Returns:
        the content of ``metrics.json``: "AP", "AP50", "baseline_AP50" and more.
    """
    output = Path(output)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    with _timed(seconds, "data"):
        data = generate_synthetic(
            output / "data", num_train, num_val, seed, image_size, progress=progress
        )
    config = demo_config(data, output / "model", seed)
    config.steps, config.progress = steps or config.steps, progress
    config.overwrite = True  # the folder is the demo's own
    with _timed(seconds, "training"):
        result = train(config)
    training_set = VOCDataset(data, "train")
    held_out = VOCDataset(data, "val")
    with _timed(seconds, "evaluation"):
        detections, targets = detect_all(result.model, held_out, batch_size=8, progress=progress)
        scores = evaluate_detections(detections, targets, held_out.classes)
    with _timed(seconds, "baseline"):
        baseline = _evaluate_baseline(training_set, held_out)
    pictures = _draw(output, result.model, held_out, detections, result.history, scores)
    seconds["total"] = time.perf_counter() - started

    metrics = {
        **{name: scores[name] for name in ("AP", "AP50", "AP75", "voc_ap_11pt", "voc_ap_area")},
        "baseline_AP50": baseline["AP50"],
        "baseline_AP": baseline["AP"],
        "per_class_AP50": {name: entry["AP50"] for name, entry in scores["per_class"].items()},
        "seed": seed,
        "num_train": len(training_set),
        "num_val": len(held_out),
        "image_size": list(image_size),
        "steps": config.steps,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "torch": torch.__version__,
    }
    path = write_atomically(output / "metrics.json", json.dumps(metrics, indent=2).encode())
    if progress:
        _summarize(metrics, {"numbers": path, "checkpoint": result.checkpoint, **pictures})
    return metrics


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _evaluate_baseline(training_set: VOCDataset, held_out: VOCDataset) -> dict[str, Any]:
    """What contours with the majority class reach."""
    targets = [training_set.target(i) for i in range(len(training_set))]
    detector = ContourBaseline(majority_label(targets, len(training_set.classes)))
    detections, targets = detect_all(detector, held_out, progress=False)
    return evaluate_detections(detections, targets, held_out.classes)


def _draw(
    output: Path,
    model: FasterRCNN,
    dataset: VOCDataset,
    detections: list[dict],
    history: list[dict],
    scores: dict[str, Any],
) -> dict[str, Path]:
    count = min(_PICTURED, len(dataset))
    images, targets = zip(*(dataset[i] for i in range(count)), strict=True)
    sheet = drawing.contact_sheet(images, targets, detections[:count], dataset.classes)
    ap = {name: scores["per_class"][name]["voc_ap_area"] for name in scores["curves"]}
    return {
        "detections": write_image(output / "detections.png", sheet),
        "proposals": write_image(
            output / "proposals.png", draw_model_proposals(model.eval(), images[0])
        ),
        "loss curve": drawing.plot_losses(history, output / "losses.png"),
        "precision and recall": drawing.plot_pr_curves(
            scores["curves"], output / "pr_curves.png", ap
        ),
    }


def _summarize(metrics: dict[str, Any], files: dict[str, Path]) -> None:
    console = Console()
    held_out = f"{metrics['num_val']} images the model has not seen"
    table = Table(title=f"Faster R-CNN against contours, {held_out}")
    table.add_column("AP50 by class")
    for name in ("Faster R-CNN", "contours, majority class"):
        table.add_column(name, justify="right")
    for name, value in metrics["per_class_AP50"].items():
        table.add_row(name, _number(value), "")
    table.add_section()
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
