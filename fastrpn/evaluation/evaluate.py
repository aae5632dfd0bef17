"""How good a detector is on a data set: COCO's and VOC's average precisions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from rich.progress import track

from fastrpn import distributed
from fastrpn.data import LabelledImages, Part, build_loader
from fastrpn.evaluation.coco_ap import AREAS, MAX_DETECTIONS, COCOResult, coco_precision
from fastrpn.evaluation.voc_ap import voc_curve

Detector = Callable[..., list[dict[str, Any]]]  # of a list of images


def evaluate(
    model: torch.nn.Module | Detector,
    dataset: LabelledImages,
    *,
    batch_size: int = 4,
    workers: int = 0,
    progress: bool = True,
    max_detections: int = MAX_DETECTIONS,
) -> dict[str, Any]:
    """Runs a detector over a data set and scores it.

    Under torchrun each process takes its share of the images and all get the numbers.

    Args:
        model: a module (put into eval mode meanwhile; images go to its device) or any callable
            from a list of images float32 [3,H,W] to a list of {"boxes", "scores", "labels"}.
        dataset: `ds[i] -> (image, target)`, with `classes` ("__background__" first). Where targets
            hold "proposals", the model gets them and classifies these.
        batch_size: images a call, in one process.
        workers: processes that read images; 0 reads in this one.
        progress: show a progress bar.
        max_detections: see `evaluate_detections`; a model gives no more than its
            ``detections_per_image``.

    Returns:
        What `evaluate_detections` returns.
    """
    detections, targets = detect_all(
        model, dataset, batch_size=batch_size, workers=workers, progress=progress
    )
    metrics = None
    if distributed.is_main():
        metrics = evaluate_detections(detections, targets, dataset.classes, max_detections)
    return distributed.broadcast(metrics)


@torch.inference_mode()
def detect_all(
    model: torch.nn.Module | Detector,
    dataset: LabelledImages,
    *,
    batch_size: int = 4,
    workers: int = 0,
    progress: bool = True,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Detections and targets of every image, in order, on the CPU; see `evaluate`.

    Under torchrun every process gets all of them, each image once. Images that cannot be decoded
    are left out where the data set was opened so ("skip"); they shift the order of processes.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    module = model if isinstance(model, torch.nn.Module) else torch.nn.Module()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    was_training = module.training
    module.eval()
    rank, size = distributed.rank(), distributed.size()
    share = Part(dataset, range(rank, len(dataset), size))
    skips = getattr(getattr(dataset, "bad", None), "on_bad_data", "stop") == "skip"
    loader = build_loader(
        share,
        batch_size,
        shuffle=False,
        seed=0,
        workers=workers,
        pin_memory=device.type == "cuda",
        on_bad_image="leave out" if skips else "stop",
    )
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for images, targets in track(
            loader, "Evaluating", len(loader), disable=not progress or rank > 0
        ):
            images = [image.to(device) for image in images]
            given = [target["proposals"] for target in targets if "proposals" in target]
            results = model(images, proposals=given) if given else model(images)
            results = [{key: value.cpu() for key, value in r.items()} for r in results]
            found += zip(results, targets, strict=True)
    finally:
        module.train(was_training)
    shares = distributed.all_gather(found)
    turns = itertools.zip_longest(*shares)  # image i is the i // size-th of process i % size
    pairs = [pair for turn in turns for pair in turn if pair is not None]
    return [detection for detection, _ in pairs], [target for _, target in pairs]


def evaluate_detections(
    detections: Sequence[dict[str, Any]],
    targets: Sequence[dict[str, Any]],
    classes: Sequence[str],
    max_detections: int = MAX_DETECTIONS,
) -> dict[str, Any]:
    """Scores detections against ground truth.

    Ground truth marked "ignore" counts neither way. A number that is undefined, because no ground
    truth of a class counts, is None; means leave such classes out.

    Args:
        detections: one dict an image with "boxes" [D,4] xyxy, "scores" [D] and "labels" [D].
        targets: one dict an image with "boxes" [G,4], "labels" [G] and optionally "ignore" [G].
        classes: names, "__background__" first.
        max_detections: of an image and class, the best ones that COCO's numbers look at.

    Returns:
        "AP" (mean over IoU 0.5 to 0.95), "AP50", "AP75", "AP_small" (boxes of up to 32 x 32
        pixels), "AP_medium" (96 x 96), "AP_large", "AR" (the recall reached): COCO's;
        "voc_ap_11pt", "voc_ap_area": VOC's, at IoU 0.5; "num_images"; "per_class": {name: the same
        nine and "num_objects"};
        "curves": {name: {"recall": list, "precision": list}}, VOC's at IoU 0.5. All of it fits
        into JSON.

    Raises:
        ValueError: another number of detections than of targets, a label that is no class, or a
            ``max_detections`` below 1.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    if len(detections) != len(targets):
        raise ValueError(f"{len(detections)} detections for {len(targets)} targets")
    for name, entries in (("detections", detections), ("targets", targets)):
        _check_labels(name, entries, len(classes))
    coco = coco_precision(detections, targets, len(classes), max_detections)
    per_class, curves = {}, {}
    for label, name in enumerate(classes[1:], start=1):
        curve = voc_curve(detections, targets, label)
        per_class[name] = {
            **_coco_numbers(coco, label),
            "voc_ap_11pt": _or_none(curve.ap_11pt),
            "voc_ap_area": _or_none(curve.ap_area),
            "num_objects": curve.num_objects,
        }
        if curve.num_objects > 0:
            curves[name] = {
                "recall": curve.recall.tolist(),
                "precision": curve.precision.tolist(),
            }
    return {
        **_coco_numbers(coco),
        "voc_ap_11pt": _mean(entry["voc_ap_11pt"] for entry in per_class.values()),
        "voc_ap_area": _mean(entry["voc_ap_area"] for entry in per_class.values()),
        "num_images": len(targets),
        "per_class": per_class,
        "curves": curves,
    }


def _check_labels(name: str, entries: Sequence[dict[str, Any]], num_classes: int) -> None:
    for image, entry in enumerate(entries):
        labels = torch.as_tensor(entry["labels"])
        if len(labels) and not (1 <= labels.min() and labels.max() < num_classes):
            raise ValueError(
                f"{name}[{image}] has labels {labels.min()} to {labels.max()}, "
                f"expected 1 to {num_classes - 1}"
            )


def _coco_numbers(coco: COCOResult, label: int | None = None) -> dict[str, Any]:
    ious = {"AP": None, "AP50": 0.5, "AP75": 0.75}
    numbers = {key: coco.ap(iou, label) for key, iou in ious.items()}
    numbers |= {f"AP_{area}": coco.ap(None, label, area) for area in AREAS[1:]}
    return {key: _or_none(value) for key, value in {**numbers, "AR": coco.ar(label)}.items()}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
