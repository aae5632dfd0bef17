"""Where a detector's time goes: a stopwatch for its stages, and their picture."""

import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import nn

from benchmarks.plots import DPI

STAGES = ["transform", "backbone + FPN", "RPN head", "proposals", "pooling", "box head", "post"]
BEHIND = ["proposals", "pooling", "post"]  # the backbone, and neither convolution nor product
COLOURS = ["#9a9a9a", "#30638e", "#66a182", "#d1495b", "#edae49", "#8d6a9f", "#333333"]
# Modules of either detector; what is in none of those inside it counts for the outer one.
STAGE_OF = {
    "": "transform",
    "backbone": "backbone + FPN",
    "rpn": "proposals",
    "rpn.head": "RPN head",
    "roi_head": "post",
    "roi_heads": "post",
    "roi_head.pooler": "pooling",
    "roi_heads.box_roi_pool": "pooling",
    "roi_head.box_head": "box head",
    "roi_heads.box_head": "box head",
    "roi_head.box_predictor": "box head",
    "roi_heads.box_predictor": "box head",
}


class Stopwatch:
    """Seconds that each stage of a detector takes by itself, without the stages inside it."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = 0.0
        for name, module in model.named_modules():
            if name in STAGE_OF:
                module.register_forward_pre_hook(partial(self._enter, STAGE_OF[name]))
                module.register_forward_hook(self._leave)

    def _enter(self, stage: str, *_) -> None:
        self._book()
        self._stack.append(stage)

    def _leave(self, *_) -> None:
        self._book()
        self._stack.pop()

    def _book(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def share_behind(stages: dict[str, float]) -> float:
    """Share of the time behind the backbone that is neither convolution nor matrix product."""
    return sum(stages[stage] for stage in BEHIND) / sum(stages[stage] for stage in STAGES)


def draw(results: dict, path: Path) -> None:
    """A stacked bar of the stages for each detector and size of image."""
    rows = [row for row in results["rows"] if "stages" in row]
    bars = [(row["work"], name, row["stages"][name]) for row in rows for name in row["stages"]]
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(bars) + 1.9), layout="constrained")
    left = [0.0] * len(bars)
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        values = [stages[stage] for *_, stages in bars]
        axes.barh(range(len(bars)), values, left=left, color=colour, label=stage, height=0.7)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for position, total in enumerate(left):
        axes.text(total * 1.01, position, f"{total:,.0f} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [f"{name}, {work}" for work, name, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(left))
    axes.set_xlabel("milliseconds for an image")
    axes.spines[["top", "right"]].set_visible(False)
    title = f"ResNet-50 FPN, {results['cpu']}, {results['threads']} threads"
    figure.suptitle(title, fontsize=10)
    figure.legend(frameon=False, fontsize=8, ncols=len(STAGES), loc="outside lower center")
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
