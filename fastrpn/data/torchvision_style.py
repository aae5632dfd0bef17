"""Data sets of torchvision's kind: VOCDetection, CocoDetection, those of detection models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastrpn.data.collect import fault_of_box, judge_boxes
from fastrpn.errors import BadDataError
from fastrpn.images import image_to_array, image_to_tensor
from fastrpn.models.classes import with_background

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


class FromTorchvision(torch.utils.data.Dataset):
    """Gives what a data set of torchvision's kind holds as fastrpn's own data sets do.

    A sample is (image, target). The image is a PIL image, a uint8 array [H,W,3], or a tensor
    [3,H,W], uint8 or float in 0..1. The target is

    - VOCDetection's {"annotation": {"object": [...]}}: boxes become continuous, `difficult` objects
      are to be ignored;
    - CocoDetection's list of {"bbox", "category_id", "iscrowd", ...}: crowds are to be ignored;
    - {"boxes" [G,4] xyxy, "labels" [G], optionally "iscrowd" and "image_id"}, what torchvision's
      detection models are trained on.

    Nothing is read before it is asked for; prefer `open_dataset`, which checks every file first,
    where it can read the same files.

    Args:
        dataset: the data set, without transforms that move boxes or on top of them.
        classes: names. Default: the categories of CocoDetection's file, VOC's twenty where targets
            are VOCDetection's.

    Raises:
        ValueError: `classes` is needed.
        BadDataError: at access, boxes outside their image or without area, an unknown class.
    """

    def __init__(self, dataset: Any, classes: Sequence[str] | None = None):
        self.dataset = dataset
        self._categories: dict[int, str] = {}
        if hasattr(dataset, "coco"):
            categories = sorted((c["id"], c["name"]) for c in dataset.coco.cats.values())
            self._categories = dict(categories)
            classes = classes or list(self._categories.values())
        elif classes is None and "annotation" in dataset[0][1]:
            classes = VOC_CLASSES
        if classes is None:
            raise ValueError("classes must be given: the data set does not name them")
        self.classes = with_background(classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        image, target = self.dataset[index]
        image = _to_tensor(image)
        if isinstance(target, dict) and "boxes" in target:
            return image, _of_detection_model(target, index)
        where, size = f"sample {index}", (image.shape[-2], image.shape[-1])
        image_id = index
        names: Sequence[str | None]
        if isinstance(target, dict):
            boxes, names, ignore = _of_voc(target["annotation"])
        else:
            boxes = np.array([a["bbox"] for a in target], np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            names = [self._categories.get(a["category_id"]) for a in target]
            ignore = [bool(a.get("iscrowd", 0)) for a in target]
            image_id = int(getattr(self.dataset, "ids", range(len(self)))[index])
        label_of: dict[str | None, int] = {n: i for i, n in enumerate(self.classes) if i > 0}
        unknown = set(names) - set(label_of)
        if unknown:
            raise BadDataError(f"{where}: unknown class {unknown.pop()!r}")
        return image, {
            "boxes": torch.from_numpy(_sound(boxes, size, where)),
            "labels": torch.tensor([label_of[n] for n in names], dtype=torch.int64),
            "ignore": torch.tensor(ignore, dtype=torch.bool),
            "image_id": image_id,
        }


def _sound(boxes: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """The boxes [G, 4] clipped to their image. Raises BadDataError at the first bad one."""
    boxes, sizes = boxes.astype(np.float64), np.tile(size, (len(boxes), 1)).reshape(-1, 2)
    faults, clipped, _ = judge_boxes(boxes, sizes, "drop")
    for i in np.flatnonzero(faults):
        raise fault_of_box(f"{where}: box {i + 1}", boxes[i], sizes[i], faults[i])
    return clipped


def _of_detection_model(target: dict, index: int) -> dict:
    boxes = torch.as_tensor(target["boxes"], dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": boxes,
        "labels": torch.as_tensor(target["labels"], dtype=torch.int64),
        "ignore": torch.as_tensor(target.get("iscrowd", [0] * len(boxes))).bool(),
        "image_id": int(target.get("image_id", index)),
    }


def _of_voc(annotation: dict) -> tuple[np.ndarray, list[str], list[bool]]:
    """VOC counts pixels from 1 and includes the last one; see `fastrpn.data.voc_xml`."""
    objects = annotation.get("object", [])
    corners = [[float(o["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
    boxes = np.array(corners, np.float32).reshape(-1, 4) - np.array([1, 1, 0, 0], np.float32)
    difficult = [o.get("difficult", "0").strip() == "1" for o in objects]
    return boxes, [o["name"] for o in objects], difficult


def _to_tensor(image: Any) -> torch.Tensor:
    """float32 [3,H,W] in 0..1."""
    if isinstance(image, torch.Tensor):
        return image.float() if image.is_floating_point() else image.float() / 255
    if not isinstance(image, np.ndarray):
        image = np.asarray(image.convert("RGB"))  # PIL
    return image_to_tensor(image_to_array(image))
