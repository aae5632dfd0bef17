"""The whole detector on the CPU beside torchvision's fasterrcnn_resnet50_fpn, with equal weights.

`OMP_NUM_THREADS=2 python -m benchmarks.model --output benchmarks/results/model` times inference,
stage by stage, and training steps, writes `results.json` and `stages.png` and prints the table.
The candidates take turns in one process; medians count. Inference is compared before it is timed.

Weights are random, but the batch norms are set to the statistics of random images and the scores
are set apart, so that there is as much to suppress and to classify as in a trained network. For
training, the norms and the first two stages are frozen, as torchvision does for fine-tuning.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.environment import environment
from benchmarks.plots import DPI
from fastrpn.models import faster_rcnn, load_torchvision

CLASSES = 91
SIZES = {"150x200": (150, 200), "600x800": (600, 800), "800x1333 (default)": (800, 1333)}
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


def build_pair(size: tuple[int, int], fine_tuning: bool) -> dict[str, nn.Module]:
    """Both detectors with the same random weights, for images of (height, width)."""
    torch.manual_seed(0)
    limits = {"min_size": min(size), "max_size": max(size)}
    if fine_tuning:
        norm = FrozenBatchNorm2d
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=norm, trainable_layers=3
        )
        for module in backbone.modules():
            if isinstance(module, norm):
                module.weight.fill_(0.5)  # keeps activations in bounds
        theirs = detection.FasterRCNN(backbone, CLASSES, **limits)
        rules = {"backbone_norm": "frozen", "freeze_below": 3}
    else:
        theirs = detection.fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=CLASSES, **limits
        )
        _make_realistic(theirs)
        rules = {}
    ours = faster_rcnn("resnet50_fpn", CLASSES, **limits, **rules)
    load_torchvision(ours, theirs.state_dict())
    ours.to(memory_format=torch.channels_last)
    return {"fastrpn": ours, "torchvision": theirs}


@torch.no_grad()
def _make_realistic(model: nn.Module) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train().backbone(torch.rand(2, 3, 192, 256) * 4 - 2)
    for layer, factor in (
        (model.rpn.head.cls_logits, 10),
        (model.rpn.head.bbox_pred, 10),
        (model.roi_heads.box_predictor.cls_score, 3),
    ):
        layer.weight.mul_(factor)


def share_found(these: dict[str, Tensor], those: dict[str, Tensor]) -> float:
    """Share of these detections that are among those: equal label, box and score nearly equal."""
    boxes = (these["boxes"][:, None] - those["boxes"]).abs().amax(-1) < 0.1
    scores = (these["scores"][:, None] - those["scores"]).abs() < 1e-3
    labels = these["labels"][:, None] == those["labels"]
    return (boxes & scores & labels).any(1).float().mean().item()


def take_turns(
    candidates: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds of every run of each candidate, after one that does not count."""
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = clock()
            run()
            times[name].append(1e3 * (clock() - start))
    return times


def inference(work: str, rounds: int, bf16: bool, clock: Callable[[], float]) -> dict:
    """Times detections of one image; stages too."""
    models = {name: model.eval() for name, model in build_pair(SIZES[work], False).items()}
    image = [torch.rand(3, *SIZES[work])]

    @torch.inference_mode()
    def detect(model: nn.Module, dtype: torch.dtype | None = None):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            return model(image)

    found, expected = (detect(model)[0] for model in models.values())
    agreement = min(share_found(found, expected), share_found(expected, found))
    assert agreement > 0.8, f"{work}: only {agreement:.2f} of the detections are torchvision's"

    candidates = {name: partial(detect, model) for name, model in models.items()}
    if bf16:
        candidates["fastrpn bf16"] = partial(detect, models["fastrpn"], torch.bfloat16)
    times = take_turns(candidates, rounds, clock)

    watches = {name: Stopwatch(model) for name, model in models.items()}
    for _ in range(rounds):
        for model in models.values():
            detect(model)
    stages = {name: {s: 1e3 * w.seconds[s] / rounds for s in STAGES} for name, w in watches.items()}
    for of_model in stages.values():
        behind = sum(of_model[stage] for stage in BEHIND)
        of_model["behind the backbone, no product"] = behind / sum(of_model.values())
    return _row("inference", work, times) | {
        "stages": stages,
        "detections": len(found["scores"]),
        "same_detections": agreement,
    }


