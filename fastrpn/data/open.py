"""Annotated images by name: which reader opens them, and several sets as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastrpn.data.coco import COCODataset
from fastrpn.data.dataset import AnnotatedImages, with_background
from fastrpn.data.voc import VOCDataset
from fastrpn.errors import BadDataError


def open_dataset(
    data: str | Path,
    sets: str | Sequence[str],
    classes: Sequence[str] | None = None,
    on_bad_data: str = "stop",
) -> AnnotatedImages:
    """Opens one image set, or several as one.

    A set is looked up in the folder `data`, or in the folder that it names itself, before a colon:
    "trainval", "VOC2012:trainval". In its folder a set "name" is

        ImageSets/Main/<name>.txt              a PASCAL VOC set, see `VOCDataset`
        annotations/instances_<name>.json      a COCO set with its images in <name>/
        <name>, if it ends with .json          COCO annotations of images in the folder

    so that 07+12 is `open_dataset("VOC2007", ["trainval", "VOC2012:trainval"])` and COCO
    `open_dataset("coco", "train2017")`.

    Args:
        data: the folder of sets that name none.
        sets: one name or several.
        classes: class names; default: those of the sets together.
        on_bad_data: "stop" or "skip", see the readers.

    Raises:
        BadDataError: as the readers; or there is no such set.
        ValueError: `sets` is empty.
    """
    sets = [sets] if isinstance(sets, str) else list(sets)
    if not sets:
        raise ValueError("sets must name at least one image set, got none")
    opened = []
    for name in sets:
        folder, _, name = name.rpartition(":")
        opened.append(_open_one(Path(folder or data), name, classes, on_bad_data))
    return opened[0] if len(opened) == 1 else concatenate(opened)


def concatenate(datasets: Sequence[AnnotatedImages]) -> AnnotatedImages:
    """Data sets one behind the other.

    Classes are the first one's if all have the same names, else the sorted names of all. An
    `image_id` stays what it is in the first data set; in the following ones it is shifted behind
    all earlier ids.
    """
    names = sorted({name for dataset in datasets for name in dataset.classes[1:]})
    first = datasets[0].classes
    classes = first if sorted(first[1:]) == names else with_background(names)
    samples, next_id = [], 0
    for dataset in datasets:
        label = np.array([0, *(classes.index(name) for name in dataset.classes[1:])])
        shift = next_id
        for sample in dataset.samples:
            image_id = sample.image_id + shift
            samples.append(replace(sample, labels=label[sample.labels], image_id=image_id))
            next_id = max(next_id, image_id + 1)
    return AnnotatedImages(samples, classes, [text for d in datasets for text in d.skipped])


def _open_one(
    folder: Path, name: str, classes: Sequence[str] | None, on_bad_data: str
) -> AnnotatedImages:
    if name.endswith(".json"):
        return COCODataset(folder, folder / name, on_bad_data, classes)
    if (folder / "ImageSets").is_dir():
        return VOCDataset(folder, name, classes, on_bad_data)
    annotations = folder / "annotations" / f"instances_{name}.json"
    if annotations.is_file():
        return COCODataset(folder / name, annotations, on_bad_data, classes)
    raise BadDataError(
        f"{folder}: no image set {name!r}: neither ImageSets/Main/{name}.txt (PASCAL VOC) "
        f"nor {annotations.relative_to(folder)} (COCO) is there"
    )
