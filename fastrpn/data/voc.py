"""The PASCAL VOC reader (Everingham et al., "The PASCAL Visual Object Classes Challenge")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastrpn.data.dataset import AnnotatedImages, Sample, check_boxes, map_checked, with_background
from fastrpn.data.voc_xml import Annotation, read_annotation
from fastrpn.errors import BadDataError, BadDataPolicy
from fastrpn.images import read_image

_SUFFIXES = (".jpg", ".jpeg", ".png")


class VOCDataset(AnnotatedImages):
    """A folder in the layout of VOC2007.

        root/Annotations/<id>.xml
        root/JPEGImages/<id>.jpg          (.jpeg and .png are found too)
        root/ImageSets/Main/<set>.txt     one id a line; what follows the id is ignored
        root/classes.txt                  optional: one class a line

    Everything is read and checked here, images decoded once included, so that no bad file ends a
    run hours later. Objects marked `difficult` get target["ignore"]. `image_id` is the line number
    in the image set, from 0, whatever was skipped, and `ids[image_id]` what the line says.

    Args:
        root: the folder that holds Annotations, JPEGImages and ImageSets.
        image_set: "train", "val", "trainval", "test", ...
        classes: class names, with or without "__background__" in front. Default: classes.txt if it
            is there, else the sorted names that occur in this image set.
        on_bad_data: "stop" raises at the first bad sample, "skip" leaves it out, notes it in
            `skipped` and warns.

    Raises:
        BadDataError: missing image set, nothing usable in it, or (with "stop") a missing or broken
            image, a missing or broken XML, a box outside the image or without positive size, an
            unknown class, an image of another size than the XML says. The message names the file.
    """

    def __init__(
        self,
        root: str | Path,
        image_set: str,
        classes: Sequence[str] | None = None,
        on_bad_data: str = "stop",
    ):
        self.root = Path(root)
        self.ids = _read_image_set(self.root, image_set)
        policy = BadDataPolicy(on_bad_data)
        parsed = map_checked(self._parse, enumerate(self.ids), policy)
        if classes is None:
            classes = _read_classes_file(self.root) or sorted(
                {name for _, _, annotation in parsed for name in annotation.names}
            )
        if not classes:
            raise BadDataError(f"{self.root}: empty data set, no object in {image_set!r}")
        self.classes = with_background(classes)
        samples = map_checked(self._build, parsed, policy)
        policy.report(total=len(self.ids))
        if not samples:
            raise BadDataError(f"{self.root}: empty data set, no usable image in {image_set!r}")
        super().__init__(samples, self.classes, policy.skipped)

    def _parse(self, numbered_id: tuple[int, str]) -> tuple[int, str, Annotation]:
        number, name = numbered_id
        return number, name, read_annotation(self._annotation_path(name))

    def _build(self, parsed: tuple[int, str, Annotation]) -> Sample:
        number, name, annotation = parsed
        where = self._annotation_path(name)
        image_path = self._image_path(name)
        size = read_image(image_path).shape[:2]
        if annotation.size not in (None, size):
            raise BadDataError(
                f"{where}: says height and width are {annotation.size}, but {image_path} has {size}"
            )
        unknown = set(annotation.names) - set(self.classes[1:])
        if unknown:
            known = ", ".join(self.classes[1:])
            raise BadDataError(f"{where}: unknown class {min(unknown)!r} (known: {known})")
        return Sample(
            image_path=image_path,
            image_id=number,
            size=size,
            boxes=check_boxes(annotation.boxes, size, str(where)),
            labels=np.array([self.classes.index(n) for n in annotation.names], np.int64),
            ignore=annotation.difficult,
        )

    def _annotation_path(self, name: str) -> Path:
        return self.root / "Annotations" / f"{name}.xml"

    def _image_path(self, name: str) -> Path:
        candidates = [self.root / "JPEGImages" / f"{name}{suffix}" for suffix in _SUFFIXES]
        return next((path for path in candidates if path.exists()), candidates[0])


def _read_image_set(root: Path, image_set: str) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{image_set}.txt"
    if not path.is_file():
        sets = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        raise BadDataError(f"{path}: no such image set (there are: {sets})")
    ids = [
        line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    if not ids:
        raise BadDataError(f"{path}: empty data set, the file names no image")
    return ids


def _read_classes_file(root: Path) -> list[str] | None:
    path = root / "classes.txt"
    if not path.is_file():
        return None
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
