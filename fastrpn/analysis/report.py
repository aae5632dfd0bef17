"""Prints what an analysis of anchors found, and writes its picture."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path

from fastrpn.analysis.anchor_coverage import measured_fields, report_receptive_field
from fastrpn.analysis.anchor_design import design_anchors
from fastrpn.analysis.plots import plot_anchor_design, plot_receptive_field
from fastrpn.analysis.tables import markdown_table

__all__ = ["print_anchor_design", "print_receptive_field"]


def print_anchor_design(
    training: Sized,
    held_out: Sized | None,
    number: int | None,
    model: str,
    output: Path,
) -> None:
    """Anchors by k-means, and recall against their number; see :func:`design_anchors`."""
    design = design_anchors(training, number, model=model, validation=held_out)
    print(markdown_table(design.rows))
    own = len(design.default_shapes)
    for threshold in design.thresholds:
        needed = design.needed(threshold)
        if needed is None:
            told = f"none of these numbers reaches the recall of {model}'s {own}"
        else:
            saved = design.saved(threshold)
            told = f"{needed} designed do the work of {model}'s {own}: {saved} anchors saved"
        print(f"IoU {threshold:g}: {told}")
    ((name, shapes),) = design.model_options.items()
    levels = [[list(shape) for shape in level] for level in shapes]
    print(f"train with: --model {model} --model-options '{name}={levels}'")
    print(f"wrote {plot_anchor_design(design, output)}")


def print_receptive_field(model: str, gradient: bool, output: Path) -> None:
    """What each position of a model sees, and the anchors that reach further.

    Args:
        gradient: measure the fields, too, see :func:`measured_fields`.
    """
    report = report_receptive_field(model)
    summary = report.summary
    if gradient:
        for row, field in zip(summary, measured_fields(model), strict=True):
            row["by gradient"] = f"{field.size[1]:g}×{field.size[0]:g}"
    print(markdown_table(summary), end="\n\n")
    print(markdown_table(report.rows))
    uncovered = sum(not anchor.covered for anchor in report.anchors)
    print(f"{uncovered} of {len(report.anchors)} anchors reach out of the receptive field")
    print(f"wrote {plot_receptive_field(report, output)}")
