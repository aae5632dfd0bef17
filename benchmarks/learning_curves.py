"""Learning curves of fastrpn's Faster R-CNN and torchvision's: same network, weights and batches.

`python -m benchmarks.learning_curves --output benchmarks/results/learning_curves` draws a synthetic
data set, trains both models side by side on every batch, once for each seed, and writes
`results.json` and `curves.png`. They share the modules of the network, the initial weights, the
anchors, the rules of both stages, the optimizer, the schedule and the batches; each draws its own
samples of anchors and regions, as random as they are in either library.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.plots import COLOURS, DPI
from fastrpn.data import RandomHorizontalFlip, VOCDataset, build_loader, generate_synthetic
from fastrpn.evaluation import evaluate
from fastrpn.models import PRESETS, FasterRCNN, load_torchvision
from fastrpn.models.backbones import TinyHead

SIDE = 128  # pixels, both sides of every image
STRIDE, CHANNELS, ROI_SIZE = 8, 64, 7
ANCHOR_SIZES, ANCHOR_RATIOS = ((21.0, 29.0, 38.0, 51.0),), (0.7, 1.0, 1.43)
# The rules in torchvision's words; fastrpn's names for them stand beside.
RULES = {
    "rpn_pre_nms_top_n_train": ("rpn_pre_nms_top_n_train", 600),
    "rpn_pre_nms_top_n_test": ("rpn_pre_nms_top_n_test", 600),
    "rpn_post_nms_top_n_train": ("rpn_post_nms_top_n_train", 200),
    "rpn_post_nms_top_n_test": ("rpn_post_nms_top_n_test", 100),
    "rpn_batch_size_per_image": ("rpn_batch_size", 256),
    "box_batch_size_per_image": ("box_batch_size", 32),
    "box_positive_fraction": ("box_positive_fraction", 0.5),
    "box_nms_thresh": ("box_nms_threshold", 0.4),
}
IMAGE = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.25, 0.25, 0.25)}
BATCH, LR, MOMENTUM, WEIGHT_DECAY, WARMUP = 4, 0.02, 0.9, 1e-4, 100


class Backbone(nn.Sequential):
    """Five convolutions with batch norm, stride 8: [B, 3, H, W] -> [B, 64, H / 8, W / 8]."""

    out_channels = CHANNELS
    strides = (STRIDE,)

    def __init__(self) -> None:
        widths = [(3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
        super().__init__(*(layer for width in widths for layer in _conv_norm_relu(*width)))


def _conv_norm_relu(in_channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU()


def build_pair(num_classes: int) -> dict[str, nn.Module]:
    """The two detectors with the same random weights."""
    theirs = detection.FasterRCNN(
        Backbone(),
        min_size=SIDE,
        max_size=SIDE,
        rpn_anchor_generator=AnchorGenerator(ANCHOR_SIZES, (ANCHOR_RATIOS,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], ROI_SIZE, sampling_ratio=2),
        box_head=TinyHead(CHANNELS, ROI_SIZE),
        box_predictor=FastRCNNPredictor(TinyHead.out_features, num_classes),
        **IMAGE,
        **{name: value for name, (_, value) in RULES.items()},
    )
    config = PRESETS["torchvision"].override(
        min_size=SIDE,
        max_size=SIDE,
        anchor_sizes=ANCHOR_SIZES,
        anchor_ratios=ANCHOR_RATIOS,
        roi_levels=1,
        **IMAGE,
        **dict(RULES.values()),
    )
    ours = FasterRCNN(Backbone(), TinyHead(CHANNELS, ROI_SIZE), num_classes, config)
    load_torchvision(ours, theirs.state_dict())
    ours.to(memory_format=torch.channels_last)
    return {"fastrpn": ours, "torchvision": theirs}


def train_pair(data: Path, seed: int, steps: int, evaluations: int) -> list[dict]:
    """Trains both models on the same batches.

    Returns:
        for each model: "model", "seed", "curve" (step, AP and AP50 at each evaluation),
        "losses" (the sum, every step) and "cpu_ms_per_step" (the median).
    """
    train, held_out = VOCDataset(data, "train"), VOCDataset(data, "val")
    torch.manual_seed(seed)
    models = build_pair(len(train.classes))
    optimizers = {
        name: torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
        for name, model in models.items()
    }
    runs = {
        name: {"model": name, "seed": seed, "curve": [], "losses": [], "seconds": []}
        for name in models
    }
    loader = build_loader(
        train, BATCH, shuffle=True, seed=seed, transform=RandomHorizontalFlip(0.5), drop_last=True
    )
    for step, (images, targets) in zip(range(1, steps + 1), _endless(loader), strict=False):
        targets = [_without_ignored(target) for target in targets]
        for name in sorted(models, reverse=step % 2 == 0):  # each goes first in turn
            for group in optimizers[name].param_groups:
                group["lr"] = LR * lr_factor(step, steps)
            start = time.process_time()
            loss = train_step(models[name], optimizers[name], images, targets)
            runs[name]["seconds"].append(time.process_time() - start)
            runs[name]["losses"].append(round(loss, 5))
        if step * evaluations // steps > (step - 1) * evaluations // steps:
            for name, model in models.items():
                metrics = evaluate(model, held_out, batch_size=8, progress=False)
                point = {"step": step, "AP": metrics["AP"], "AP50": metrics["AP50"]}
                runs[name]["curve"].append(point)
                print(f"seed {seed}, {name}: {point}", flush=True)
    for run in runs.values():
        run["cpu_ms_per_step"] = 1e3 * statistics.median(run.pop("seconds"))
    return list(runs.values())


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images, targets) -> float:
    """The loop body of torchvision's reference scripts, for either model."""
    model.train()
    losses = sum(model(images, targets).values())
    optimizer.zero_grad()
    losses.backward()
    optimizer.step()
    return losses.item()


