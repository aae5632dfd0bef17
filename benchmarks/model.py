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
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.environment import environment
from benchmarks.model_stages import STAGES, Stopwatch, draw, share_behind
from benchmarks.tables import table
from fastrpn.data import generate_synthetic, open_dataset
from fastrpn.evaluation import evaluate
from fastrpn.models import faster_rcnn, load_torchvision
from fastrpn.models.checkpoint import load_model

CLASSES = 91
LAYOUT = "fastrpn channels_last"  # also where training would choose the other layout
COMPILED = "fastrpn compiled"  # by Inductor
BF16 = " bf16"  # behind a library's name: the same under autocast
SHARE = "behind the backbone, no product"
SIZES = {"150x200": (150, 200), "600x800": (600, 800), "800x1333 (default)": (800, 1333)}


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


def with_bf16(models: dict[str, nn.Module], bf16: bool, make: Callable) -> dict[str, Callable]:
    """`make(name, None)` for each model, and under autocast `make(name, torch.bfloat16)`."""
    found = {name: make(name, None) for name in models}
    if bf16:
        found |= {name + BF16: make(name, torch.bfloat16) for name in models}
    return found


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

    candidates = with_bf16(models, bf16, lambda name, dtype: partial(detect, models[name], dtype))
    times = take_turns(candidates, rounds, clock)

    watches = {name: Stopwatch(model) for name, model in models.items()}
    stages: dict[str, dict[str, float]] = {}
    for name, run in candidates.items():
        watch = watches[name.removesuffix(BF16)]
        laps = []
        for _ in range(rounds):
            watch.seconds.clear()
            run()
            laps.append(dict(watch.seconds))
        stages[name] = {s: 1e3 * statistics.median(lap[s] for lap in laps) for s in STAGES}
        stages[name][SHARE] = share_behind(stages[name])
    return _row("inference", work, times) | {
        "stages": stages,
        "detections": len(found["scores"]),
        "same_detections": agreement,
    }


def training(
    work: str,
    rounds: int,
    bf16: bool,
    clock: Callable[[], float],
    layouts: bool = False,
    compiled: bool = False,
) -> dict:
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

    def step_in_channels_last() -> None:
        with patch("fastrpn.models.faster_rcnn.training_layout", lambda _: torch.channels_last):
            step("fastrpn")

    losses_compiled = torch.compile(models["fastrpn"].losses, fullgraph=True)  # at its first call

    def step_compiled(dtype: torch.dtype | None) -> None:
        with patch.object(models["fastrpn"], "losses", losses_compiled):
            step("fastrpn", dtype)

    candidates = with_bf16(models, bf16, lambda name, dtype: partial(step, name, dtype))
    if compiled:
        names = {COMPILED: models["fastrpn"]}
        candidates |= with_bf16(names, bf16, lambda _, dtype: partial(step_compiled, dtype))
    if layouts:
        candidates[LAYOUT] = step_in_channels_last
    return _row("training step", work, take_turns(candidates, rounds, clock))


def _row(what: str, work: str, times: dict[str, list[float]]) -> dict:
    medians = {name: statistics.median(values) for name, values in times.items()}
    speedup = {
        name: medians["torchvision"] / value
        for name, value in medians.items()
        if name != "torchvision"
    }
    return {"what": what, "work": work, "milliseconds": medians, "speedup": speedup, "runs": times}


def change_of_ap(checkpoint: Path, data: Path | None, images: int = 300) -> dict[str, object]:
    """AP and AP50 of a trained model in float32 and bfloat16, on the held-out images of `data`.

    Without `data` on synthetic images as in `fastrpn demo`.
    """
    model, classes = load_model(checkpoint, torch.device("cpu"))
    found: dict[str, object] = {"checkpoint": checkpoint.name, "images": images}
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            data = generate_synthetic(folder, 1, images, seed=0, image_size=(160, 160))
        dataset = open_dataset(data, "val", classes)
        found["images"] = len(dataset)
        for name, half in (("float32", False), ("bfloat16", True)):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                metrics = evaluate(model, dataset, batch_size=8)
            found[name] = {key: metrics[key] for key in ("AP", "AP50")}
    return found


def tables(rows: list[dict]) -> list[str]:
    """Totals of all rows, and the stages of the rows that have them."""
    names = list(dict.fromkeys(name for row in rows for name in row["milliseconds"]))
    lines = []
    for row in rows:
        times = row["milliseconds"]
        cells = {name: f"{ms:.0f}, {times['torchvision'] / ms:.2f}×" for name, ms in times.items()}
        lines.append([row["what"], row["work"], *(cells.get(name, "") for name in names)])
    header = ["milliseconds, times faster than torchvision", "image", *names]
    found = [table(header, lines, padded=True)]
    for row in (row for row in rows if "stages" in row):
        stages = row["stages"].values()
        lines = [[stage, *(f"{times[stage]:.1f}" for times in stages)] for stage in STAGES]
        lines.append([SHARE, *(f"{times[SHARE]:.1%}" for times in stages)])
        found.append(table([f"{row['work']}: stage, ms", *row["stages"]], lines, padded=True))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/model"))
    parser.add_argument("--rounds", type=int, default=5, help="runs of each candidate")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--bf16", action="store_true", help="autocast as well; emulation is slow")
    parser.add_argument(
        "--layouts", action="store_true", help="training in channels_last as well, on every CPU"
    )
    parser.add_argument("--compiled", action="store_true", help="Inductor's training step, too")
    parser.add_argument("--checkpoint", type=Path, help="of a trained model: AP in both precisions")
    parser.add_argument("--data", type=Path, help="VOC layout, for --checkpoint; else synthetic")
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the process instead of the wall's: busy machine"
    )
    options = parser.parse_args(arguments)
    clock = time.process_time if options.cpu_time else time.perf_counter
    console = Console()
    rows = []
    trains = partial(training, layouts=options.layouts, compiled=options.compiled)
    for name, measure in (("inference", inference), ("training", trains)):
        for work in options.sizes:
            with console.status(f"{name}, {work}"):
                rows.append(measure(work, options.rounds, options.bf16, clock))
    results = environment() | {
        "clock": "CPU time" if options.cpu_time else "wall",
        "native_bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "rows": rows,
    }
    if options.checkpoint:
        results["ap"] = change_of_ap(options.checkpoint, options.data)
        console.print(results["ap"])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=1))
    draw(results, options.output / "stages.png")
    for text in tables(rows):
        print(text, end="\n\n")
    console.print(f"bfloat16 in hardware: {results['native_bf16']}; clock: {results['clock']}")


if __name__ == "__main__":
    main()
