"""COCO's instance JSON: a reader, and the results format for what a detector found.

The format is that of cocodataset.org (Lin et al., "Microsoft COCO: Common Objects in Context").
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastrpn.data.dataset import AnnotatedImages, Sample, check_boxes, map_checked, with_background
from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import read_image


class COCODataset(AnnotatedImages):
    """Images of a folder with the annotations of a JSON file.

    Everything is read and checked here, images decoded once included. `iscrowd` annotations get
    target["ignore"]. `image_id` is the id in the file. Labels count the categories in the order of
    their ids, from 1, without gaps, or as `classes` says; `category_ids[label]` is the id in the
    file, None for a class that the file does not have.

    Args:
        image_folder: where the images' file_name is looked up.
        annotation_file: the JSON, with "images", "annotations" and "categories".
        on_bad_data: "stop" raises at the first bad image, "skip" leaves it out, notes it in
            `skipped` and warns.
        classes: names of categories, in the order of the labels; default: all of the file.

    Raises:
        BadDataError: the JSON is missing, broken or without images, or (with "stop") an image is
            missing, broken or of another size than the JSON says, a box is outside its image or
            without positive size, a category is unknown. The message names the file.
    """

    def __init__(
        self,
        image_folder: str | Path,
        annotation_file: str | Path,
        on_bad_data: str = "stop",
        classes: Sequence[str] | None = None,
    ):
        self.image_folder = Path(image_folder)
        self.annotation_file = Path(annotation_file)
        content = _read_json(self.annotation_file)
        try:
            categories = sorted((c["id"], c["name"]) for c in content["categories"])
            images = [(image["id"], image["file_name"], image) for image in content["images"]]
            self._annotations = defaultdict(list)
            for annotation in content["annotations"]:
                self._annotations[annotation["image_id"]].append(annotation)
        except (KeyError, TypeError) as error:
            raise BadDataError(f"{annotation_file}: no COCO annotations, {error!r}") from error
        if not images or not categories:
            raise BadDataError(f"{annotation_file}: empty data set, no image or no category")
        names = [name for _, name in categories]
        number_of = {name: number for number, name in categories}
        self.classes = with_background(names if classes is None else classes)
        self.category_ids = [0, *(number_of.get(name) for name in self.classes[1:])]
        self._label_of = {number: i for i, number in enumerate(self.category_ids) if i > 0}

        policy = BadDataPolicy(on_bad_data)
        samples = map_checked(self._build, images, policy)
        policy.report(total=len(images))
        if not samples:
            raise BadDataError(f"{annotation_file}: empty data set, no usable image")
        super().__init__(samples, self.classes, policy.skipped)

    def _build(self, image: tuple[int, str, dict]) -> Sample:
        image_id, file_name, entry = image
        path = self.image_folder / file_name
        size = read_image(path).shape[:2]
        said = (entry.get("height", size[0]), entry.get("width", size[1]))
        where = f"{self.annotation_file}: image {file_name}"
        if said != size:
            raise BadDataError(f"{where}: says height and width are {said}, but {path} has {size}")
        annotations = self._annotations[image_id]
        try:
            boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
            labels = [self._label_of[a["category_id"]] for a in annotations]
        except (KeyError, TypeError, ValueError) as error:
            raise BadDataError(f"{where}: bad annotation or unknown category, {error!r}") from error
        boxes[:, 2:] += boxes[:, :2]
        return Sample(
            image_path=path,
            image_id=image_id,
            size=size,
            boxes=check_boxes(boxes, size, where),
            labels=np.array(labels, np.int64),
            ignore=np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool),
        )


def detections_to_coco_results(
    detections: Sequence[dict],
    image_ids: Sequence[int | str],
    category_ids: Sequence[int] | None = None,
) -> list[dict]:
    """Detections as COCO's results format, ready for `json.dump`.

    Args:
        detections: one dict an image with "boxes" [D,4] xyxy, "scores" [D] and "labels" [D].
        image_ids: what to call the images.
        category_ids: `category_ids[label]` is written as the category; default: the label.

    Returns:
        [{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...].
    """
    if len(detections) != len(image_ids):
        raise ValueError(f"{len(detections)} detections for {len(image_ids)} image_ids")
    results = []
    for image_id, found in zip(image_ids, detections, strict=True):
        for box, score, label in zip(
            *(np.asarray(found[key]).tolist() for key in ("boxes", "scores", "labels")), strict=True
        ):
            x1, y1, x2, y2 = box
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label] if category_ids else label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
    return results


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadDataError(f"{path}: cannot read the annotations ({error.strerror})") from error
    except ValueError as error:
        raise BadDataError(f"{path}: broken JSON ({error})") from error
