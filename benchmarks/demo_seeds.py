"""The demo's trees over several seeds, beside torchvision's detector on the same batches.

`python -m benchmarks.demo_seeds --output runs/seeds --seeds 0 1 2` trains by the recipe of
`fastrpn.demo.trees` and measures on the other places; a file a run. `--library torchvision` trains
torchvision's FasterRCNN around the same backbone, with the same weights to start from, batches,
optimizer and schedule; `--start random` without the weights of ImageNet. Processes may share the
folder: `OMP_NUM_THREADS=1`, one library each, is the fastest on two cores. `--table` prints what is
there.
"""

import argparse
import copy
import json
import math
import statistics
import time
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from fastrpn.data import open_dataset
from fastrpn.data.tiles import Tiles
from fastrpn.demo.trees import TILE, fetch_photographs, fetch_weights, trees_config
from fastrpn.evaluation.evaluate import evaluate
from fastrpn.models import FasterRCNN, load_weights
from fastrpn.training.config import TrainConfig, lr_factor
from fastrpn.training.setup import (
    new_model,
    new_optimizer,
    seed_everything,
    seed_step,
    training_loader,
)

LIBRARIES = ("fastrpn", "torchvision")


def run(library: str, seed: int, start: str, steps: int | None, output: Path) -> dict:
    """Trains one detector and measures it."""
    photographs, weights = fetch_photographs(output), fetch_weights(output)
    config = trees_config(photographs, weights, output / "model", seed)
    if start == "random":
        config.weights = None
    if steps is not None:
        config.steps, config.warmup_steps = steps, steps // 6
    began = time.perf_counter()
    model = train(library, config)
    seconds = time.perf_counter() - began
    test = Tiles(open_dataset(photographs / "test", ""), TILE, 0.0)
    scores = evaluate(model, test, progress=False)
    florida = evaluate(model, open_dataset(photographs / "florida", ""), progress=False)
    return {
        "library": library,
        "seed": seed,
        "start": start,
        "steps": config.steps,
        "AP50": scores["AP50"],
        "AP": scores["AP"],
        "florida_AP50": florida["AP50"],
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def train(library: str, config: TrainConfig) -> nn.Module:
    """The steps of `fastrpn.training`, for either model."""
    assert config.steps is not None
    photographs = config.open(config.data, config.train_set, config.classes)
    tiles = Tiles(photographs, config.tile, config.overlap)
    seed_everything(config.seed)
    ours = new_model(config, len(tiles.classes))
    if config.weights is not None:
        load_weights(ours, config.weights)
    loader = training_loader(config, tiles, ours, torch.device("cpu"))
    model = ours if library == "fastrpn" else torchvision_twin(ours)
    optimizer = new_optimizer(model, config)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    model.train()
    for step, (images, targets) in enumerate(islice(_endless(loader), config.steps)):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * lr_factor(config, step, config.steps)
        seed_step(config.seed, step)
        optimizer.zero_grad(set_to_none=True)
        losses = sum(model(images, targets).values())
        losses.backward()
        limit = math.inf if config.clip_grad_norm is None else config.clip_grad_norm
        nn.utils.clip_grad_norm_(parameters, limit)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"{library} {config.seed}: step {step + 1}, loss {float(losses):.3f}", flush=True)
    return model.eval()


def _endless(loader):
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def torchvision_twin(ours: FasterRCNN) -> nn.Module:
    """torchvision's detector with the network, the weights and the rules of ours."""
    rules, backbone = ours.config, copy.deepcopy(ours.backbone)
    levels = [str(level) for level in range(len(backbone.strides))]
    width = ours.roi_head.box_head.out_features
    model = detection.FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(
            rules.anchor_sizes, (rules.anchor_ratios,) * len(levels)
        ),
        rpn_pre_nms_top_n_train=rules.rpn_pre_nms_top_n_train,
        rpn_pre_nms_top_n_test=rules.rpn_pre_nms_top_n_test,
        rpn_post_nms_top_n_train=rules.rpn_post_nms_top_n_train,
        rpn_post_nms_top_n_test=rules.rpn_post_nms_top_n_test,
        box_roi_pool=MultiScaleRoIAlign(levels, rules.roi_size, rules.roi_sampling_ratio),
        box_head=TwoMLPHead(backbone.out_channels * rules.roi_size**2, width),
        box_predictor=FastRCNNPredictor(width, ours.num_classes),
        box_batch_size_per_image=rules.box_batch_size,
    )
    model.transform = _Transform(rules.min_size, 10**6, rules.image_mean, rules.image_std)
    pairs = [
        (model.rpn.head.conv[0][0], ours.rpn.head.conv),
        (model.rpn.head.cls_logits, ours.rpn.head.cls_logits),
        (model.rpn.head.bbox_pred, ours.rpn.head.bbox_pred),
        (model.roi_heads.box_head, ours.roi_head.box_head),
        (model.roi_heads.box_predictor, ours.roi_head.box_predictor),
    ]
    for theirs, of_ours in pairs:
        theirs.load_state_dict(of_ours.state_dict())
    return model


class _Transform(GeneralizedRCNNTransform):
    """Takes training images as the loader has resized them, as ours does."""

    def resize(self, image: Tensor, target=None):
        return (image, target) if self.training else super().resize(image, target)


def table(folder: Path) -> str:
    """All runs of a folder by seed, the means, and the paired difference with its error."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("run-*.json"))]
    by_key = {(run["library"], run["start"], run["seed"]): run for run in runs}
    lines = ["| start | seed | fastrpn: AP50, AP, Florida | torchvision |", "|---|---|---|---|"]
    for start, seed in sorted({(run["start"], run["seed"]) for run in runs}):
        cells = [by_key.get((library, start, seed)) for library in LIBRARIES]
        lines.append(f"| {start} | {seed} | {_cell(cells[0])} | {_cell(cells[1])} |")
    for library in LIBRARIES:
        values = [r["AP50"] for r in runs if r["library"] == library and r["start"] == "imagenet"]
        if values:
            lines.append(f"{library}: mean AP50 {statistics.mean(values):.4f} of {len(values)}")
    seeds = sorted({run["seed"] for run in runs})
    for name in ("AP50", "florida_AP50"):
        keys = [[(library, "imagenet", seed) for library in LIBRARIES] for seed in seeds]
        pairs = [[by_key[key][name] for key in pair] for pair in keys if by_key.keys() >= {*pair}]
        gaps = [ours - theirs for ours, theirs in pairs]
        if len(gaps) > 1:
            error = statistics.stdev(gaps) / math.sqrt(len(gaps))
            mean = statistics.mean(gaps)
            lines.append(f"{name}: ours - theirs {mean:+.4f}, standard error {error:.4f}")
    return "\n".join(lines)


def _cell(run: dict | None) -> str:
    if run is None:
        return ""
    return f"{run['AP50']:.3f}, {run['AP']:.3f}, {run['florida_AP50']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--library", choices=LIBRARIES, nargs="+", default=LIBRARIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--start", choices=("imagenet", "random"), default="imagenet")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for seed in options.seeds:
            for library in options.library:
                result = run(library, seed, options.start, options.steps, options.output)
                name = f"run-{library}-{options.start}-{seed}.json"
                (options.output / name).write_text(json.dumps(result, indent=2))
                print(result, flush=True)
    print(table(options.output))


if __name__ == "__main__":
    main()
