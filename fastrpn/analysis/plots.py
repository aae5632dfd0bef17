"""Pictures of the analyses."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from fastrpn.analysis.anchor_coverage import AnchorCoverage, ReceptiveFieldReport
from fastrpn.analysis.anchor_design import AnchorDesign
from fastrpn.analysis.proposal_recall import ProposalRecall
from fastrpn.files import write_atomically

__all__ = ["plot_anchor_design", "plot_proposal_recall", "plot_receptive_field"]

_COLOURS = ("#1d76db", "#2a9d50", "#e63946", "#8c50c8", "#f4a228")
_FIELD = "#f4a228"


def plot_receptive_field(report: ReceptiveFieldReport, path: str | Path) -> Path:
    """Draws each level's anchors over what their position sees, and writes a PNG.

    The filled squares are the receptive fields of the backbone and behind the RPN's 3x3; anchors
    that reach out of the latter are dashed.
    """
    levels = len(report.rpn)
    figure = Figure(figsize=(max(4.2 * levels, 6.4), 5.6), layout="constrained")
    figure.suptitle(f"{report.model}: anchors and receptive field of one position", fontsize=12)
    for level, axes in enumerate(figure.subplots(1, levels, squeeze=False)[0]):
        anchors = [anchor for anchor in report.anchors if anchor.level == level]
        _draw_field(axes, report.backbone[level].box(), alpha=0.30)
        _draw_field(axes, report.rpn[level].box(), alpha=0.22)
        for anchor in anchors:
            _draw_anchor(axes, anchor, _size_colour(anchor, anchors))
        reach = max(abs(v) for a in anchors for v in (*a.box, *a.field)) * 1.06
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal", xlabel="pixels")
        stride = report.backbone[level].stride[0]
        axes.set_title(f"stride {stride:g}" if levels > 1 else "", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        axes.legend(
            handles=_field_legend(report, level, anchors),
            loc="upper center",
            bbox_to_anchor=(0.5, -0.1),
            ncols=1 if levels > 1 else 2,
            frameon=False,
            fontsize=8.5,
        )
    return _save(figure, path)


def plot_anchor_design(design: AnchorDesign, path: str | Path) -> Path:
    """Draws recall against the number of anchors, and the boxes with both sets; writes a PNG."""
    thresholds = len(design.thresholds)
    figure = Figure(figsize=(4.4 * (thresholds + 1), 4.4), layout="constrained")
    *curves, cloud = figure.subplots(1, thresholds + 1)
    for which, axes in enumerate(curves):
        _draw_recalls(axes, design, which)
    widths, heights = design.sizes.numpy().T
    cloud.scatter(widths, heights, s=4, color="#9a9a9a", alpha=0.35, linewidths=0)
    for shapes, colour, marker, label in (
        (design.default_shapes, _COLOURS[0], "s", "default"),
        (design.shapes.flatten(0, 1), _COLOURS[2], "o", "designed"),
    ):
        w, h = shapes.numpy().T
        cloud.scatter(
            w, h, s=42, color=colour, marker=marker, label=label, edgecolors="white", zorder=3
        )
    cloud.set(xlabel="width, pixels", ylabel="height, pixels", title="boxes and anchors")
    cloud.set(xscale="log", yscale="log", aspect="equal")
    for axis in (cloud.xaxis, cloud.yaxis):
        axis.set_major_locator(LogLocator(base=2))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())
    cloud.legend(frameon=False, loc="upper left")
    for axes in (*curves, cloud):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def plot_proposal_recall(results: Mapping[str, ProposalRecall], path: str | Path) -> Path:
    """Draws recall against the number of proposals, a panel for each IoU, and writes a PNG.

    Args:
        results: {name of the method: its recall}, all at the same thresholds.
        path: of the PNG.
    """
    thresholds = next(iter(results.values())).iou_thresholds
    figure = Figure(figsize=(4.8 * len(thresholds), 4.2), layout="constrained")
    panels = figure.subplots(1, len(thresholds), squeeze=False)[0]
    for which, (axes, threshold) in enumerate(zip(panels, thresholds, strict=True)):
        for (name, result), colour in zip(results.items(), _COLOURS, strict=False):
            axes.plot(result.counts, result.recall[which], "o-", color=colour, ms=4, label=name)
        axes.set(xscale="log", ylim=(0, 1.03), title=f"IoU {threshold:g}")
        axes.set(xlabel="proposals an image", ylabel="recall")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
    return _save(figure, path)


def _draw_recalls(axes: Axes, design: AnchorDesign, which: int) -> None:
    threshold, default = design.thresholds[which], design.default[which]
    axes.plot(
        design.numbers, design.designed[which], "o-", color=_COLOURS[2], ms=4, label="designed"
    )
    axes.plot(
        range(1, len(default) + 1),
        default,
        "s-",
        color=_COLOURS[0],
        ms=4,
        label="default, best of them",
    )
    axes.axhline(default[-1], color=_COLOURS[0], linewidth=0.8, linestyle=":")
    needed = design.needed(threshold)
    if needed is not None and design.saved(threshold):
        reached = design.designed[which][design.numbers.index(needed)]
        axes.annotate(
            f"{needed} do the work of {len(default)}",
            (needed, reached),
            xytext=(0.5, 0.3),
            textcoords="axes fraction",
            arrowprops={"arrowstyle": "->", "color": "#555555", "connectionstyle": "arc3,rad=0.2"},
        )
    axes.set(xlabel="anchors", ylabel="recall", ylim=(0, 1.03), title=f"IoU {threshold:g}")
    axes.legend(frameon=False, loc="lower right")


def _draw_field(axes: Axes, box: tuple[float, ...], alpha: float) -> None:
    x1, y1, x2, y2 = box
    axes.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor=_FIELD, alpha=alpha, edgecolor="none")
    )


def _draw_anchor(axes: Axes, anchor: AnchorCoverage, colour: str) -> None:
    x1, y1, x2, y2 = anchor.box
    style = "-" if anchor.covered else (0, (4, 3))
    axes.add_patch(
        Rectangle(
            (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.7, linestyle=style
        )
    )


def _sizes(anchors: list[AnchorCoverage]) -> dict[int, list[AnchorCoverage]]:
    """Anchors by size; rounded corners make 257² of 256², which is no other size."""
    groups: dict[int, list[AnchorCoverage]] = {}
    for anchor in sorted(anchors, key=lambda anchor: anchor.row["size"]):
        size = anchor.row["size"]
        near = next((known for known in groups if size <= 1.02 * known), size)
        groups.setdefault(near, []).append(anchor)
    return groups


def _size_colour(anchor: AnchorCoverage, anchors: list[AnchorCoverage]) -> str:
    groups = _sizes(anchors).values()
    return _COLOURS[next(i for i, group in enumerate(groups) if anchor in group) % len(_COLOURS)]


def _field_legend(
    report: ReceptiveFieldReport, level: int, anchors: list[AnchorCoverage]
) -> list[Patch]:
    before, behind = report.summary[level]["backbone"], report.summary[level]["with the RPN's 3×3"]
    patches = [
        Patch(facecolor=_FIELD, alpha=0.52, label=f"seen by the backbone: {before}"),
        Patch(facecolor=_FIELD, alpha=0.22, label=f"seen with the RPN's 3×3: {behind}"),
    ]
    for size, group in _sizes(anchors).items():
        covered = all(anchor.covered for anchor in group)
        word = "covered" if covered else "not covered"
        patches.append(
            Patch(
                facecolor="none",
                edgecolor=_size_colour(group[0], anchors),
                linestyle="-" if covered else "--",
                linewidth=1.7,
                label=f"anchors of {size}²: {word}",
            )
        )
    return patches


def _save(figure: Figure, path: str | Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return write_atomically(path, content.getvalue())
