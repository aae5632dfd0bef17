"""labelme: one JSON an image, beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fastrpn.data.collect import Box, Collector, ImageFolder, Object, stated_size
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.data.text_files import Anything, read_json
from fastrpn.errors import BadDataError, BadDataPolicy


class _Shape(msgspec.Struct):
    label: Any = None
    points: Any = None
    shape_type: Any = None


class LabelmeFile(msgspec.Struct):
    """What is read of a file; imageData, the image once more, is not."""

    shapes: list[_Shape | Anything]
    imagePath: Any = None  # noqa: N815, labelme's spelling
    imageHeight: Any = None  # noqa: N815
    imageWidth: Any = None  # noqa: N815


class LabelmeDataset(AnnotatedImages):
    """A folder of images with labelme's JSON files beside them.

    Boxes are the rectangles, and what lies around polygons, circles, lines and masks. `image_id`
    counts the JSON files in the order of their names. Pixels count from 0.

    Args:
        root: the folder.
        classes, on_bad_data, over_edge, exif: see :func:`fastrpn.data.open_dataset`.

    Raises:
        BadDataError: see :func:`fastrpn.data.open_dataset`.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None = None,
        on_bad_data: str = "drop",
        over_edge: str = "clip",
        exif: bool = False,
    ) -> None:
        self.root = Path(root)
        bad = BadDataPolicy(on_bad_data)
        folder = ImageFolder(self.root)
        collector = Collector(str(self.root), bad, over_edge, exif, "shape {}")
        for number, file in enumerate(sorted(self.root.glob("*.json"))):
            try:
                content = read_json(file, LabelmeFile, "annotation of labelme")
                path = _image_path(folder, file, content.imagePath)
            except BadDataError as error:
                bad.bad_file(error)
                continue
            objects: list[Object] = []
            for row, shape in enumerate(content.shapes, start=1):
                try:
                    box, name = _box_and_name(shape, f"{file}: shape {row}")
                except BadDataError as error:
                    bad.bad_object(error)
                else:
                    objects.append((box, name, False, row))
            collector.add(
                str(file),
                path,
                number,
                stated_size(content.imageHeight, content.imageWidth),
                objects,
            )
        samples, names = collector.finish(classes)
        super().__init__(samples, names, bad, exif)


def _image_path(folder: ImageFolder, file: Path, named: Any) -> str:
    """The image that the file names, or the one of its own name."""
    name = Path(named.replace("\\", "/")).name if isinstance(named, str) else ""
    beside = folder.find_stem(file.stem)
    if name in folder.names_in(folder.root) or beside is None:
        return folder.find(name or f"{file.stem}.jpg", str(file))
    return beside


def _box_and_name(shape: Any, where: str) -> tuple[Box, str]:
    label = (
        str(shape.label).strip() if isinstance(shape, _Shape) and shape.label is not None else ""
    )
    if not label:
        raise BadDataError(f"{where} has no label", "no class or no box")
    try:
        points = [(float(x), float(y)) for x, y in shape.points]
    except (TypeError, ValueError, OverflowError) as error:
        raise BadDataError(f"{where}: points are {shape.points!r:.80}", "no box") from error
    if shape.shape_type == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return (x - radius, y - radius, x + radius, y + radius), label
    if len(points) < 2:
        raise BadDataError(f"{where}: {len(points)} points have no box", "no box")
    xs, ys = zip(*points, strict=True)
    return (min(xs), min(ys), max(xs), max(ys)), label
