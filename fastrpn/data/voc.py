"""The PASCAL VOC reader (Everingham et al., "The PASCAL Visual Object Classes Challenge")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fastrpn.data.collect import Collector, ImageFolder
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.data.text_files import read_lines
from fastrpn.data.voc_xml import Annotation, read_annotation
from fastrpn.errors import BadDataError, BadDataPolicy


class VOCDataset(AnnotatedImages):
    """A folder in the layout of VOC2007.

        root/Annotations/<id>.xml
        root/JPEGImages/<id>.jpg          (any suffix of an image will do)
        root/ImageSets/Main/<set>.txt     one id a line; a -1, 0 or 1 behind it is ignored
        root/classes.txt                  optional: one class a line

    Where there is no ImageSets, the set "" is every XML of Annotations, or of the folder itself
    with the images beside them, as RectLabel and LabelImg save them.

    Opening reads the annotations and, where one says no size, the image's header; see
    :class:`AnnotatedImages` for what decoding may find later. Objects marked `difficult` get
    target["ignore"]. `image_id` is the line number in the image set, from 0, whatever was left out,
    and `ids[image_id]` what the line says.

    Args:
        root: the folder that holds Annotations, JPEGImages and ImageSets.
        image_set: "train", "val", "trainval", "test", ... or "".
        classes: names of the classes to keep, with or without "__background__" in front. Default:
            classes.txt if it is there, else the sorted names that occur in this image set.
        on_bad_data, over_edge, exif: see :func:`fastrpn.data.open_dataset`.

    Raises:
        BadDataError: a missing image set, nothing usable in it, or what `on_bad_data` does not
            leave out. The message names the file.
    """

    def __init__(
        self,
        root: str | Path,
        image_set: str,
        classes: Sequence[str] | None = None,
        on_bad_data: str = "drop",
        over_edge: str = "clip",
        exif: bool = False,
    ) -> None:
        self.root = Path(root)
        bad = BadDataPolicy(on_bad_data)
        has_folders = (self.root / "Annotations").is_dir()
        self._annotations = ImageFolder(self.root / "Annotations" if has_folders else self.root)
        self._images = ImageFolder(self.root / "JPEGImages" if has_folders else self.root)
        self.ids = self._read_image_set(image_set)
        name = f"{self.root}: image set {image_set!r}" if image_set else str(self.root)
        collector = Collector(name, bad, over_edge, exif)
        for number, image in enumerate(self.ids):
            where = Path(self._annotations.root, f"{image}.xml")
            try:
                annotation = read_annotation(where)
                path = self._image_path(image, annotation, str(where))
            except BadDataError as error:
                bad.bad_file(error)
                continue
            for fault in annotation.bad:
                bad.bad_object(fault)
            objects = zip(
                annotation.boxes.tolist(),
                annotation.names,
                annotation.difficult.tolist(),
                annotation.numbers,
                strict=True,
            )
            collector.add(str(where), path, number, annotation.size, objects)
        samples, names = collector.finish(classes, self._declared_classes())
        super().__init__(samples, names, bad, exif)

    def _image_path(self, name: str, annotation: Annotation, where: str) -> str:
        """By the id; <filename> decides between images that differ in their suffix alone."""
        named = Path(annotation.filename.replace("\\", "/")).name
        if named and Path(named).stem == Path(name).name:
            try:
                return self._images.find(str(Path(name).with_name(named)), where)
            except BadDataError:
                pass  # renamed or converted since
        found = self._images.find_stem(name)
        return found or self._images.find(f"{name}.jpg", where)

    def _read_image_set(self, image_set: str) -> list[str]:
        if not image_set:
            listed = sorted(self._annotations.names_in(self._annotations.root))
            return [name[:-4] for name in listed if name.lower().endswith(".xml")]
        path = self.root / "ImageSets" / "Main" / f"{image_set}.txt"
        if not path.is_file():
            sets = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
            raise BadDataError(f"{path}: no such image set (there are: {sets})", "no such set")
        ids = [self._id_of(line) for line in read_lines(path)]
        if not ids:
            text = f"{path}: empty data set, the file names no image"
            raise BadDataError(text, "empty data set")
        return ids

    def _id_of(self, line: str) -> str:
        """The id in a line of an image set: names may hold spaces, and a class's sets of VOC put a
        -1, 0 or 1 behind them."""
        folder, name = self._annotations.root, f"{line}.xml"
        flagged = None if name in self._annotations.names_in(folder) else _FLAGGED.match(line)
        return flagged[1] if flagged else line

    def _declared_classes(self) -> list[str] | None:
        path = self.root / "classes.txt"
        return list(dict.fromkeys(read_lines(path))) if path.is_file() else None


_FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)$")
