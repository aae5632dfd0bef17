"""Curves, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastrpn.drawing.canvas import PALETTE, colour_of
from fastrpn.files import write_atomically


def plot_losses(
    history: Sequence[Mapping[str, float]], path: str | Path, window: int | None = None
) -> Path:
    """Draws every loss against the step, with their sum, and writes a PNG.

    Args:
        history: one mapping a step; keys that start with "loss" are drawn, "step" is the x axis if
            it is there. A key may be missing in some steps.
        path: of the PNG.
        window: steps of the running mean (the raw values stay visible, pale); default: a 40th.

    Returns:
        `path`.
    """
    if not history:
        raise ValueError("history is empty")
    steps = np.array([entry.get("step", i) for i, entry in enumerate(history)], float)
    names = sorted({key for entry in history for key in entry if key.startswith("loss")})
    series = {
        name: np.array([entry.get(name, np.nan) for entry in history], float) for name in names
    }
    if len(series) > 1 and "loss" not in series:
        series = {"sum": np.sum(list(series.values()), axis=0), **series}
    window = window or max(1, len(history) // 40)

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    top = 0.0
    for name, values in series.items():
        smooth = _running_mean(values, window)
        top = max(top, smooth[len(smooth) // 20 :].max())  # the very first steps may leave the top
        colour = "black" if name in ("loss", "sum") else None
        (line,) = axes.plot(steps, smooth, label=_title(name), color=colour, linewidth=1.6)
        axes.plot(steps, values, color=line.get_color(), alpha=0.15, linewidth=0.6)
    axes.set(xlabel="step", ylabel="loss", title="Training losses", ylim=(0, 1.1 * top or 1))
    return _save(figure, axes, path)


def plot_pr_curves(
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    path: str | Path,
    ap: Mapping[str, float] | None = None,
) -> Path:
    """Draws precision against recall, a line in each class's colour, and writes a PNG.

    Args:
        curves: {name: {"recall": [D], "precision": [D]}}, as `evaluate` returns them.
        path: of the PNG.
        ap: {name: average precision} for the legend.

    Returns:
        `path`.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for label, (name, curve) in enumerate(curves.items(), start=1):
        text = f"{name}  {ap[name]:.3f}" if ap else name
        recall, precision = [0, *curve["recall"]], [1, *curve["precision"]]
        colour = np.divide(colour_of(label), 255)
        style = "-" if label <= len(PALETTE) else "--"
        axes.plot(recall, precision, style, color=colour, label=text, linewidth=1.6)
    axes.set(
        xlabel="recall",
        ylabel="precision",
        title="Precision and recall at IoU 0.5",
        xlim=(0, 1.01),
        ylim=(0, 1.02),
    )
    return _save(figure, axes, path)


def _save(figure: Figure, axes: Axes, path: str | Path) -> Path:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return write_atomically(path, content.getvalue())


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values, or as many as there are; NaN does not spread."""
    known = np.isfinite(values)
    kernel = np.ones(window)
    total = np.convolve(np.where(known, values, 0), kernel)[: len(values)]
    count = np.convolve(known, kernel)[: len(values)]
    return total / np.maximum(count, 1)


def _title(name: str) -> str:
    return name.removeprefix("loss_").replace("_", " ")
