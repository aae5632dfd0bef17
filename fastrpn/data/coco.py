"""COCO's instance JSON: a reader, and the results format for what a detector found.

The format is that of cocodataset.org (Lin et al., "Microsoft COCO: Common Objects in Context").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from fastrpn._extras import require
from fastrpn.data.collect import Box, Collector, ImageFolder, Object, stated_size
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.data.samples import SampleTable, building_much
from fastrpn.data.text_files import Anything, read_json
from fastrpn.errors import BadDataError, BadDataPolicy

T = TypeVar("T")

_LARGEST_ID = 2**53  # ids beyond it are not told apart by every reader of JSON


class _Image(msgspec.Struct, gc=False):
    id: Any = None
    file_name: Any = None
    height: Any = None
    width: Any = None


class _Annotation(msgspec.Struct, gc=False):
    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    iscrowd: Any = None
    area: Any = None


class _Shape(msgspec.Struct):
    segmentation: Any = None


class _Segmentations(msgspec.Struct):
    annotations: list[_Shape | Anything] = []


class _Category(msgspec.Struct):
    id: Any = None
    name: Any = None


class _File(msgspec.Struct):
    images: list[_Image | Anything]
    categories: list[_Category | Anything]
    annotations: list[_Annotation | Anything] = []


class COCODataset(AnnotatedImages):
    """Images of a folder with the annotations of a JSON file.

    Opening reads the JSON and, where it says no size, the images' headers; see
    :class:`AnnotatedImages` for what decoding may find later. `iscrowd` annotations get
    target["ignore"]; a box comes from "bbox" or, where there is none, from "segmentation".

    Labels count the categories in the order of their ids, from 1, without gaps, or as `classes`
    says; categories of one name are one class. `category_ids[label]` is the id in the file, None
    for a class that the file does not have. `image_id` is the file's id where all are integers that
    are not negative, else the number of the image in the file; `file_ids[image_id]` is the file's.

    Args:
        image_folder: where the images' file_name is looked up; names may not lead out of it.
        annotation_file: the JSON, with "images", "annotations" and "categories".
        on_bad_data, over_edge, exif: see :func:`fastrpn.data.open_dataset`.
        classes: names of categories to keep, in the order of the labels; default: all of the file.

    Raises:
        BadDataError: the JSON is missing, broken or without images, or what `on_bad_data` does not
            leave out. The message names the file and the entry.
    """

    def __init__(
        self,
        image_folder: str | Path,
        annotation_file: str | Path,
        on_bad_data: str = "drop",
        classes: Sequence[str] | None = None,
        over_edge: str = "clip",
        exif: bool = False,
    ) -> None:
        self.image_folder = Path(image_folder)
        self.annotation_file = Path(annotation_file)
        bad = BadDataPolicy(on_bad_data)
        size = self.annotation_file.stat().st_size if self.annotation_file.is_file() else 0
        with building_much(size):
            samples, names = self._read(bad, classes, over_edge, exif)
        super().__init__(samples, names, bad, exif)

    def _read(
        self, bad: BadDataPolicy, classes: Sequence[str] | None, over_edge: str, exif: bool
    ) -> tuple[SampleTable, list[str]]:
        annotation_file = self.annotation_file
        content = read_json(self.annotation_file, _File, "COCO annotations")
        name_of = self._categories(content.categories)
        if not content.images or not name_of:
            raise BadDataError(
                f"{annotation_file}: empty data set, no image or no category", "empty data set"
            )
        images = self._images(content.images, bad)
        objects = self._objects(content.annotations, name_of, images, bad)
        areas = _areas(content.annotations)
        del content
        collector = Collector(str(annotation_file), bad, over_edge, exif, "annotations[{}]")
        folder = ImageFolder(self.image_folder)
        numbered = all(isinstance(key, int) and 0 <= key <= _LARGEST_ID for key in images)
        file_ids: dict[int, int | str] = {}
        for number, (key, image) in enumerate(images.items()):
            named = isinstance(image.file_name, str)
            where = f"{annotation_file}: image {image.file_name if named else f'with id {key!r}'}"
            try:
                path = folder.find(image.file_name, where)
            except BadDataError as error:
                bad.bad_file(error)
                continue
            image_id = key if numbered and isinstance(key, int) else number
            file_ids[image_id] = key
            collector.add(
                where, path, image_id, stated_size(image.height, image.width), objects.pop(key)
            )
        known = list(dict.fromkeys(name_of.values()))
        samples, names = collector.finish(classes, known, areas)
        first_id = {name: key for key, name in reversed(name_of.items())}
        self.file_ids = file_ids
        self.category_ids = [0, *(first_id.get(name) for name in names[1:])]
        return samples, names

    def _categories(self, entries: Sequence[Any]) -> dict[int | str, str]:
        """The name of each category id, in the order of the ids."""
        names: dict[int | str, str] = {}
        for number, entry in enumerate(entries):
            where = f"{self.annotation_file}: categories[{number}]"
            key = _key(entry)
            if key is None:
                raise BadDataError(f"{where} has no id", "broken annotation")
            name = "" if entry.name is None else str(entry.name).strip()
            if not name:
                raise BadDataError(f"{where} has the name {entry.name!r}", "broken annotation")
            if names.setdefault(key, name) != name:
                text = f"{where} and another one have the id {key!r}"
                raise BadDataError(text, "id that is not unique")
        return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))

    def _images(self, entries: Sequence[Any], bad: BadDataPolicy) -> dict[int | str, _Image]:
        """The images that annotations can be assigned to, by id."""
        times = Counter(_key(entry) for entry in entries)
        images: dict[int | str, _Image] = {}
        for number, entry in enumerate(entries):
            key = _key(entry)
            where = f"{self.annotation_file}: images[{number}]"
            if key is None:
                bad.bad_file(BadDataError(f"{where} has no id", "image without id"))
            elif times[key] > 1:
                text = f"{where}, {entry.file_name}: {times[key]} images have the id {key!r}"
                bad.bad_file(BadDataError(text, "id that is not unique"))
            else:
                images[key] = entry
        return images

    def _objects(
        self,
        entries: Sequence[Any],
        name_of: dict[int | str, str],
        image_ids: Iterable[int | str],
        bad: BadDataPolicy,
    ) -> dict[int | str, list[Object]]:
        """The objects of each image."""
        objects: dict[int | str, list[Object]] = {key: [] for key in image_ids}
        shapes: list[Any] | None = None
        for number, entry in enumerate(entries):
            try:  # a million times, so without a look at what is nearly always right
                x, y, width, height = entry.bbox
                box = x - 0.0, y - 0.0, x + width - 0.0, y + height - 0.0
                name, of_image = name_of[entry.category_id], objects[entry.image_id]
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
                try:
                    shape = None
                    if isinstance(entry, _Annotation) and not entry.bbox:  # few files need them
                        shapes = shapes or _segmentations(self.annotation_file)
                        shape = shapes[number]
                    box = self._box(number, entry, shape)
                    name = self._look_up(number, "category_id", entry.category_id, name_of)
                    of_image = self._look_up(number, "image_id", entry.image_id, objects)
                except BadDataError as error:
                    bad.bad_object(error)
                    continue
            of_image.append((box, name, bool(entry.iscrowd), number))
        return objects

    def _box(self, number: int, entry: Any, segmentation: Any) -> Box:
        """xyxy of an annotation that is unusual."""
        where = f"{self.annotation_file}: annotations[{number}]"
        if not isinstance(entry, _Annotation):
            raise BadDataError(f"{where}: bad annotation {entry!r:.50}", "broken annotation")
        bbox = entry.bbox
        if not bbox:
            return _box_around(segmentation, where)
        if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_number, bbox))):
            raise BadDataError(f"{where}: bad annotation, its bbox is {bbox!r:.80}", "no box")
        x, y, width, height = map(_as_float, bbox)
        return x, y, x + width, y + height

    def _look_up(self, number: int, field: str, key: Any, table: Mapping[Any, T]) -> T:
        if isinstance(key, int | str | float) and key in table:
            return table[key]
        what, kind = {
            "image_id": ("which no image has", "unknown image"),
            "category_id": ("an unknown category", "unknown class"),
        }[field]
        text = f"{self.annotation_file}: annotations[{number}]: {field} is {key!r:.50}, {what}"
        raise BadDataError(text, kind)


class COCOIds(NamedTuple):
    """How a COCO file calls images and classes."""

    of_file: dict[str, int | str]  # by file_name
    categories: list[int | str]  # by label; 0: none

    def of_image(self, name: str) -> int | str:
        """The id of an image by its path, or the end of it that the file knows.

        Raises:
            ValueError: the file has no such image.
        """
        parts = name.replace("\\", "/").split("/")
        for first in range(len(parts)):
            ending = "/".join(parts[first:])
            if ending in self.of_file:
                return self.of_file[ending]
        raise ValueError(f"ids: no image in the COCO file is called {name}")


def read_coco_ids(annotation_file: str | Path, classes: Sequence[str]) -> COCOIds:
    """The ids of a COCO file's images and of its categories that have the names of `classes`.

    Args:
        annotation_file: the JSON.
        classes: names, "__background__" first.

    Raises:
        BadDataError: the JSON is missing or broken.
        ValueError: a class that it does not have, or two images of one name.
    """
    content = read_json(Path(annotation_file), _File, "COCO annotations")
    of_name = {
        str(getattr(entry, "name", None)): _key(entry) for entry in reversed(content.categories)
    }
    categories: list[int | str] = [0]
    for name in classes[1:]:
        key = of_name.get(name)
        if name.startswith("N/A"):  # one of torchvision's labels that mean nothing
            key = key or 0
        if key is None:
            raise ValueError(f"ids: {annotation_file} has no category {name!r}")
        categories.append(key)
    of_file: dict[str, int | str] = {}
    for entry in content.images:
        key = _key(entry)
        name = str(getattr(entry, "file_name", None)).replace("\\", "/")
        if key is not None and of_file.setdefault(name, key) != key:
            raise ValueError(f"ids: {annotation_file} has two images called {name}")
    return COCOIds(of_file, categories)


def detections_to_coco_results(
    detections: Sequence[dict],
    image_ids: Sequence[int | str],
    category_ids: Sequence[int | str | None] | None = None,
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


def _areas(entries: Sequence[Any]) -> np.ndarray | None:
    """float64, NaN where an annotation says no area that can be true; None if all are."""
    areas = np.full(len(entries), np.nan)
    for number, entry in enumerate(entries):
        area: Any = getattr(entry, "area", None)
        if type(area) in (int, float) and 0 < area < _LARGEST_ID:
            areas[number] = area
    return None if np.isnan(areas).all() else areas


def _key(entry: Any) -> int | str | None:
    """The id of an entry: text or an integer, which may be written as 1.0."""
    key = getattr(entry, "id", None)
    if isinstance(key, float) and key.is_integer():
        return int(key)
    return key if isinstance(key, int | str) else None


def _box_around(segmentation: Any, where: str) -> Box:
    """xyxy around polygons [[x, y, x, y, ...], ...] or around a run-length encoded mask."""
    if isinstance(segmentation, dict):
        return _box_of_mask(segmentation, where)
    parts = segmentation if isinstance(segmentation, list) else []
    values = [value for part in parts if isinstance(part, list) for value in part]
    if len(values) < 4 or len(values) % 2 or not all(map(_is_number, values)):
        raise BadDataError(f"{where}: bad annotation, neither bbox nor polygon", "no box")
    xs, ys = list(map(_as_float, values[0::2])), list(map(_as_float, values[1::2]))
    return min(xs), min(ys), max(xs), max(ys)


def _box_of_mask(mask: dict, where: str) -> Box:
    require("train", "faster_coco_eval")
    from faster_coco_eval import mask as masks

    try:
        if isinstance(mask["counts"], list):
            mask = masks.frPyObjects(mask, *mask["size"])
        x, y, width, height = masks.toBbox(mask).tolist()
    except Exception as error:  # the extension raises what it likes
        text = f"{where}: bad annotation, its mask cannot be read ({error!r})"
        raise BadDataError(text, "no box") from error
    return x, y, x + width, y + height


def _segmentations(path: Path) -> list[Any]:
    """The segmentation of each annotation, which few files need for their boxes."""
    entries = read_json(path, _Segmentations, "COCO annotations").annotations
    return [getattr(entry, "segmentation", None) for entry in entries]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: int | float) -> float:
    return float(value) if abs(value) < _LARGEST_ID else float("inf")  # no float holds 10**400
