"""The annotation file of PASCAL VOC: one XML an image.

VOC counts pixels from 1 and its boxes include their last pixel: a box over the whole of a W x H
image is (1, 1, W, H). Ours are continuous, with pixel i covering [i, i+1]: the same box is
(0, 0, W, H). So xmin and ymin lose 1 and xmax and ymax stay as they are.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from fastrpn.errors import BadDataError


@dataclass
class Annotation:
    """What one XML says: continuous xyxy boxes in pixels and a class name for each."""

    boxes: np.ndarray  # float32 [G,4]
    names: list[str]
    difficult: np.ndarray  # bool [G]
    size: tuple[int, int] | None  # (height, width); None if the file does not tell


def read_annotation(path: Path) -> Annotation:
    """Parses one file of `Annotations/`. Raises BadDataError naming the file."""
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise BadDataError(f"{path}: cannot read the annotation ({error.strerror})") from error
    except ElementTree.ParseError as error:
        raise BadDataError(f"{path}: broken XML ({error})") from error

    boxes, names, difficult = [], [], []
    for number, element in enumerate(root.findall("object"), start=1):
        where = f"{path}: object {number}"
        names.append(_text(element, "name", where))
        difficult.append((element.findtext("difficult") or "0").strip() == "1")
        corners = [
            _number(element, f"bndbox/{tag}", where) for tag in ("xmin", "ymin", "xmax", "ymax")
        ]
        boxes.append(np.subtract(corners, (1, 1, 0, 0)))

    height, width = (root.findtext(f"size/{tag}", "").strip() for tag in ("height", "width"))
    known = height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0
    return Annotation(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        names=names,
        difficult=np.array(difficult, bool),
        size=(int(height), int(width)) if known else None,
    )


def format_annotation(filename: str, annotation: Annotation) -> str:
    """The XML text of an annotation whose boxes have integer coordinates."""
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


def _text(element: ElementTree.Element, tag: str, where: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise BadDataError(f"{where} has no <{tag.replace('/', '><')}>")
    return text


def _number(element: ElementTree.Element, tag: str, where: str) -> float:
    text = _text(element, tag, where)
    try:
        return float(text)
    except ValueError:
        raise BadDataError(f"{where}: <{tag.replace('/', '><')}> is {text!r}, no number") from None