def lr_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 0; ``step`` counts from 1."""
    progress = max(0, step - WARMUP) / max(1, steps - WARMUP)
    return min(1.0, step / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))


def _endless(loader):
    for _ in cycle([None]):
        yield from loader


def _without_ignored(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision knows no boxes to ignore; fastrpn leaves them out just so."""
    keep = ~target["ignore"]
    return {"boxes": target["boxes"][keep], "labels": target["labels"][keep]}


def summarize(runs: list[dict]) -> dict[str, dict]:
    """Mean and standard deviation over the seeds of the last AP and AP50, by model."""
    summary = {}
    for name in ("fastrpn", "torchvision"):
        of_model = [run for run in runs if run["model"] == name]
        summary[name] = {
            "cpu_ms_per_step": statistics.median(r["cpu_ms_per_step"] for r in of_model)
        }
        for metric in ("AP", "AP50"):
            last = [run["curve"][-1][metric] for run in of_model]
            spread = statistics.stdev(last) if len(last) > 1 else 0.0
            summary[name][metric] = {"mean": statistics.mean(last), "std": spread, "seeds": last}
    return summary


def draw(runs: list[dict], path: Path) -> None:
    """The loss (running mean), AP and AP50 against the step; a line a seed, the mean bold."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8))
    for name in ("fastrpn", "torchvision"):
        of_model = [run for run in runs if run["model"] == name]
        losses = [_running_mean(run["losses"]) for run in of_model]
        steps = range(1, len(losses[0]) + 1)
        _draw_lines(panels[0], steps, losses, name)
        steps = [point["step"] for point in of_model[0]["curve"]]
        for panel, metric in zip(panels[1:], ("AP", "AP50"), strict=True):
            _draw_lines(panel, steps, [[p[metric] for p in r["curve"]] for r in of_model], name)
    for panel, title in zip(panels, ("training loss", "AP", "AP50"), strict=True):
        panel.set(title=title, xlabel="step")
        panel.grid(True, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(bottom=0)
    panels[2].legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _draw_lines(panel: plt.Axes, steps, lines: list[list[float]], name: str) -> None:
    for line in lines:
        panel.plot(steps, line, color=COLOURS[name], alpha=0.35, linewidth=0.9)
    mean = [statistics.mean(values) for values in zip(*lines, strict=True)]
    panel.plot(steps, mean, color=COLOURS[name], linewidth=2, label=name)


def _running_mean(values: list[float], width: int = 50) -> list[float]:
    return [statistics.mean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/learning_curves"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--evaluations", type=int, default=6, help="of each run, evenly spaced")
    parser.add_argument(
        "--images", type=int, nargs=2, default=(2000, 200), help="train and held out"
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        data = generate_synthetic(
            folder, *options.images, seed=0, image_size=(SIDE, SIDE), progress=False
        )
        for seed in options.seeds:
            runs += train_pair(data, seed, options.steps, options.evaluations)
            results = {
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "settings": {"batch": BATCH, "lr": LR, "steps": options.steps, "side": SIDE},
                "summary": summarize(runs),
                "runs": runs,
            }
            (options.output / "results.json").write_text(json.dumps(results))
            draw(runs, options.output / "curves.png")
    print(json.dumps(results["summary"], indent=2))


if __name__ == "__main__":
    main()
