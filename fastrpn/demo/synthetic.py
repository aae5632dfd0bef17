"""Shapes that the demo draws itself: for machines that can fetch nothing.

Writes a synthetic data set in VOC layout, reads it back as any VOC folder, trains the ``tiny``
model, evaluates it on images that it has not seen and draws what it finds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastrpn import drawing
from fastrpn.data import VOCDataset, generate_synthetic
from fastrpn.data.synthetic.baseline import ContourBaseline, majority_label
from fastrpn.demo.timing import timed
from fastrpn.evaluation.evaluate import detect_all, evaluate_detections
from fastrpn.evaluation.report import draw_model_proposals
from fastrpn.images import write_image
from fastrpn.models import FasterRCNN
from fastrpn.training import TrainConfig, train

__all__ = ["demo_config", "run_synthetic"]

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


def run_synthetic(
    output: Path,
    seed: int,
    steps: int | None,
    progress: bool,
    *,
    num_train: int = 4000,
    num_val: int = 300,
    image_size: tuple[int, int] = (160, 160),
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Generates, trains, evaluates and draws.

    Args:
        output: folder for everything: ``data/``, ``model/`` and pictures.
        seed: of the data, the weights and the order of training.
        steps: of training; None takes the recipe's.
        progress: show progress bars.
        num_train, num_val: images to generate.
        image_size: their (height, width).

    Returns:
        the numbers, and the files that were written.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "data"):
        data = generate_synthetic(
            output / "data", num_train, num_val, seed, image_size, progress=progress
        )
    config = demo_config(data, output / "model", seed)
    config.steps, config.progress = steps or config.steps, progress
    config.overwrite = True  # the folder is the demo's own
    with timed(seconds, "training"):
        result = train(config)
    training_set = VOCDataset(data, "train")
    held_out = VOCDataset(data, "val")
    with timed(seconds, "evaluation"):
        detections, targets = detect_all(result.model, held_out, batch_size=8, progress=progress)
        scores = evaluate_detections(detections, targets, held_out.classes)
    with timed(seconds, "baseline"):
        baseline = _evaluate_baseline(training_set, held_out)
    pictures = _draw(output, result.model, held_out, detections, result.history, scores)
    metrics = {
        **{name: scores[name] for name in ("AP", "AP50", "AP75", "voc_ap_11pt", "voc_ap_area")},
        "baseline_AP50": baseline["AP50"],
        "baseline_AP": baseline["AP"],
        "per_class_AP50": {name: entry["AP50"] for name, entry in scores["per_class"].items()},
        "num_train": len(training_set),
        "num_val": len(held_out),
        "image_size": list(image_size),
        "steps": config.steps,
        "seconds": seconds,
    }
    return metrics, {**pictures, "checkpoint": result.checkpoint}


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
