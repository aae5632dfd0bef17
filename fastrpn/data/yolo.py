"""The YOLO layout, as Ultralytics and Roboflow export it: one text file an image.

A line is a class number and a box, "class x y width height", centre and size as shares of the
image, or a polygon, "class x y x y x y ...". An image without a file has no objects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fastrpn.data.collect import Collector, ImageFolder, Object
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.data.text_files import read_bytes, read_lines
from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import IMAGE_SUFFIXES, read_size

SYNONYMS = {"val": ("val", "valid", "validation"), "valid": ("valid", "val"), "train": ("train",)}


class YOLODataset(AnnotatedImages):
    """A set that a data.yaml describes.

        names: [cat, dog]            or {0: cat, 1: dog}
        path: ../dataset             optional; what the others are relative to
        train: images/train          a folder, a text file that lists images, or several of these
        val: ../valid/images         Roboflow's "../" means the folder of the YAML, too

    The annotation of `.../images/a.jpg` is `.../labels/a.txt`, or `a.txt` beside it. `image_id`
    counts the images in the order of their names.

    Args:
        yaml_file: the data.yaml.
        image_set: "train", "val" or "test".
        classes, on_bad_data, over_edge, exif: see :func:`fastrpn.data.open_dataset`.

    Raises:
        BadDataError: see :func:`fastrpn.data.open_dataset`.
    """

    def __init__(
        self,
        yaml_file: str | Path,
        image_set: str,
        classes: Sequence[str] | None = None,
        on_bad_data: str = "drop",
        over_edge: str = "clip",
        exif: bool = False,
    ) -> None:
        self.yaml_file = Path(yaml_file)
        bad = BadDataPolicy(on_bad_data)
        content = _read_yaml(self.yaml_file)
        known = _class_names(content, self.yaml_file)
        has_points = "kpt_shape" in content
        collector = Collector(f"{yaml_file}: {image_set!r}", bad, over_edge, exif, "line {}")
        for number, image in enumerate(self._image_files(content, image_set, bad)):
            label_file = _label_file(image)
            try:
                size = read_size(image, exif)
                lines = read_lines(label_file) if label_file.is_file() else []
            except BadDataError as error:
                bad.bad_file(error)
                continue
            objects: list[Object] = []
            for row, line in enumerate(lines, start=1):
                try:
                    objects.append(_object(line, size, known, has_points, row))
                except BadDataError as error:
                    bad.bad_object(BadDataError(f"{label_file}: line {row}: {error}", error.kind))
            collector.add(str(label_file), image, number, size, objects)
        samples, names = collector.finish(classes, known)
        super().__init__(samples, names, bad, exif)

    def _image_files(
        self, content: dict[str, Any], image_set: str, bad: BadDataPolicy
    ) -> list[Path]:
        names = SYNONYMS.get(image_set, (image_set,))
        places = next((content[name] for name in names if content.get(name)), None)
        if places is None:
            sets = ", ".join(s for s in ("train", "val", "valid", "test") if content.get(s))
            raise BadDataError(
                f"{self.yaml_file}: no image set {image_set!r} (there are: {sets or 'none'})",
                "no such set",
            )
        files: list[Path] = []
        for place in places if isinstance(places, list) else [places]:
            files += self._files_in(self._place(content, str(place)), bad)
        if not files:
            text = f"{self.yaml_file}: empty data set, no image in {image_set!r}"
            raise BadDataError(text, "empty data set")
        return files

    def _place(self, content: dict[str, Any], place: str) -> Path:
        """Where a folder or list of the YAML is: below the YAML's folder, or below its `path`."""
        home = self.yaml_file.parent.absolute()
        roots = [home]
        if content.get("path"):
            roots = [home / str(content["path"]), Path(str(content["path"])).absolute(), home]
        for root in roots:
            for spelling in (place, place.removeprefix("../")):
                path = Path(os.path.normpath(root / spelling))
                if path.is_relative_to(os.path.normpath(root)) and path.exists():
                    return path
        text = f"{self.yaml_file}: {place}: no such folder or list of images in {roots[0]}"
        raise BadDataError(text, "no such set")

    def _files_in(self, place: Path, bad: BadDataPolicy) -> list[Path]:
        if place.is_dir():
            if not _images_below(place) and (place / "images").is_dir():
                place = place / "images"
            return _images_below(place)
        listed, folder = [], ImageFolder(place.parent)
        for line in read_lines(place):
            try:
                path = Path(line)
                known = path.is_absolute() and path.is_file()
                listed.append(path if known else Path(folder.find(line, str(place))))
            except BadDataError as error:
                bad.bad_file(error)
        return listed


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    )


def _label_file(image: Path) -> Path:
    """labels/ in place of the last images/ of the path, or beside the image."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            mirrored = Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            return mirrored if mirrored.exists() else image.with_suffix(".txt")
    return image.with_suffix(".txt")


def _object(
    line: str, size: tuple[int, int], known: list[str], has_points: bool, entry: int
) -> Object:
    """One line of a label file; the box in pixels."""
    try:
        number, *values = (float(word) for word in line.split())
    except ValueError:
        raise BadDataError(f"{line!r:.80} are no numbers", "no number") from None
    if not (number.is_integer() and 0 <= number < len(known)):
        text = f"unknown class {number:g} (known: 0 to {len(known) - 1})"
        raise BadDataError(text, "unknown class")
    is_polygon = len(values) >= 6 and len(values) % 2 == 0 and not has_points
    if is_polygon:
        xs, ys = values[0::2], values[1::2]
        box = (min(xs), min(ys), max(xs), max(ys))
    elif len(values) >= 4:
        x, y, width, height = values[:4]
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        raise BadDataError(f"{len(values)} numbers behind the class, expected 4", "no box")
    if max(map(abs, box)) > _MOST:
        text = f"{line!r:.80}: coordinates must be shares of the image, in 0..1"
        raise BadDataError(text, "not normalised")
    rows, columns = size
    return (
        (box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows),
        known[int(number)],
        False,
        entry,
    )


_MOST = 2.0  # a share beyond it is a pixel by mistake, not a box over the edge


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_bytes(path))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadDataError(f"{path}: broken YAML ({error})", "broken YAML") from error
    if not isinstance(content, dict):
        raise BadDataError(f"{path}: no description of a data set", "broken YAML")
    return content


def _class_names(content: dict[str, Any], path: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        try:
            names = [names[i] for i in range(len(names))]
        except KeyError:
            text = f"{path}: names must be numbered from 0 without gaps, got {sorted(names)}"
            raise BadDataError(text, "broken YAML") from None
    if not isinstance(names, list) or not names:
        raise BadDataError(f"{path}: names must list the classes, got {names!r}", "broken YAML")
    names = [str(name) for name in names]
    if len(set(names)) != len(names):
        raise BadDataError(f"{path}: names holds a class twice: {names}", "broken YAML")
    return names