def training(work: str, rounds: int, bf16: bool, clock: Callable[[], float]) -> dict:
    """Times a step of fine-tuning with one image: losses, gradients and the update."""
    models = {name: model.train() for name, model in build_pair(SIZES[work], True).items()}
    images = [torch.rand(3, *SIZES[work])]
    corners = torch.tensor([[0.05, 0.1], [0.3, 0.1], [0.1, 0.4], [0.5, 0.5]])
    sides = torch.tensor([[0.3, 0.4], [0.2, 0.2], [0.15, 0.3], [0.45, 0.45]])
    scale = torch.tensor(SIZES[work]).flip(0).repeat(2)
    boxes = torch.cat([corners, corners + sides], dim=1) * scale
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 5, 2, 7])}]
    optimizers = {
        name: torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], 1e-5, 0.9, weight_decay=1e-4
        )
        for name, model in models.items()
    }

    def step(name: str, dtype: torch.dtype | None = None) -> None:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            losses = sum(models[name](images, targets).values())
        optimizers[name].zero_grad()
        losses.backward()
        optimizers[name].step()

    candidates = {name: partial(step, name) for name in models}
    if bf16:
        candidates["fastrpn bf16"] = partial(step, "fastrpn", torch.bfloat16)
    return _row("training step", work, take_turns(candidates, rounds, clock))


def _row(what: str, work: str, times: dict[str, list[float]]) -> dict:
    medians = {name: statistics.median(values) for name, values in times.items()}
    speedup = {
        name: medians["torchvision"] / value
        for name, value in medians.items()
        if name != "torchvision"
    }
    return {"what": what, "work": work, "milliseconds": medians, "speedup": speedup, "runs": times}


def tables(rows: list[dict]) -> list[Table]:
    """Totals of all rows, and the stages of the rows that have them."""
    totals = Table("what", "image", "fastrpn", "torchvision", "×", "fastrpn bf16", "×")
    for row in rows:
        ms, speedup = row["milliseconds"], row["speedup"]
        cells = [f"{ms['fastrpn']:.0f}", f"{ms['torchvision']:.0f}", f"{speedup['fastrpn']:.2f}"]
        if "fastrpn bf16" in ms:
            cells += [f"{ms['fastrpn bf16']:.0f}", f"{speedup['fastrpn bf16']:.2f}"]
        totals.add_row(row["what"], row["work"], *cells)
    found = [totals]
    for row in (row for row in rows if "stages" in row):
        names = list(row["stages"])
        table = Table("stage, ms", *names, title=row["work"])
        for stage in STAGES:
            table.add_row(stage, *(f"{row['stages'][name][stage]:.1f}" for name in names))
        share = "behind the backbone, no product"
        table.add_row(share, *(f"{row['stages'][name][share]:.1%}" for name in names))
        found.append(table)
    return found


def draw(results: dict, path: Path) -> None:
    """A stacked bar of the stages for each detector and size of image."""
    rows = [row for row in results["rows"] if "stages" in row]
    bars = [(row["work"], name, row["stages"][name]) for row in rows for name in row["stages"]]
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(bars) + 1.6))
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
    axes.set_title(
        f"ResNet-50 FPN, float32, {results['cpu']}, {results['threads']} threads", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/model"))
    parser.add_argument("--rounds", type=int, default=5, help="runs of each candidate")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--bf16", action="store_true", help="bfloat16 as well, on the first size; emulation is slow"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the process instead of the wall's: busy machine"
    )
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    console = Console()
    rows = []
    for measure in (inference, training):
        for work in options.sizes:
            bf16 = options.bf16 and work == options.sizes[0]
            with console.status(f"{measure.__name__}, {work}"):
                rows.append(measure(work, options.rounds, bf16, clock))
    results = environment() | {
        "clock": "CPU time" if options.cpu_time else "wall",
        "native_bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "rows": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=1))
    draw(results, options.output / "stages.png")
    for table in tables(rows):
        console.print(table)
    console.print(f"bfloat16 in hardware: {results['native_bf16']}; clock: {results['clock']}")


if __name__ == "__main__":
    main()
