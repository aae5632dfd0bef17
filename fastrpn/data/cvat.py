"""CVAT's own export, "CVAT for images 1.1": one XML for all images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from fastrpn.data.collect import LARGEST_SIDE, Box, Collector, ImageFolder, Object
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.data.text_files import read_xml
from fastrpn.errors import BadDataError, BadDataPolicy

_SHAPES = ("box", "polygon", "polyline", "ellipse", "mask")


class CVATDataset(AnnotatedImages):
    """Images with an annotations.xml of CVAT, in its folder or in `images/` beside it.

    Boxes are the boxes (around them, if they are turned), and what lies around polygons, polylines,
    ellipses and masks; points and tags are no objects. `image_id` counts the images of the file.
    Pixels count from 0.

    Args:
        xml_file: the annotations.xml.
        subset: of a task with several; "" takes all.
        classes, on_bad_data, over_edge, exif: see :func:`fastrpn.data.open_dataset`.

    Raises:
        BadDataError: see :func:`fastrpn.data.open_dataset`.
    """

    def __init__(
        self,
        xml_file: str | Path,
        subset: str = "",
        classes: Sequence[str] | None = None,
        on_bad_data: str = "drop",
        over_edge: str = "clip",
        exif: bool = False,
    ) -> None:
        self.xml_file = Path(xml_file)
        bad = BadDataPolicy(on_bad_data)
        root = read_xml(self.xml_file)
        if root.find("track") is not None:
            text = f"{xml_file}: tracks of a video: export as CVAT for images 1.1"
            raise BadDataError(text, "broken annotation")
        known = [name.strip() for e in root.iter("label") if (name := e.findtext("name"))]
        parent = self.xml_file.parent
        folders = [ImageFolder(place) for place in (parent / "images", parent) if place.is_dir()]
        collector = Collector(str(xml_file), bad, over_edge, exif, "shape {}")
        for number, image in enumerate(root.findall("image")):
            if subset and image.get("subset", subset) != subset:
                continue
            where = f"{xml_file}: image {image.get('name')}"
            try:
                path = _find(folders, image.get("name"), where)
            except BadDataError as error:
                bad.bad_file(error)
                continue
            objects: list[Object] = []
            shapes = [element for element in image if element.tag in _SHAPES]
            for row, shape in enumerate(shapes, start=1):
                try:
                    objects.append(_object(shape, row))
                except (BadDataError, ValueError) as error:
                    text = f"{where}: {shape.tag} {row}: {error}"
                    bad.bad_object(BadDataError(text, getattr(error, "kind", "no number")))
            collector.add(where, path, number, _size(image), objects)
        samples, names = collector.finish(classes, list(dict.fromkeys(known)) or None)
        super().__init__(samples, names, bad, exif)


def _find(folders: list[ImageFolder], name: str | None, where: str) -> str:
    for folder in folders[:-1]:
        try:
            return folder.find(name, where)
        except BadDataError:
            pass  # the last one says what is wrong
    return folders[-1].find(name, where)


def _size(image: Element) -> tuple[int, int] | None:
    sides = [image.get(side, "") for side in ("height", "width")]
    known = all(s.isdecimal() and len(s) < 8 and 0 < int(s) <= LARGEST_SIDE for s in sides)
    return (int(sides[0]), int(sides[1])) if known else None


def _object(shape: Element, row: int) -> Object:
    label = (shape.get("label") or "").strip()
    if not label:
        raise BadDataError("has no label", "no class or no box")
    return _box(shape), label, False, row


def _box(shape: Element) -> Box:
    def number(name: str) -> float:
        return float(shape.get(name, ""))

    if shape.tag == "box":
        box = number("xtl"), number("ytl"), number("xbr"), number("ybr")
        return _turned(box, math.radians(float(shape.get("rotation", "0"))))
    if shape.tag == "ellipse":
        x, y, rx, ry = (number(name) for name in ("cx", "cy", "rx", "ry"))
        return x - rx, y - ry, x + rx, y + ry
    if shape.tag == "mask":
        left, top = number("left"), number("top")
        return left, top, left + number("width"), top + number("height")
    points = [point.split(",") for point in shape.get("points", "").split(";")]
    xs, ys = [float(point[0]) for point in points], [float(point[-1]) for point in points]
    return min(xs), min(ys), max(xs), max(ys)


def _turned(box: Box, angle: float) -> Box:
    """The box around a box that is turned about its centre."""
    if angle == 0:
        return box
    x1, y1, x2, y2 = box
    x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    dx, dy = w * cos + h * sin, w * sin + h * cos
    return x - dx, y - dy, x + dx, y + dy
