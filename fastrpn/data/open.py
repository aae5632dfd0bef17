"""Annotated images by name: which reader opens them, and several sets as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fastrpn.data.coco import COCODataset
from fastrpn.data.cvat import CVATDataset
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.data.image_folder import ImageFolderDataset
from fastrpn.data.labelme import LabelmeDataset
from fastrpn.data.samples import join_samples
from fastrpn.data.voc import VOCDataset
from fastrpn.data.yolo import SYNONYMS, YOLODataset
from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import IMAGE_SUFFIXES
from fastrpn.models.classes import with_background

_ROBOFLOW = "_annotations.coco.json"
_HEAD = 4096  # bytes that tell labelme's JSON from COCO's


def open_dataset(
    data: str | Path,
    sets: str | Sequence[str],
    classes: Sequence[str] | None = None,
    on_bad_data: str = "drop",
    *,
    over_edge: str = "clip",
    exif: bool = False,
    check: bool = False,
) -> AnnotatedImages:
    """Opens one image set, or several as one.

    A set is looked up in the folder `data`, or in the folder that it names itself, before a colon:
    "trainval", "VOC2012:trainval". `data` may also be a data.yaml, an annotations.xml of CVAT or a
    COCO JSON. In its folder a set "name" is what is there, the first of

        ImageSets/Main/<name>.txt              a PASCAL VOC set
        annotations/instances_<name>.json      a COCO set with its images in <name>/
        <name>, if it ends with .json          COCO annotations of images in the folder
        <name>/_annotations.coco.json          a COCO set of Roboflow
        data.yaml (any *.yaml) that names it   a YOLO set
        <name>/ or, for "" or "all", the folder itself, with
            annotations.xml                    of CVAT
            Annotations/*.xml or *.xml         of VOC's kind: RectLabel, LabelImg
            *.json                             of labelme, or one COCO JSON
            images alone                       without annotations, classes must be given

    "val" and "valid" are the same name. So 07+12 is `open_dataset("VOC2007", ["trainval",
    "VOC2012:trainval"])` and COCO `open_dataset("coco", "train2017")`.

    Args:
        data: the folder of sets that name none.
        sets: one name or several.
        classes: those to keep, in the order of their labels; objects of others are left out.
            Default: those of the sets together.
        on_bad_data: "stop" raises at the first fault; "drop" leaves bad objects out, and a bad file
            raises; "skip" leaves bad files out, too. What is left out is counted by kind in one
            warning and listed in `dataset.bad`.
        over_edge: boxes that reach over the edge of their image are clipped ("clip") or bad
            objects ("drop").
        exif: turn images as their EXIF orientation says; annotations then count turned pixels.
        check: decode every image now, instead of finding a broken one in training.

    Raises:
        BadDataError: what `on_bad_data` does not leave out, more than a tenth of a set bad, nothing
            usable, or no such set. The message names the file.
        ValueError: `sets` is empty, or an option is unknown.
    """
    sets = [sets] if isinstance(sets, str) else list(sets)
    if not sets:
        raise ValueError("sets must name at least one image set, got none")
    options = {
        "classes": classes,
        "on_bad_data": on_bad_data,
        "over_edge": over_edge,
        "exif": exif,
    }
    opened = []
    for name in sets:
        folder, _, name = name.rpartition(":")
        dataset = _open_one(Path(folder or data), name, options)
        opened.append(dataset.checked() if check else dataset)
    return opened[0] if len(opened) == 1 else concatenate(opened)


@dataclass(kw_only=True)
class Reading:
    """How data sets are opened; see :func:`open_dataset`.

    Attributes:
        on_bad_data: "stop" at the first fault, "drop" bad objects, or "skip" bad files, too.
        over_edge: "clip" boxes that reach over the edge of their image, or "drop" them as bad.
        exif: turn images as their EXIF orientation says.
        check: decode every image at the start, instead of finding a broken one hours later.
    """

    on_bad_data: Literal["stop", "drop", "skip"] = "drop"
    over_edge: Literal["clip", "drop"] = "clip"
    exif: bool = False
    check: bool = False

    def open(
        self, data: str | Path, sets: str | Sequence[str], classes: Sequence[str] | None = None
    ) -> AnnotatedImages:
        """Opens a data set so."""
        return open_dataset(
            data,
            sets,
            classes,
            self.on_bad_data,
            over_edge=self.over_edge,
            exif=self.exif,
            check=self.check,
        )


def concatenate(datasets: Sequence[AnnotatedImages]) -> AnnotatedImages:
    """Data sets one behind the other.

    Classes are the first one's if all have the same names, else the sorted names of all. An
    `image_id` stays what it is in the first data set; in the following ones it is shifted behind
    all earlier ids.
    """
    names = sorted({name for dataset in datasets for name in dataset.classes[1:]})
    first = datasets[0].classes
    classes = first if sorted(first[1:]) == names else with_background(names)
    parts, shifts, next_id = [], [], 0
    for dataset in datasets:
        labels = torch.tensor([0, *(classes.index(name) for name in dataset.classes[1:])])
        parts.append(dataset.samples.relabelled(labels))
        shifts.append(next_id)
        next_id += int(dataset.samples.image_ids.max()) + 1
    bad = BadDataPolicy.together([dataset.bad for dataset in datasets])
    return AnnotatedImages(join_samples(parts, shifts), classes, bad, datasets[0].exif)


def split_dataset(
    dataset: AnnotatedImages, val_fraction: float, seed: int = 0
) -> tuple[AnnotatedImages, AnnotatedImages]:
    """Divides a data set that has no validation set; equal seeds divide equally.

    Args:
        val_fraction: share of the images that goes into the second part; each part gets one.

    Raises:
        ValueError: a fraction that is not between 0 and 1, or fewer than two images.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    if len(dataset) < 2:
        raise ValueError(f"val_fraction: {len(dataset)} image cannot be divided")
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = min(max(1, round(val_fraction * len(dataset))), len(dataset) - 1)
    return dataset.subset(sorted(order[count:])), dataset.subset(sorted(order[:count]))


def _open_one(data: Path, name: str, options: dict[str, Any]) -> AnnotatedImages:
    """The reader for what is there."""
    if data.is_file():
        return _open_file(data, name, options)
    if not data.is_dir():
        raise BadDataError(f"{data}: no such folder", "no such set")
    if name.endswith(".json"):
        return COCODataset(data, data / name, **options)
    if (data / "ImageSets").is_dir():
        return VOCDataset(data, name, **options)
    folders = [data / synonym for synonym in SYNONYMS.get(name, (name,))]
    for folder in folders:
        annotations = data / "annotations" / f"instances_{folder.name}.json"
        if annotations.is_file():
            return COCODataset(folder, annotations, **options)
        if (folder / _ROBOFLOW).is_file():
            return COCODataset(folder, folder / _ROBOFLOW, **options)
    if described := sorted([*data.glob("*.yaml"), *data.glob("*.yml")]):
        return YOLODataset(described[0], name, **options)
    if name in ("", "all"):
        folders = [data]
    for folder in folders:
        opened = _open_folder(folder, options) if folder.is_dir() else None
        if opened is not None:
            return opened
    raise BadDataError(
        f"{data}: no image set {name!r}: neither ImageSets/Main/{name}.txt (PASCAL VOC) nor "
        f"annotations/instances_{name}.json (COCO) nor a data.yaml (YOLO) nor a folder {name!r} "
        "with annotated images is there",
        "no such set",
    )


def _open_file(file: Path, name: str, options: dict[str, Any]) -> AnnotatedImages:
    subset = "" if name == "all" else name
    if file.suffix.lower() in (".yaml", ".yml"):
        return YOLODataset(file, name, **options)
    if file.suffix.lower() == ".xml":
        return CVATDataset(file, subset, **options)
    if file.suffix.lower() == ".json":
        return COCODataset(file.parent, file, **options)
    raise BadDataError(
        f"{file}: no data set: expected a folder, .json, .yaml or .xml", "no such set"
    )


def _open_folder(folder: Path, options: dict[str, Any]) -> AnnotatedImages | None:
    """The reader for a folder whose images are all of one set; None if there is no image."""
    if (folder / "annotations.xml").is_file():
        return CVATDataset(folder / "annotations.xml", **options)
    if any((folder / "Annotations").glob("*.xml")) or any(folder.glob("*.xml")):
        return VOCDataset(folder, "", **options)
    files = sorted(folder.glob("*.json"))
    if any(_is_labelme(file) for file in files):
        return LabelmeDataset(folder, **options)
    if len(files) == 1:
        images = folder / "images"
        return COCODataset(images if images.is_dir() else folder, files[0], **options)
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.rglob("*")):
        return ImageFolderDataset(folder, **options)
    return None


def _is_labelme(file: Path) -> bool:
    with file.open("rb") as opened:
        return re.search(rb'"shapes"|"imagePath"|"flags"', opened.read(_HEAD)) is not None
