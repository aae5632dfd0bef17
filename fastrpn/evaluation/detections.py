"""Detections as a file in COCO's results format, with the ids that the data set's own file has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from fastrpn.data import detections_to_coco_results
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.data.text_files import read_json
from fastrpn.errors import BadDataError
from fastrpn.files import write_atomically

__all__ = ["read_detections", "write_detections"]


class _Detection(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    score: float


def write_detections(
    path: str | Path,
    dataset: AnnotatedImages,
    detections: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
) -> Path:
    """Writes what `COCO(annotations).loadRes(path)` of pycocotools takes.

    Args:
        path: of the file.
        dataset: whose ``file_ids`` and ``category_ids`` name images and classes; where it has none
            (it was no COCO file) they have its own image ids and labels.
        detections: one dict an image with "boxes" [D, 4] xyxy, "scores" [D] and "labels" [D].
        image_ids: "image_id" of the targets of these images.
    """
    ids = [dataset.file_ids.get(image_id, image_id) for image_id in image_ids]
    results = detections_to_coco_results(
        [dict(found) for found in detections], ids, dataset.category_ids
    )
    return write_atomically(path, json.dumps(results).encode())


def read_detections(path: str | Path, dataset: AnnotatedImages) -> list[dict[str, torch.Tensor]]:
    """The detections of a results file, whoever wrote it, for each image of a data set.

    Returns:
        for each image "boxes" float64 [D, 4] xyxy in pixels, "scores" [D], "labels" int64 [D].

    Raises:
        BadDataError: missing, broken, no list of detections, an image or a category that the data
            set does not have. The message names the file and the entry.
    """
    path = Path(path)
    entries = read_json(path, list[_Detection], "detections in COCO's results format")
    places = {
        dataset.file_ids.get(image_id, image_id): place
        for place, image_id in enumerate(dataset.samples.image_ids.tolist())
    }
    categories = dataset.category_ids or range(len(dataset.classes))
    labels = {category: label for label, category in enumerate(categories) if label > 0}
    rows: list[list[tuple[float, ...]]] = [[] for _ in places]
    for number, entry in enumerate(entries):
        for field, key, known in (
            ("image_id", entry.image_id, places),
            ("category_id", entry.category_id, labels),
        ):
            if key not in known:
                raise BadDataError(
                    f"{path}: [{number}]: {field} is {key!r}, which the data set does not have"
                )
        x, y, width, height = entry.bbox
        row = (x, y, x + width, y + height, entry.score, labels[entry.category_id])
        rows[places[entry.image_id]].append(row)
    found = [torch.tensor(of_image, dtype=torch.float64).reshape(-1, 6) for of_image in rows]
    return [{"boxes": f[:, :4], "scores": f[:, 4], "labels": f[:, 5].long()} for f in found]
