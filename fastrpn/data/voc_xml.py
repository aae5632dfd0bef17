"""The annotation file of PASCAL VOC, as RectLabel and LabelImg write it, too: one XML an image.

VOC counts pixels from 1 and its boxes include their last pixel: a box over the whole of a W x H
image is (1, 1, W, H). Ours are continuous, with pixel i covering [i, i+1]: the same box is
(0, 0, W, H). So xmin and ymin lose 1 and xmax and ymax stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

import numpy as np

from fastrpn.data.collect import LARGEST_SIDE
from fastrpn.data.text_files import read_xml
from fastrpn.errors import BadDataError


@dataclass
class Annotation:
    """What one XML says: continuous xyxy boxes in pixels and a class name for each."""

    boxes: np.ndarray  # float32 [G,4]
    names: list[str]
    difficult: np.ndarray  # bool [G]
    size: tuple[int, int] | None  # (height, width); None if the file does not tell
    filename: str = ""  # of the image; "" if the file does not tell
    numbers: tuple[int, ...] = ()  # of the objects in the file, from 1
    bad: tuple[BadDataError, ...] = ()  # objects that cannot be read


def read_annotation(path: Path) -> Annotation:
    """Parses one file of `Annotations/`. Raises BadDataError naming the file."""
    root = read_xml(path)
    boxes, names, difficult, numbers, bad = [], [], [], [], []
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            name = _text(element, "name", f"{path}: object {number}")
            box = _box(element, f"{path}: object {number}")
        except BadDataError as error:
            bad.append(error)
            continue
        boxes.append(box)
        names.append(name)
        difficult.append((element.findtext("difficult") or "0").strip() == "1")
        numbers.append(number)
    height, width = (_whole(root.findtext(f"size/{tag}")) for tag in ("height", "width"))
    return Annotation(
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        names=names,
        difficult=np.array(difficult, bool),
        size=(height, width) if height and width else None,
        filename=(root.findtext("filename") or "").strip(),
        numbers=tuple(numbers),
        bad=tuple(bad),
    )


def format_annotation(filename: str, annotation: Annotation) -> str:
    """The XML text of an annotation whose boxes have integer coordinates."""
    if annotation.size is None:
        raise ValueError(f"annotation of {filename} has no size")
    height, width = annotation.size
    lines = [
        "<annotation>",
        f"  <filename>{escape(filename)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for box, name, difficult in zip(
        annotation.boxes, annotation.names, annotation.difficult, strict=True
    ):
        xmin, ymin, xmax, ymax = (int(v) for v in np.add(box, (1, 1, 0, 0)))
        lines += [
            "  <object>",
            f"    <name>{escape(name)}</name>",
            f"    <difficult>{int(difficult)}</difficult>",
            f"    <bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
            f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _box(element: Element, where: str) -> tuple[float, float, float, float]:
    """xyxy of an object's <bndbox>, or else around its <polygon>."""
    polygon = element.find("polygon")
    if element.find("bndbox") is None and polygon is not None:
        points: dict[str, list[float]] = {axis: [] for axis in "xy"}
        for point in polygon.iter():
            text = point.text or ""
            if point.tag[:1] in points and text.strip():
                points[point.tag[:1]].append(_number_of(text, point.tag, where))
        xs, ys = points["x"], points["y"]
        if xs and ys:
            return min(xs), min(ys), max(xs), max(ys)
    corners = [_number(element, f"bndbox/{tag}", where) for tag in ("xmin", "ymin", "xmax", "ymax")]
    return corners[0] - 1, corners[1] - 1, corners[2], corners[3]


def _text(element: Element, tag: str, where: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise BadDataError(f"{where} has no <{tag.replace('/', '><')}>", "no class or no box")
    return text


def _number(element: Element, tag: str, where: str) -> float:
    return _number_of(_text(element, tag, where), tag, where)


def _number_of(text: str, tag: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        what = f"<{tag.replace('/', '><')}> is {text.strip()!r:.80}, no number"
        raise BadDataError(f"{where}: {what}", "no number") from None


def _whole(text: str | None) -> int | None:
    """A side of an image in pixels, or None where the text says nothing that can be true."""
    try:
        side = float(text or "")
    except ValueError:
        return None
    return int(side) if 1 <= side <= LARGEST_SIDE and side.is_integer() else None
